"""/-/moorline: the sockets of this gateway as they are, and why the last ones ended."""
