"""The reverse proxy that people write with aiohttp: a pooled session, streamed bodies, and nothing else.

There are no limits, no retries, no log and no X-Forwarded headers.
"""

import sys

import aiohttp
import uvloop
from aiohttp import hdrs, web

# RFC 9110 section 7.6.1, and what aiohttp writes itself.
_OWN = {hdrs.CONNECTION, hdrs.TRANSFER_ENCODING, hdrs.KEEP_ALIVE, hdrs.UPGRADE, hdrs.TE, hdrs.TRAILER}
_SESSION = web.AppKey("session", aiohttp.ClientSession)


async def _forward(request: web.Request) -> web.StreamResponse:
    headers = [(name, value) for name, value in request.headers.items() if name.title() not in _OWN]
    body = request.content if request.body_exists else None
    url = f"http://127.0.0.1:{sys.argv[2]}{request.raw_path}"
    async with request.app[_SESSION].request(
        request.method, url, headers=headers, data=body, allow_redirects=False
    ) as upstream:
        response = web.StreamResponse(status=upstream.status)
        response.headers.extend((name, value) for name, value in upstream.headers.items() if name.title() not in _OWN)
        await response.prepare(request)
        async for piece in upstream.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def _app() -> web.Application:
    app = web.Application()
    app[_SESSION] = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=[hdrs.CONTENT_TYPE])
    app.on_cleanup.append(lambda app: app[_SESSION].close())
    app.router.add_route("*", "/api/{path:.*}", _forward)
    return app


if __name__ == "__main__":
    web.run_app(
        _app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop()
    )
