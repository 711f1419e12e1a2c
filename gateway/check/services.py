"""Which service it is that does not answer HTTP, by the first bytes that it sends. Pure."""

__all__ = ["service_of"]

_BY_START = (
    (b"SSH-", "an SSH server"),
    (b"+PONG", "a Redis server"),
    (b"-ERR", "a Redis server"),
    (b"-NOAUTH", "a Redis server"),
    (b"-DENIED", "a Redis server"),
    (b"ERROR\r\n", "a memcached server"),
    (b"220 ", "a mail or FTP server"),
    (b"220-", "a mail or FTP server"),
    # A TLS record: an alert, or a handshake (RFC 8446 section 5.1).
    (b"\x15\x03", "a server that speaks TLS"),
    (b"\x16\x03", "a server that speaks TLS"),
    (b"* OK", "an IMAP server"),
    (b"+OK", "a POP3 server"),
    (b"RFB ", "a VNC server"),
    (b"AMQP", "an AMQP broker"),
)


def service_of(data: bytes) -> str:
    """`an SSH server`; empty where the bytes tell nothing."""
    for start, name in _BY_START:
        if data.startswith(start):
            return name
    return ""
