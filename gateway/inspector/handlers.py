"""The inspector's addresses: its page, the stream of events that the page shows, and one ended socket by its id."""

import asyncio
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.errors import Unavailable
from moorline.gateway.inspector.rows import Row, changes, ended_row, open_row, sentence
from moorline.gateway.inspector.viewers import check, is_local
from moorline.gateway.keys import ROUTES, SETTINGS
from moorline.gateway.proxy.sockets import EndedSocket
from moorline.gateway.proxy.tunnels import TUNNELS, Tunnels

__all__ = ["add_inspector"]

_PAGE = Path(__file__).parent / "page"
_FILES = {"": "inspector.html", "inspector.js": "inspector.js", "inspector.css": "inspector.css"}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# From what a client sees of an end to the gateway's own: the other connection is closed, too.
_END_SECONDS = 2.0
# A look at 1,000 sockets takes 10 ms.
_MOST_VIEWERS = 4
# An end is shown at once, and what changes all the time once a second.
_INTERVAL = 1.0
# Between two looks, where many sockets end one after the other.
_LEAST_INTERVAL = 0.2

VIEWERS = web.AppKey("inspector_viewers", set[object])


def add_inspector(app: web.Application) -> None:
    """Add its addresses to the gateway's."""
    app[VIEWERS] = set()
    app.router.add_get("/-/moorline", page)
    app.router.add_get("/-/moorline/events", events)
    app.router.add_get("/-/moorline/{file}", page)
    app.router.add_get("/-/ended/{request_id}", ended)


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
    alone, so with `tell_causes` it is the right to ask.
    """
    if not request.app[SETTINGS].tell_causes:
        check(request)
    found = await _end_of(request.app[TUNNELS], request.match_info["request_id"])
    if found is None:
        raise web.HTTPNotFound(text="No socket with this id has ended lately.")
    return web.json_response(dict(sentence(found)), headers={"Cache-Control": "no-store"})


async def _end_of(tunnels: Tunnels, request_id: str) -> EndedSocket | None:
    """A socket that has ended, or does so now."""
    clock = asyncio.get_running_loop().time
    until = clock() + _END_SECONDS
    while (found := tunnels.ends.find(request_id)) is None and clock() < until and tunnels.holds(request_id):
        await tunnels.ends.next(until - clock())
    return found


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
    app, view = request.app, _View(request.app)
    draining = asyncio.create_task(app[DRAINING].wait())
    try:
        while not draining.done():
            async with asyncio.timeout(app[SETTINGS].send_timeout):
                await response.write(b"data: %b\n\n" % json.dumps(view.look(), separators=(",", ":")).encode())
            await asyncio.sleep(_LEAST_INTERVAL)
            await app[TUNNELS].ends.next(_INTERVAL - _LEAST_INTERVAL)
    except TimeoutError:
        # The viewer does not read.
        if request.transport is not None:
            request.transport.abort()
    finally:
        draining.cancel()
    return response


class _View:
    """What one viewer has seen."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._rows: dict[str, Row] = {}
        self._last = 0

    def look(self) -> Mapping[str, Any]:
        """What is new since the last look; the first has everything."""
        tunnels = self._app[TUNNELS]
        now = (open_row(socket, tunnel, self._start) for socket, tunnel in tunnels.open_sockets())
        self._rows, changed, gone = changes(self._rows, now)
        ended = [ended_row(each, self._start) for each in tunnels.ends.since(self._last)]
        self._last = ended[-1]["number"] if ended else self._last
        return {
            "now": round(self._clock() - self._start, 3),
            "open": changed,
            "gone": gone,
            "ended": ended,
            "upstreams": self._upstreams(),
        }

    def _upstreams(self) -> list[Row]:
        return [
            {"url": each.url, "connections": each.connections, "down": group.is_down(each, self._clock())}
            for group in self._app[ROUTES].upstreams
            for each in group
        ]


@functools.cache
def _text(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")
