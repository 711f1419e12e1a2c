"""The line that each request leaves in the log: as text, and with `log_format=json` each fact as a field."""

import functools
import ipaddress
import logging
from typing import Any

from aiohttp import web

from moorline.gateway.common import logs
from moorline.gateway.common.access.middleware import REFUSAL, client_address
from moorline.gateway.common.web.route_name import describe
from moorline.gateway.keys import CAUSE, DESTINATION, REQUEST_ID, UPSTREAM
from moorline.gateway.logged_path import logged_path
from moorline.gateway.proxy.routes import Owner

__all__ = ["log_request"]

log = logging.getLogger("moorline.gateway.access")

# aiohttp's pattern for all paths of the front end.
_FRONTEND_ROUTE = "/{path}"


def log_request(request: web.Request, items: dict[Any, Any], status: int, seconds: float) -> None:
    """Log the result of a request, which holds these `items`."""
    if not log.isEnabledFor(logging.INFO):
        return
    path = _path(request)
    client, request_id = client_address(request), items[REQUEST_ID]
    text = f"{request.method} {path} {status} {seconds:.3f}s client={client} request_id={request_id}"
    if CAUSE in items:
        text += f" cause={items[CAUSE].code}"
    if REFUSAL in items:
        text += f' refused="{items[REFUSAL]}"'
    if UPSTREAM in items:
        text += f" upstream={items[UPSTREAM]}"
    # Without values: what looks like a placeholder in a path is none.
    logs.info(log, text, lambda: _facts(request, path, status, seconds))


def _facts(request: web.Request, path: str, status: int, seconds: float) -> dict[str, object]:
    """What the line says, as fields."""
    facts: dict[str, object] = {
        "method": request.method,
        "path": path,
        "status": status,
        "seconds": round(seconds, 4),
        "client": client_address(request),
        "request_id": request[REQUEST_ID],
    }
    if CAUSE in request:
        facts["cause"] = request[CAUSE].code
    if REFUSAL in request:
        facts["refused"] = request[REFUSAL]
    if UPSTREAM in request:
        facts["upstream"] = request[UPSTREAM]
    return facts


def _path(request: web.Request) -> str:
    route = describe(request)
    if route != _FRONTEND_ROUTE:
        return route
    destination = request.get(DESTINATION)
    is_dev_server = destination is not None and destination.route.owner is Owner.FRONTEND
    in_development = is_dev_server and _is_local(client_address(request))
    return logged_path(request.raw_path, in_development=in_development) or route


# Of the few clients of a dev server, whose page may load thousands of files.
@functools.lru_cache(maxsize=64)
def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
