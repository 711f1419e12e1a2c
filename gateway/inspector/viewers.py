"""Which requests may see the inspector, and which may break connections."""

import hmac

from aiohttp import hdrs, web

from moorline.gateway.common.access.authorize import bearer_token
from moorline.gateway.common.access.local import is_local_request
from moorline.gateway.common.access.middleware import REFUSAL
from moorline.gateway.keys import ACCESS_RULES, SETTINGS

__all__ = ["check", "check_control", "is_local"]


def check(request: web.Request) -> None:
    """Refuse a request that may not see the inspector.

    Raises:
        web.HTTPForbidden, web.HTTPUnauthorized
    """
    if not is_local(request):
        _check_token(request)


def check_control(request: web.Request) -> None:
    """Refuse a request that may not break connections: where there is a token, programs on this machine need it, too.

    Raises:
        web.HTTPForbidden, web.HTTPUnauthorized
    """
    if request.app[SETTINGS].inspector_token or not is_local(request):
        _check_token(request)


def _check_token(request: web.Request) -> None:
    token = request.app[SETTINGS].inspector_token
    if not token:
        request[REFUSAL] = "not a program on this machine, and inspector_token is not set"
        raise web.HTTPForbidden(
            text="The inspector is for programs on the gateway's own machine, where its options name no public host; "
            "otherwise it needs inspector_token."
        )
    given = bearer_token(request) or ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        request[REFUSAL] = "the request does not have the inspector_token"
        raise web.HTTPUnauthorized(text="The inspector's token is needed.", headers={hdrs.WWW_AUTHENTICATE: "Bearer"})


def is_local(request: web.Request) -> bool:
    """Whether it comes from this machine, and from no page of another site, of which this machine's browser may show
    one."""
    return is_local_request(request, request.app[ACCESS_RULES])
