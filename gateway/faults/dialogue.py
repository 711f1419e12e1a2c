"""Follows HTTP/1.1 and WebSockets on one connection, as far as faults need it. Pure.

Heads are returned whole, everything else as it comes. It is a test's instrument and no parser to rely on: a request
begins where a request line does after a response has, and of a response's framing only its end is looked for.
"""

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

from moorline.gateway.common.web.frames import Event, FrameParser
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS

__all__ = ["Dialogue", "Follower", "Head"]

_END = b"\r\n\r\n"
# Or what may become one.
_METHOD = re.compile(rb"[A-Z]{1,16}(?: |\Z)")
_UPGRADE = re.compile(rb"(?im)^Upgrade: *websocket *\r?$")
_LENGTH = re.compile(rb"(?im)^Content-Length: *(\d+) *\r?$")
_CHUNKED = re.compile(rb"(?im)^Transfer-Encoding:.*chunked *\r?$")
_LAST_CHUNK = b"0\r\n\r\n"
# A line that ends with LF alone: such headers are refused, and their end would be waited for in vain.
_BARE_LF = re.compile(rb"(?<!\r)\n")
# What is longer is passed on as it comes: no header is looked for in it.
_MAX_HEAD = 1 << 17


class Head(NamedTuple):
    """The start line and the headers of a request or a response, with the empty line."""

    data: bytes

    @property
    def target(self) -> str:
        """Of a request."""
        return self.data.split(b" ", 2)[1].decode("latin-1")

    @property
    def upgrades(self) -> bool:
        """Of a request: to a WebSocket."""
        return _UPGRADE.search(self.data) is not None

    @property
    def status(self) -> int:
        """Of a response; 0 where there is none."""
        word = self.data.split(b" ", 2)[1:2]
        return int(word[0][:3]) if word and word[0][:3].isdigit() else 0

    @property
    def is_final(self) -> bool:
        """Of a response: no interim one."""
        return self.status >= 200 or self.status == SWITCHING_PROTOCOLS


class _Expects(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()


class Dialogue:
    """What client and server of one connection send each other."""

    def __init__(self) -> None:
        self.websocket = False
        """A 101 has passed."""
        self._from_client = self._from_server = _Expects.HEAD
        self._request = self._response = b""
        self._left: int | None = 0
        """Bytes to come of the response's body; None: until its last chunk or the end of the connection."""
        self._chunked = False
        self._tail = b""

    @property
    def in_response(self) -> bool:
        """The headers of a response have passed, and not its end; always on a WebSocket."""
        return self.websocket or self._left != 0

    def from_client(self, data: bytes) -> Sequence[Head | bytes]:
        if self.websocket or self._from_client is _Expects.BODY:
            return [data]
        self._request += data
        if not _METHOD.match(self._request) or len(self._request) > _MAX_HEAD:
            return self._not_a_head()
        head, end, rest = self._request.partition(_END)
        if not end:
            return self._not_a_head() if _BARE_LF.search(self._request) else []
        self._request, self._from_client, self._from_server = b"", _Expects.BODY, _Expects.HEAD
        return [Head(head + end), *([rest] if rest else [])]

    def _not_a_head(self) -> Sequence[bytes]:
        data, self._request = self._request, b""
        return [data]

    def from_server(self, data: bytes) -> Sequence[Head | bytes]:
        if self.websocket or self._from_server is _Expects.BODY:
            self._count(data)
            return [data]
        self._response += data
        if len(self._response) > _MAX_HEAD:
            return [self.flush()]
        found: list[Head | bytes] = []
        while self._response:
            head, end, rest = self._response.partition(_END)
            if not end:
                return [*found, self.flush()] if _BARE_LF.search(self._response) else found
            found.append(passed := Head(head + end))
            self._response = rest
            if passed.is_final:
                self._begin(passed)
                body = self.flush()
                return [*found, *(self.from_server(body) if body else [])]
        return found

    def flush(self) -> bytes:
        """What has come of a response's headers when the server ends."""
        data, self._response = self._response, b""
        return data

    def _begin(self, head: Head) -> None:
        self._from_server = _Expects.BODY
        self.websocket = head.status == SWITCHING_PROTOCOLS
        self._from_client = _Expects.HEAD
        length = _LENGTH.search(head.data)
        self._chunked, self._tail = _CHUNKED.search(head.data) is not None, b""
        if head.status in (204, 304):
            self._left = 0
        else:
            self._left = int(length[1]) if length is not None else None

    def _count(self, data: bytes) -> None:
        if self._left:
            self._left = max(0, self._left - len(data))
        elif self._left is None and self._chunked:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            if self._tail == _LAST_CHUNK:
                self._left = 0


class Follower:
    """The frames of one direction: where they end, and which of them are Pongs.

    Everything is passed on as it comes; only where Pongs are dropped is a header or a control frame that is not whole
    kept back until it is.
    """

    def __init__(self) -> None:
        self._parser = FrameParser()
        self._parser.report_pongs(on=True)
        self._partial = b""
        """What has come of a header or a control frame."""
        self._passed = 0
        """How much of that was passed on."""

    def receive(self, data: bytes, *, drop_pongs: bool) -> bytes:
        """What is to be passed on now."""
        passed = bytearray()
        while data:
            taken, found = self._parser.feed(data)
            before, data, rest = len(self._partial), self._partial + data[:taken], data[taken:]
            at = self._passed
            for each in found:
                if drop_pongs and each.event is Event.PONG and before + each.start >= at:
                    passed += data[at : before + each.start]
                    at = before + each.end
            start = len(data) - len(self._parser.partial)
            end = max(at, start) if drop_pongs else len(data)
            passed += data[at:end]
            self._partial, self._passed, data = data[start:], end - start, rest
        return bytes(passed)

    def to_boundary(self, data: bytes) -> int | None:
        """How many of the next bytes belong to the present frame. None: it goes on behind them."""
        return self._parser.to_boundary(data)

    def flush(self) -> bytes:
        """What is kept back when the stream ends."""
        kept, self._partial, self._passed = self._partial[self._passed :], b"", 0
        return kept
