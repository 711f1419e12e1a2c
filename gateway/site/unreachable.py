"""The page that stands in for the front end while its dev server cannot be reached.

It loads itself again as soon as the address that was asked for has a response. That is asked with HEAD, which the
gateway holds for `connect_retry`, and once a second beyond.
"""

import html

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import SECURITY_HEADERS
from moorline.gateway.errors import PAGE_HEAD, ConnectTimeout, GatewayError, UpstreamUnreachable, accepts_page
from moorline.gateway.keys import DESTINATION, REQUEST_ID, SETTINGS
from moorline.gateway.proxy.routes import Owner

__all__ = ["stand_in"]


def stand_in(request: web.Request, error: GatewayError) -> web.Response | None:
    """The page, where a page was asked for at a dev server that cannot be reached."""
    destination = request.get(DESTINATION)
    if destination is None or destination.route.owner is not Owner.FRONTEND:
        return None
    if not isinstance(error, UpstreamUnreachable | ConnectTimeout) or not accepts_page(
        request.headers.get(hdrs.ACCEPT, "")
    ):
        return None
    command = request.app[SETTINGS].frontend_command
    text = PAGE_HEAD + _PAGE.format(
        status=error.status,
        address=html.escape(next(iter(destination.upstreams)).url),
        advice=_STARTED_BY_SERVE.format(command=html.escape(command)) if command else _STARTED_BY_USER,
        request_id=html.escape(request[REQUEST_ID]),
    )
    fixed = {"Cache-Control": "no-store", "Retry-After": "1", "X-Request-ID": request[REQUEST_ID]}
    return web.Response(
        status=error.status, text=text, content_type="text/html", charset="utf-8", headers=SECURITY_HEADERS | fixed
    )


_STARTED_BY_SERVE = """<p>moorline runs <code>{command}</code> and starts it again when it ends. Its lines, with
<code>frontend |</code> before them, say why it is not there.</p>"""
_STARTED_BY_USER = """<p>Start your dev server, or have moorline start it:
<code>moorline serve --frontend-command "npm run dev"</code></p>"""

# A response of the dev server itself, an error of its own as well, is shown as it is.
_PAGE = """<title>{status} The front end cannot be reached</title>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<h1>The front end cannot be reached</h1>
<p>There is no response at <code>{address}</code>.</p>
{advice}
<p role="status">This page loads itself again as soon as the front end responds.</p>
<p>Request id: <code>{request_id}</code></p>
<script type="module">
const unreachable = [502, 503, 504];
for (;;) {{
  try {{
    const response = await fetch(location.href, {{ method: 'HEAD', cache: 'no-store' }});
    if (!unreachable.includes(response.status)) break;
  }} catch {{
    // The gateway itself is not there.
  }}
  await new Promise((resolve) => setTimeout(resolve, 1000));
}}
location.reload();
</script>
</html>
"""
