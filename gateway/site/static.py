"""Static assets of the frontend folder: files, index pages, precompressed siblings and the SPA fallback.

`aiohttp.web.FileResponse` does the sending: ETag, conditions, Range, HEAD. Here is decided which file it is; the rules
of names stand in `assets`.
"""

import asyncio
import dataclasses
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.aiohttp_private import CheckedFileResponse
from moorline.gateway.errors import Refused, is_shortage
from moorline.gateway.site import assets
from multidict import CIMultiDict

__all__ = ["BUILT_IN", "Frontend"]

BUILT_IN = Path(__file__).parent / "frontend"
INDEX = "index.html"


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """The file that answers: `names` say what it is, `path` where its bytes (perhaps a compressed sibling's) are."""

    names: tuple[str, ...]
    path: Path
    coding: str | None
    etag: str


class _Redirect(Exception):
    """A folder was asked for without its final slash; relative links of its index page would go astray."""


class Frontend:
    """One folder of assets. `serve` is its handler for GET and HEAD."""

    def __init__(self, folder: str) -> None:
        root = Path(folder) if folder else BUILT_IN
        if not root.is_dir():
            raise UsageError(f'frontend: "{folder}" is not a folder; build the site first, or leave the option out')
        if not (root / INDEX).is_file():
            raise UsageError(f'frontend: "{folder}" has no {INDEX}; name the folder that the build wrote, often dist')
        self._root = root.resolve()
        self._built_in = not folder

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The file at the request's path, or the page whose script knows the path, or 404."""
        names = assets.segments(request.rel_url.raw_path)
        if names is None:
            raise _not_found()
        codings = assets.encodings(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
        try:
            # Disks may be slow or remote; the loop also carries everybody's sockets.
            file = await asyncio.to_thread(self._find, names, codings)
        except _Redirect:
            return self._redirect(request, names)
        if file is None:
            raise _not_found()
        response = _Response(file, self._headers(request, file))
        # Not left to aiohttp, which would answer what goes wrong in here itself.
        await response.prepare(request)
        return response

    # Finding ----------------------------------------------------------------------------------------------------------

    def _find(self, names: tuple[str, ...], codings: Sequence[tuple[str, str]]) -> _File | None:
        found = self._open_for(names, codings)
        if found is not None or assets.is_asset(names):
            return found
        return self._open_for((INDEX,), codings)

    def _open_for(self, names: tuple[str, ...], codings: Sequence[tuple[str, str]]) -> _File | None:
        """The file of exactly these names; for a folder its index page."""
        if names[-1] == "":
            names = (*names[:-1], INDEX)
        # An empty name would let `//etc` and `a//b` stand for other paths than they read.
        if "" in names:
            return None
        plain = self._inside(names)
        if plain is None:
            return None
        if plain.is_dir():
            if (plain / INDEX).is_file():
                raise _Redirect
            return None
        for extension, coding in codings:
            sibling = self._inside((*names[:-1], names[-1] + extension))
            if sibling is not None and (etag := _etag(sibling)):
                return _File(names, sibling, coding, etag)
        etag = _etag(plain)
        return _File(names, plain, None, etag) if etag else None

    def _inside(self, names: Sequence[str]) -> Path | None:
        """The real path of these names, if there is one and no symlink leads it to what no name may stand for."""
        try:
            path = self._root.joinpath(*names).resolve(strict=True)
        except (OSError, RuntimeError):
            # Missing, no permission, a name too long, a loop of symlinks (RuntimeError before Python 3.13).
            return None
        if not path.is_relative_to(self._root):
            return None
        # A link that looks harmless may name a dot-file: `config.txt -> .env`.
        hidden = any(name.startswith(".") for name in path.relative_to(self._root).parts)
        return None if hidden else path

    # Answering --------------------------------------------------------------------------------------------------------

    def _headers(self, request: web.Request, file: _File) -> CIMultiDict[str]:
        headers = CIMultiDict(
            {
                hdrs.CONTENT_TYPE: assets.content_type(file.names[-1]),
                hdrs.CACHE_CONTROL: assets.cache_control(file.names),
                hdrs.VARY: hdrs.ACCEPT_ENCODING,
                "X-Content-Type-Options": "nosniff",
            }
        )
        if file.coding is not None:
            headers[hdrs.CONTENT_ENCODING] = file.coding
        if self._built_in:
            # A site of somebody else's may need inline scripts or other hosts; ours needs neither.
            headers["Content-Security-Policy"] = _policy(request.headers.get(hdrs.HOST, ""))
            headers["Referrer-Policy"] = "no-referrer"
        return headers

    def _redirect(self, request: web.Request, names: Sequence[str]) -> web.StreamResponse:
        # Relative, so that it holds behind any proxy; "./" keeps a name with a colon from being read as a scheme.
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        location = f"./{quote(names[-1])}/{query}"
        return web.Response(status=308, headers={hdrs.LOCATION: location, hdrs.CACHE_CONTROL: "no-cache"})


class _Response(CheckedFileResponse):
    """A FileResponse of a file that is already chosen.

    It hides from `FileResponse` the two request headers that this would misread: Accept-Encoding (it overlooks `q=0`)
    and a Range whose If-Range names another version (it knows only dates there and would mix two versions).
    """

    def __init__(self, file: _File, headers: CIMultiDict[str]) -> None:
        super().__init__(file.path, headers=headers)
        self._etag_now = file.etag

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self.prepared:
            return None
        headers = request.headers.copy()
        headers.popall(hdrs.ACCEPT_ENCODING, None)
        wanted = assets.usable_range(
            headers.popone(hdrs.RANGE, None), request.headers.get(hdrs.IF_RANGE), self._etag_now
        )
        if wanted is not None and request.method == hdrs.METH_GET:
            headers[hdrs.RANGE] = wanted
        return await super().prepare(request.clone(headers=headers))

    def file_error(self, error: OSError) -> Exception:
        if is_shortage(error):
            return Refused("The gateway has too many open files at the moment.")
        # Removed meanwhile. aiohttp's 404 would have the file's own Cache-Control.
        return _not_found()


def _etag(path: Path) -> str:
    """The value that FileResponse gives the file, or "" where it is no readable regular file."""
    try:
        status = path.stat()
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _policy(host: str) -> str:
    """The page's Content-Security-Policy. Older Safari does not count wss: as 'self', so the host is named."""
    sockets = f" ws://{host} wss://{host}" if host else ""
    return (
        f"default-src 'self'; connect-src 'self'{sockets}; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


def _not_found() -> web.HTTPNotFound:
    # A deployment may be under way: nobody must remember that the file was missing.
    return web.HTTPNotFound(text="There is nothing at this address.", headers={hdrs.CACHE_CONTROL: "no-store"})
