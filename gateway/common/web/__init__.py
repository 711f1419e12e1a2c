"""HTTP servers of both parts: listening sockets, connections and their limits, the orderly end."""
