"""One way to an upstream: its choice, connections, requests and responses, for HTTP and for WebSocket upgrades."""
