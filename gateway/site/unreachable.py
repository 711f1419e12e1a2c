"""What is answered for the front end while its dev server cannot be reached, and for a backend that is a command of
`serve`: a page, or one line that names the address and the command.

It loads itself again as soon as the address that was asked for has a response. That is asked with HEAD, which the
gateway holds for `connect_retry`, and once a second beyond.
"""

import html

from aiohttp import hdrs, web

from moorline.gateway.common.access.local import is_local_request
from moorline.gateway.common.access.middleware import SECURITY_HEADERS
from moorline.gateway.errors import PAGE_HEAD, ConnectTimeout, GatewayError, UpstreamUnreachable, accepts_page
from moorline.gateway.keys import ACCESS_RULES, DESTINATION, REQUEST_ID
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.upstreams import Upstreams

__all__ = ["stand_in", "told"]


def told(request: web.Request, error: GatewayError) -> str | None:
    """What a program is told of a command of `serve` that cannot be reached."""
    if (upstreams := _unreachable(request, error)) is None or not upstreams.command:
        return None
    part, label = _NAMES[request[DESTINATION].route.owner]
    command = _command(request, upstreams, label)
    return _TOLD.format(part=part, address=next(iter(upstreams)).url, command=command, label=label)


def stand_in(request: web.Request, error: GatewayError) -> web.Response | None:
    """The page, where a page was asked for."""
    upstreams = _unreachable(request, error)
    if upstreams is None or not accepts_page(request.headers.get(hdrs.ACCEPT, "")):
        return None
    part, label = _NAMES[request[DESTINATION].route.owner]
    command = html.escape(_command(request, upstreams, label))
    text = PAGE_HEAD + _PAGE.format(
        part=part,
        status=error.status,
        address=html.escape(next(iter(upstreams)).url),
        advice=_STARTED_BY_SERVE.format(command=command, label=label) if command else _STARTED_BY_USER,
        request_id=html.escape(request[REQUEST_ID]),
    )
    fixed = {"Cache-Control": "no-store", "Retry-After": "1", "X-Request-ID": request[REQUEST_ID]}
    return web.Response(
        status=error.status, text=text, content_type="text/html", charset="utf-8", headers=SECURITY_HEADERS | fixed
    )


def _unreachable(request: web.Request, error: GatewayError) -> Upstreams | None:
    """The upstreams of a dev server, or of a command of `serve`, none of which can be reached."""
    destination = request.get(DESTINATION)
    if destination is None or not isinstance(error, UpstreamUnreachable | ConnectTimeout):
        return None
    owner, upstreams = destination.route.owner, destination.upstreams
    return upstreams if owner is Owner.FRONTEND or (owner is Owner.BACKEND and upstreams.command) else None


def _command(request: web.Request, upstreams: Upstreams, label: str) -> str:
    """As its user wrote it, who may have written a password, too: elsewhere it is the option alone."""
    is_shown = not upstreams.command or is_local_request(request, request.app[ACCESS_RULES])
    return upstreams.command if is_shown else f"--{label}-command"


# The upstream, and what its lines in the log begin with.
_NAMES = {Owner.FRONTEND: ("front end", "frontend"), Owner.BACKEND: ("backend", "backend")}

_TOLD = (
    'The {part} cannot be reached at {address}. moorline runs "{command}" and starts it again when it ends; its lines, '
    'with "{label} |" before them, say why it is not there.'
)
_STARTED_BY_SERVE = """<p>moorline runs <code>{command}</code> and starts it again when it ends. Its lines, with
<code>{label} |</code> before them, say why it is not there.</p>"""
_STARTED_BY_USER = """<p>Start your dev server, or have moorline start it:
<code>moorline serve --frontend-command "npm run dev"</code></p>"""

# A response of the dev server itself, an error of its own as well, is shown as it is.
_PAGE = """<title>{status} The {part} cannot be reached</title>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<h1>The {part} cannot be reached</h1>
<p>There is no response at <code>{address}</code>.</p>
{advice}
<p role="status">This page loads itself again as soon as the {part} responds.</p>
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
