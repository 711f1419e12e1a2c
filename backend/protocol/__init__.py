"""The chat protocol: what clients send, what the server sends, and the documents that show it."""
