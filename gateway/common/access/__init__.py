"""Access control of both parts: Host, Origin, trusted proxies, and the authorize hook."""
