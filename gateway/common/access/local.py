"""Which requests are of this machine: a program on it has sent them, and no proxy has passed them on.

The peer's address does not tell: a proxy on this machine has the same, and not every proxy says who its client is.
HAProxy adds no header, and nginx none but those that it is told to. So all of this has to hold:

- The server has no public name. Pages behind a proxy need one in `allowed_hosts`, or in `allowed_origins` where the
  proxy sends another Host; without it their sockets and messages are refused.
- Host is a name of loopback, and so is the host of the page that the request comes from (Referer).
- The request has no header that proxies add, and is of HTTP/1.1; nginx sends HTTP/1.0 unless it is told otherwise.

Only a program that speaks through such a proxy with a Host of its own choice, to a server whose options name no public
name, is not told apart.
"""

from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web

from moorline.gateway.common.access.rules import AccessRules, is_local_name

__all__ = ["is_direct", "is_local_request"]

_BY_PROXIES = (hdrs.FORWARDED, hdrs.VIA)
# What a proxy says of its client, as the gateway does.
_OF_CLIENT = (hdrs.X_FORWARDED_FOR, "X-Real-IP", hdrs.X_FORWARDED_HOST)


def is_local_request(request: web.Request, rules: AccessRules, *, behind_gateway: bool = False) -> bool:
    """Whether it is of this machine, and of no page of another site, of which this machine's browser may show one.

    `behind_gateway`: what the gateway says of its client has to be this machine's, too.
    """
    headers = request.headers
    names = [*headers.getall(hdrs.HOST, ()), *map(_host, headers.getall(hdrs.REFERER, ()))]
    for header in _OF_CLIENT if behind_gateway else ():
        names += [name.strip() for line in headers.getall(header, ()) for name in line.split(",")]
    return (
        not rules.has_public_name
        and (behind_gateway or is_direct(request))
        and request.version >= HttpVersion11
        and not any(name in headers for name in _BY_PROXIES)
        and all(map(is_local_name, (request.remote or "", *names)))
        and rules.is_own(headers.get(hdrs.ORIGIN), headers.get(hdrs.HOST))
    )


def is_direct(request: web.Request) -> bool:
    """Whether the peer is on this machine, and says nothing of another client."""
    said = (*_OF_CLIENT, *_BY_PROXIES, hdrs.X_FORWARDED_PROTO)
    return is_local_name(request.remote or "") and not any(name in request.headers for name in said)


def _host(page: str) -> str:
    try:
        return urlsplit(page).netloc
    except ValueError:
        return page
