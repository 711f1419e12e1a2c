"""The inspector's addresses: its page, the stream of events that the page shows, and one ended socket by its id."""

import asyncio
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from moorline.gateway.common.access.local import is_direct
from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.errors import Unavailable
from moorline.gateway.inspector.faults import add_faults, merged
from moorline.gateway.inspector.rows import Row, changes, of_all_workers
from moorline.gateway.inspector.shared import View, all_views, answering, end_of
from moorline.gateway.inspector.viewers import check, is_local
from moorline.gateway.keys import LIVE_FAULTS, SETTINGS, SIBLINGS
from moorline.gateway.proxy.tunnels import TUNNELS

__all__ = ["add_inspector"]

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "": "inspector.html",
    "inspector.js": "inspector.js",
    "faults.js": "faults.js",
    "inspector.css": "inspector.css",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# A look at 1,000 sockets takes 10 ms.
_MOST_VIEWERS = 4
# An end is shown at once, and what changes all the time once a second.
_INTERVAL = 1.0
# With other workers, whose ends are found by asking.
_INTERVAL_OF_WORKERS = 0.5
# Between two events, where many sockets end one after the other.
_LEAST_INTERVAL = 0.2

VIEWERS = web.AppKey("inspector_viewers", set[object])


def add_inspector(app: web.Application) -> None:
    """Add its addresses to the gateway's."""
    app[VIEWERS] = set()
    app.cleanup_ctx.append(answering)
    app.router.add_get("/-/moorline", page)
    app.router.add_get("/-/moorline/events", events)
    app.router.add_get("/-/moorline/{file}", page)
    app.router.add_get("/-/ended/{request_id}", ended)
    add_faults(app)


async def page(request: web.Request) -> web.Response:
    """One of its three files. They hold nothing of any socket: a page from elsewhere asks for the token and sends it
    with its other requests."""
    if not is_local(request) and not request.app[SETTINGS].inspector_token:
        check(request)
    name = _FILES.get(request.match_info.get("file", ""))
    if name is None:
        raise web.HTTPNotFound(text="The inspector has no such file.")
    return web.Response(text=_text(name), content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=_HEADERS)


async def ended(request: web.Request) -> web.Response:
    """Why the socket with this request id ended. The id has 128 random bits and is told to the socket's own client
    alone, so with `tell_causes` it is the right to ask, and on this machine that of a page of any allowed origin.
    """
    if not (request.app[SETTINGS].tell_causes or is_direct(request)):
        check(request)
    found = await end_of(request.app, request.match_info["request_id"])
    if found is None:
        raise web.HTTPNotFound(text="No socket with this id has ended lately.")
    return web.json_response(dict(found), headers={"Cache-Control": "no-store"})


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events, `_INTERVAL` apart or at the end of a socket: what changed since the one before."""
    check(request)
    viewers = request.app[VIEWERS]
    if len(viewers) >= _MOST_VIEWERS:
        raise Unavailable("Too many inspectors are open.")
    viewer = object()
    viewers.add(viewer)
    try:
        return await _stream(request)
    finally:
        viewers.discard(viewer)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
    await response.prepare(request)
    app, viewer, ends = request.app, _Viewer(request.app), request.app[TUNNELS].ends
    interval = _INTERVAL_OF_WORKERS if SIBLINGS in app else _INTERVAL
    # Also where another process has this one's place: the page asks again, and reaches that.
    ending = asyncio.create_task(app[DRAINING].ending())
    try:
        while not ending.done():
            # Also those that end between the look and the wait.
            seen = ends.count
            event = json.dumps(await viewer.look(), separators=(",", ":"))
            async with asyncio.timeout(app[SETTINGS].send_timeout):
                await response.write(b"data: %b\n\n" % event.encode())
            await asyncio.sleep(_LEAST_INTERVAL)
            await ends.next(interval - _LEAST_INTERVAL, seen=seen)
    except TimeoutError:
        # The viewer does not read.
        if request.transport is not None:
            request.transport.abort()
    finally:
        ending.cancel()
    return response


class _Viewer:
    """What one viewer has seen."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._rows: dict[str, Row] = {}
        self._last: dict[str, int] = {}
        """By process, the number of the last end that was told."""

    async def look(self) -> Mapping[str, Any]:
        """What is new since the last look; the first has everything."""
        views, silent = await all_views(self._app, self._start, self._last)
        self._rows, changed, gone = changes(self._rows, (row for view in views for row in view.open))
        self._last |= {view.gateway: self._last_of(view) for view in views}
        ended = sorted((row for view in views for row in view.ended), key=lambda row: row["at"])
        return {
            "now": round(self._clock() - self._start, 3),
            "open": changed,
            "gone": gone,
            "ended": ended,
            "upstreams": of_all_workers([view.upstreams for view in views]),
            "silent": silent,
            "faults": None if LIVE_FAULTS not in self._app else merged(view.faults or () for view in views),
        }

    def _last_of(self, view: View) -> int:
        return view.ended[-1]["number"] if view.ended else self._last.get(view.gateway, 0)


@functools.cache
def _text(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")
