"""Requests and answers of aiohttp's whose heads go on as they came.

aiohttp reads bytes that are not UTF-8 into surrogates, and drops these when it writes; it also gives a body without a
Content-Type one. A proxy has to do neither. What it keeps for itself is touched only where a head needs it.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import ClientRequest, ClientResponse, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from moorline.gateway.errors import BackendGarbled

if TYPE_CHECKING:
    from aiohttp.connector import Connection

__all__ = ["VerbatimRequest", "VerbatimResponse"]

# As aiohttp's own writer: all but the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile(r"[\udc80-\udcff]")

Fields = Iterable[tuple[str, str]]


class VerbatimRequest(ClientRequest):
    """For `ClientSession(request_class=…)`."""

    async def send(self, conn: "Connection") -> ClientResponse:
        if _has_bytes(self.headers.items()) and self._continue is None:
            # Only a request that waits before its body has `write_bytes` called also where there is none.
            self._continue = self.loop.create_future()
            self._continue.set_result(True)
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: "Connection", content_length: int | None = None
    ) -> None:
        if _has_bytes(self.headers.items()):
            _rewrite(writer, f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers.items())
        await super().write_bytes(writer, conn, content_length)


class VerbatimResponse(web.StreamResponse):
    """A `StreamResponse` with a status line and fields that are somebody else's."""

    # There must be a moment between a head that is written and one that is sent.
    _send_headers_immediately = False

    async def _prepare_headers(self) -> None:
        typed = hdrs.CONTENT_TYPE in self.headers
        await super()._prepare_headers()
        if not typed:
            self.headers.popall(hdrs.CONTENT_TYPE, None)

    async def _write_headers(self) -> None:
        try:
            await super()._write_headers()
        except ValueError as error:
            raise BackendGarbled("a control character in the head") from error
        writer, request = self._payload_writer, self._req
        assert writer is not None, "it is being prepared"
        assert request is not None, "it is being prepared"
        if _has_bytes([("", self.reason), *self.headers.items()]):
            major, minor = request.version
            _rewrite(writer, f"HTTP/{major}.{minor} {self.status} {self.reason}", self.headers.items())
        writer.send_headers()


def _has_bytes(fields: Fields) -> bool:
    return any(not value.isascii() and _SURROGATE.search(value) for _, value in fields)


def _rewrite(writer: AbstractStreamWriter, start: str, fields: Fields) -> None:
    """Put these bytes in the place of the head that waits to be sent."""
    lines = [start, *(f"{name}: {value}" for name, value in fields)]
    if any(_CONTROL.search(line) for line in lines):
        raise ValueError("a control character in a header field")
    assert isinstance(writer, StreamWriter), "aiohttp's own"
    writer._headers_buf = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")
