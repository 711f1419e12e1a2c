"""The least that an aiohttp server can do for a request: one route, no work. With `log`, a line like moorline's."""

import logging
import sys

import uvloop
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from moorline.gateway.common.logs import setup
from moorline.gateway.settings import Settings

_log = logging.getLogger("moorline.gateway.access")


class _AccessLogger(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        _log.info("%s %s %d %.3fs client=%s", request.method, request.path, response.status, time, request.remote)


async def _healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"}, headers={"Cache-Control": "no-store"})


if __name__ == "__main__":
    setup(Settings())
    app = web.Application()
    app.router.add_get("/healthz", _healthz)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=_log if sys.argv[2:] else None,
        access_log_class=_AccessLogger,
        print=None,
        loop=uvloop.new_event_loop(),
    )
