"""Requests and responses of aiohttp's whose headers are passed on as they came.

aiohttp reads bytes that are not UTF-8 into surrogates, and drops these when it writes; it also adds a Content-Type and
a Server header where there was none. A proxy must do neither.
"""

import re
from collections.abc import Iterable
from email.utils import formatdate

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from moorline.gateway.common.web.aiohttp_private import RewrittenRequest
from moorline.gateway.errors import BackendGarbled
from multidict import CIMultiDict

__all__ = ["VerbatimRequest", "VerbatimResponse"]

# As aiohttp's own writer: all but the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile(r"[\udc80-\udcff]")
# RFC 9110 sections 15.3.5 and 15.4.5.
_WITHOUT_BODY = frozenset({204, 304})


class VerbatimRequest(RewrittenRequest):
    """For `ClientSession(request_class=…)`."""

    def rewritten(self) -> bytes | None:
        fields = self.headers.items()
        if not any(not value.isascii() and _SURROGATE.search(value) for _, value in fields):
            return None
        return _head(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", fields)


class VerbatimResponse(web.StreamResponse):
    """A `StreamResponse` with the status line and headers of another server; only the framing is aiohttp's.

    It writes its headers itself: aiohttp's own way to them has no public hook.
    """

    def __init__(self, *, status: int, reason: str | None, headers: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._writer: AbstractStreamWriter | None = None
        self._persistent: bool | None = None

    @property
    def prepared(self) -> bool:
        return self._writer is not None

    @property
    def keep_alive(self) -> bool | None:
        return self._persistent

    def force_close(self) -> None:
        self._persistent = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers.

        Raises:
            BackendGarbled: a control character in one of them.
        """
        if self._writer is not None:
            return self._writer
        writer = request.writer
        chunked = self._frame(request)
        if isinstance(request, web.Request):
            for app in request.match_info.apps:
                await app.on_response_prepare.send(request, self)
        major, minor = request.version
        try:
            head = _head(f"HTTP/{major}.{minor} {self.status} {self.reason}", self.headers.items())
        except ValueError as error:
            raise BackendGarbled("a control character in the headers") from error
        self._writer = writer
        await writer.write(head)
        if chunked:
            writer.enable_chunking()
        return writer

    def _frame(self, request: web.BaseRequest) -> bool:
        """Set the headers of this hop; whether the body goes in chunks."""
        without_body = request.method == hdrs.METH_HEAD or self.status in _WITHOUT_BODY
        if self.status in _WITHOUT_BODY:
            self.headers.popall(hdrs.CONTENT_LENGTH, None)
        unknown_length = not without_body and hdrs.CONTENT_LENGTH not in self.headers
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
        chunked = unknown_length and request.version >= HttpVersion11
        if chunked:
            self.headers[hdrs.TRANSFER_ENCODING] = "chunked"
        if hdrs.DATE not in self.headers:
            self.headers[hdrs.DATE] = formatdate(usegmt=True)
        if self._persistent is None:
            self._persistent = request.keep_alive and (chunked or not unknown_length)
        if not self._persistent:
            self.headers[hdrs.CONNECTION] = "close"
        elif request.version < HttpVersion11:
            self.headers[hdrs.CONNECTION] = "keep-alive"
        return chunked

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self._writer is not None, "it is prepared"
        await self._writer.write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        assert self._writer is not None, "it is prepared"
        await self._writer.write_eof(data)


def _head(start: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """The start line and these fields as they are sent.

    Raises:
        ValueError: a control character in one of them.
    """
    lines = [start, *(f"{name}: {value}" for name, value in fields)]
    if any(_CONTROL.search(line) for line in lines):
        raise ValueError("a control character in a header field")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")
