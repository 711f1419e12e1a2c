"""The answer of a WebSocket server to the key of a handshake (RFC 6455 section 4.2.2). Pure."""

import binascii
import hashlib

__all__ = ["accept_for"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_for(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that belongs to this `Sec-WebSocket-Key`."""
    return binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
