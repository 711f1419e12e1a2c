"""One way to a backend: which upstream, the request's and the response's headers, HTTP and WebSocket upgrades."""
