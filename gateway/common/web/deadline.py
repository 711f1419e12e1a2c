"""How long a message or body of a client may take. Pure."""

__all__ = ["latest_end"]

_BYTES_PER_SECOND = 4 << 10


def latest_end(began: float, size: int, timeout: float) -> float:
    """When a message has to be complete of which `size` bytes have come: a slow line is not taken for an attack."""
    return began + timeout + size / _BYTES_PER_SECOND
