"""As much of HTTP/1.1 (RFC 9112) as both ends of a measurement need: where a message ends. Pure."""

import enum
import re

__all__ = ["Messages", "request"]

# What a browser sends with each fetch; short ones would flatter programs that copy each header.
_BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept: */*",
    "Accept-Language: en-US,en;q=0.9",
    "Accept-Encoding: gzip, deflate, br",
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LINE_END = 2


def request(path: str, *, body: int = 0) -> bytes:
    """A GET as a browser sends it; a POST where the size of a body is given."""
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: 127.0.0.1", *_BROWSER]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {body}"]
    return "\r\n".join([*lines, "", ""]).encode() + b"x" * body


class _Phase(enum.Enum):
    HEADERS = enum.auto()
    BODY = enum.auto()
    CHUNKS = enum.auto()


class Messages:
    """Finds the ends of requests, or of responses, in a stream; bodies are counted and dropped.

    A message with neither Content-Length nor chunks is taken to have no body, and chunks to have no trailer.
    """

    def __init__(self) -> None:
        self._phase = _Phase.HEADERS
        self._headers = b""
        self._held = b""
        self._size = 0
        # Bytes to drop before the next line.
        self._left = 0

    def receive_data(self, data: bytes) -> list[tuple[bytes, int]]:
        """The messages that end in these bytes: first line and headers, and the size of the body."""
        found: list[tuple[bytes, int]] = []
        data, self._held = self._held + data, b""
        place = 0
        while self._left <= len(data) - place:
            place, self._left = place + self._left, 0
            if self._phase is _Phase.BODY:
                found.append((self._headers, self._size))
                self._phase = _Phase.HEADERS
            separator = b"\r\n\r\n" if self._phase is _Phase.HEADERS else b"\r\n"
            end = data.find(separator, place)
            if end < 0:
                self._held = data[place:]
                return found
            self._line(data[place:end])
            place = end + len(separator)
        self._left -= len(data) - place
        return found

    def _line(self, text: bytes) -> None:
        """Headers, or the size of a chunk."""
        if self._phase is _Phase.CHUNKS:
            size = int(text.partition(b";")[0], 16)
            self._size += size
            self._left = size + _LINE_END
            self._phase = _Phase.CHUNKS if size else _Phase.BODY
            return
        length = _LENGTH.search(text)
        self._headers = text
        self._left = self._size = int(length[1]) if length else 0
        self._phase = _Phase.CHUNKS if _CHUNKED.search(text) else _Phase.BODY
