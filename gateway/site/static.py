"""Static assets of the frontend folder: files, index pages, precompressed siblings and the SPA fallback.

Here is decided which file it is and what of it is sent. The rules of names stand in `assets`, those of conditions and
ranges in `conditions`; the files are in `files`.
"""

import asyncio
import dataclasses
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from aiohttp import hdrs, web
from multidict import CIMultiDict

from moorline.gateway.common.config.urls import shown_value
from moorline.gateway.common.errors import UsageError
from moorline.gateway.errors import Unavailable, accepts_page, is_shortage
from moorline.gateway.site import assets
from moorline.gateway.site.conditions import Unsatisfiable, selected_range, status_by_conditions
from moorline.gateway.site.files import INDEX, Asset, File, Files
from moorline.gateway.site.folder import Folder

__all__ = ["BUILT_IN", "Frontend"]

BUILT_IN = Path(__file__).parent / "frontend"
# Of a file, sent while the client takes it: what one that does not read has of it.
_PIECE = 256 << 10
_NOT_MODIFIED = 304
# Of a site that has one, as Astro's 404.astro becomes.
_ERROR_PAGE = ("404.html",)
# Where Prometheus asks by default. The page would pass for an exposition without a sample.
_METRICS = ("metrics",)


_CSP = "Content-Security-Policy"
# An address of a dev server in other words: `localhost:5173`, `:5173`, `5173`, `ws://localhost:5173`.
_HOST_AND_PORT = re.compile(r"(?:wss?://)?(?:([\w.-]*):)?(\d{1,5})/?")


@dataclasses.dataclass(frozen=True, slots=True)
class _Reply:
    """What of a file answers a request."""

    status: int
    headers: CIMultiDict[str]
    start: int = 0
    end: int = 0


_Read = Callable[[int, int], Awaitable[bytes | memoryview]]
"""The bytes of a file, so many from this place on."""


class Frontend:
    """One folder of assets. `serve` is its handler for GET and HEAD."""

    def __init__(self, folder: str, *, policy: str = "", recheck: float = 1.0) -> None:
        root = Path(folder) if folder else BUILT_IN
        if not root.is_dir():
            todo = "build the site first, or leave the option out"
            if meant := _HOST_AND_PORT.fullmatch(folder):
                todo = f"for a dev server write http://{meant[1] or 'localhost'}:{meant[2]}"
            raise UsageError(f'frontend: "{shown_value(folder)}" is not a folder; {todo}')
        if not (root / INDEX).is_file():
            raise UsageError(f'frontend: "{folder}" has no {INDEX}; name the folder that the build wrote, often dist')
        self._files = Files(Folder(root), recheck=recheck)
        self._built_in = not folder
        self._policy = policy

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The file at the request's path, or the page whose script knows the path, or 404."""
        names = assets.segments(request.rel_url.raw_path)
        if names is None:
            raise _not_found()
        asset = await self._at(names)
        if asset is None and not assets.is_asset(names):
            asset = await self._page(request, names)
        if asset is None:
            return await self._error_page(request)
        if asset.is_folder:
            return _redirect(request, names)
        file = asset.best(assets.encodings(request.headers.get(hdrs.ACCEPT_ENCODING, "")))
        if file.body is None:
            return await self._from_disk(request, file)
        return await _from_memory(request, self._reply(request, file), file.body)

    async def _page(self, request: web.Request, names: tuple[str, ...]) -> Asset | None:
        """The page of a path without a file: `about.html` for `/about`, else the one whose script knows the path. A
        site with an error page of its own has a file for each path that it knows.
        """
        if names[-1] and (page := await self._at((*names[:-1], names[-1] + ".html"))) is not None:
            return page
        if names == _METRICS and not accepts_page(request.headers.get(hdrs.ACCEPT, "")):
            raise _not_found("Metrics have a port of their own; see metrics_port.")
        return None if await self._at(_ERROR_PAGE) is not None else await self._at((INDEX,))

    async def _error_page(self, request: web.Request) -> web.StreamResponse:
        """404, with the site's own page where a page was asked for."""
        asset = await self._at(_ERROR_PAGE) if accepts_page(request.headers.get(hdrs.ACCEPT, "")) else None
        if asset is None or (body := asset.files[""].body) is None:
            raise _not_found()
        headers = self._headers(request, asset.files[""])
        for validator in (hdrs.ETAG, hdrs.LAST_MODIFIED, hdrs.ACCEPT_RANGES, hdrs.VARY):
            del headers[validator]
        headers[hdrs.CACHE_CONTROL] = "no-store"
        return await _from_memory(request, _Reply(404, headers, 0, len(body)), body)

    async def _at(self, names: tuple[str, ...]) -> Asset | None:
        if names[-1] == "":
            names = (*names[:-1], INDEX)
        # An empty name would let `//etc` and `a//b` stand for other paths than they read.
        if "" in names:
            return None
        try:
            return await self._files.at(names)
        except OSError as error:
            raise _unreadable(error) from error

    # Answering --------------------------------------------------------------------------------------------------------

    def _headers(self, request: web.Request, file: File) -> CIMultiDict[str]:
        headers = file.headers.copy()
        if self._built_in:
            # A site of its own may need inline scripts or other hosts; the built-in page needs neither.
            headers[_CSP] = _policy(request.headers.get(hdrs.HOST, ""))
            headers["Referrer-Policy"] = "no-referrer"
        if self._policy:
            headers[_CSP] = self._policy
        return headers

    def _reply(self, request: web.Request, file: File) -> _Reply:
        headers = self._headers(request, file)
        status = status_by_conditions(request.headers, etag=file.etag, modified=file.modified)
        if status == _NOT_MODIFIED:
            return _Reply(_NOT_MODIFIED, headers)
        if status is not None:
            return _Reply(status, CIMultiDict({hdrs.CACHE_CONTROL: "no-store"}))
        if request.method != hdrs.METH_GET or hdrs.RANGE not in request.headers:
            return _Reply(200, headers, 0, file.size)
        try:
            part = selected_range(request.headers, etag=file.etag, modified=file.modified, size=file.size)
        except Unsatisfiable:
            wanted = {hdrs.CONTENT_RANGE: f"bytes */{file.size}", hdrs.CACHE_CONTROL: "no-store"}
            return _Reply(416, CIMultiDict(wanted))
        if part is None:
            return _Reply(200, headers, 0, file.size)
        start, end = part
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{file.size}"
        return _Reply(206, headers, start, end)

    async def _from_disk(self, request: web.Request, file: File) -> web.StreamResponse:
        try:
            opened = await self._files.open(file)
        except OSError as error:
            raise _unreadable(error) from error
        if opened is None:
            raise _not_found()
        file, descriptor = opened

        async def read(size: int, place: int) -> bytes:
            # uvloop has no sendfile.
            return await asyncio.to_thread(os.pread, descriptor, size, place)

        try:
            return await _send(request, self._reply(request, file), read)
        finally:
            # A cancelled read may still be under way; what it gets is dropped, and pread moves no file's position.
            os.close(descriptor)


async def _from_memory(request: web.Request, reply: _Reply, body: bytes) -> web.StreamResponse:
    if reply.end - reply.start <= _PIECE:
        return web.Response(status=reply.status, headers=reply.headers, body=body[reply.start : reply.end])

    async def read(size: int, place: int) -> memoryview:
        return memoryview(body)[place : place + size]

    return await _send(request, reply, read)


async def _send(request: web.Request, reply: _Reply, read: _Read) -> web.StreamResponse:
    """Piece by piece; the writer waits where the client does."""
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if reply.status != _NOT_MODIFIED:
        response.content_length = reply.end - reply.start
    await response.prepare(request)
    place = reply.start
    while request.method == hdrs.METH_GET and place < reply.end:
        piece = await read(min(_PIECE, reply.end - place), place)
        if not piece:
            raise ConnectionResetError("the file was cut while it was sent")
        place += len(piece)
        await response.write(piece)
    await response.write_eof()
    return response


def _redirect(request: web.Request, names: Sequence[str]) -> web.StreamResponse:
    # Relative, so that it holds behind any proxy; "./" keeps a name with a colon from being read as a scheme.
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    location = f"./{quote(names[-1])}/{query}"
    return web.Response(status=308, headers={hdrs.LOCATION: location, hdrs.CACHE_CONTROL: "no-cache"})


def _policy(host: str) -> str:
    """The page's Content-Security-Policy. Older Safari does not count wss: as 'self', so the host is named."""
    sockets = f" ws://{host} wss://{host}" if host else ""
    return (
        f"default-src 'self'; connect-src 'self'{sockets}; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


def _not_found(text: str = "There is nothing at this address.") -> web.HTTPNotFound:
    # A deployment may be under way: no cache may keep the 404.
    return web.HTTPNotFound(text=text, headers={hdrs.CACHE_CONTROL: "no-store"})


def _unreadable(error: OSError) -> Exception:
    if is_shortage(error):
        return Unavailable("The gateway has too many open files at the moment.")
    return _not_found()
