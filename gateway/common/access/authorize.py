"""The `authorize` hook, which decides who may use a chat. Both parts ask it; the default allows every request."""

import dataclasses
import inspect
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import hdrs, web

from moorline.gateway.common.access.principal_names import MOST_NAME_BYTES, is_principal
from moorline.gateway.common.access.refusals import Refusals
from moorline.gateway.common.config.named import described, failure, load_named, takes
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.errors import UsageError

__all__ = [
    "CHALLENGE",
    "SUBPROTOCOL",
    "Authorize",
    "HookFailed",
    "Principal",
    "allow_all",
    "as_authorize",
    "bearer_token",
    "hook_of",
    "is_credential",
    "is_loopback",
    "ticket",
    "warn_if_open",
]

log = logging.getLogger("moorline.authorize")

CHALLENGE = "Bearer"
"""Of a 401 that names no other scheme: RFC 9110 section 15.5.2 asks for one, and a browser opens no dialog for this."""
SUBPROTOCOL = "moorline"
_TOKEN_SUBPROTOCOL = "moorline.jwt."
_TICKET_SUBPROTOCOL = "moorline.ticket."


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from, as the hook names them."""

    name: str
    expires: float | None = None
    """When its right ends, as `time.time()` counts (the `exp` of a JWT); None: it does not."""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Whatever a responder of yours needs to know about it: a role, a language. The backend passes it on as it is."""
    issued: float | None = None
    """When its credentials were issued (the `iat` of a JWT), as `time.time()` counts: those from before a revocation
    are refused. None: your hook alone decides whether a principal that was revoked may come back."""


class HookFailed(Exception):
    """The user's hook has decided nothing: what it raised, where, in one line that may be logged."""


Authorize = Callable[[web.Request, str | None, str | None], Awaitable[Principal]]
"""`async (request, patient_id, session_id) -> Principal`, asked before anything is read, written or dialled.

It refuses by raising `web.HTTPForbidden` or another `web.HTTPException`. The backend passes the patient whose chat it
is, also where the request does not name one; `patient_id` is None there for a session that does not exist, and
`session_id` for the list of a patient's sessions. In the gateway `patient_id` is None where neither path nor query has
one: a body is read by the backend alone; `session_id` is None where the path names no session. The gateway asks about
every path under `/api` and `/ws`, and about those of routes to other servers.
"""


def bearer_token(request: web.Request) -> str | None:
    """The token that a `MoorlineClient` with the option `token` sends, or None.

    It is in `Authorization: Bearer TOKEN` (RFC 6750) or, since a browser's WebSocket sets no header, in the subprotocol
    `moorline.jwt.TOKEN`; never in the URL, which ends up in logs. Bytes that are no text are no token.
    """
    given = request.headers.getall(hdrs.AUTHORIZATION, ())
    # Two are none, as below.
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() == "bearer" and is_credential(token.strip()):
        return token.strip()
    return _offered(request, _TOKEN_SUBPROTOCOL)


def is_credential(text: str) -> bool:
    """Whether this may be a token or a ticket. A byte that is no UTF-8 comes as half of a surrogate pair, which nothing
    can encode again."""
    return text != "" and text.isprintable()


def ticket(request: web.Request) -> str | None:
    """The ticket that a socket's handshake offers as the subprotocol `moorline.ticket.TICKET`, or None."""
    return _offered(request, _TICKET_SUBPROTOCOL)


def _offered(request: web.Request, prefix: str) -> str | None:
    offered = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())).split(",")
    found = [name.strip().removeprefix(prefix) for name in offered if name.strip().startswith(prefix)]
    found = [credential for credential in found if is_credential(credential)]
    # Two are none: which one would count is a guess.
    return found[0] if len(found) == 1 else None


async def allow_all(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    """The default: no authentication, as in development."""
    return Principal("anonymous")


def hook_of(settings: CommonSettings, given: Authorize | None) -> Authorize | None:
    """The hook that was given, or that the option `authorize` names; None without one. See `as_authorize`."""
    if given is None and settings.authorize:
        given = load_named(settings.authorize, "authorize")
    return None if given is None else as_authorize(given)


def as_authorize(hook: Any) -> Authorize:
    """`hook`, which may return the name of a principal alone.

    Where it returns anything else, as a function without `return` does, or raises what is no response, HookFailed is
    raised, and a request ends with 500; one whose principal has a name that cannot be used, as bytes of a header may
    be, ends with 401.

    Raises:
        UsageError: it is no coroutine function of three arguments; the message names function and file.
    """
    is_async = inspect.iscoroutinefunction(inspect.unwrap(hook)) or inspect.iscoroutinefunction(type(hook).__call__)
    if inspect.isclass(hook) or not is_async or not takes(hook, 3):
        raise UsageError(f"authorize: {described(hook)} must be `async def authorize(request, patient_id, session_id)`")

    refusals = Refusals()

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        try:
            principal = await hook(request, patient_id, session_id)
        except web.HTTPException:
            raise
        except Exception as error:
            # The words of a KeyError are the token, or the patient, that was looked up.
            log.debug("authorize failed", exc_info=error)
            told = f"authorize: {failure(error, private=True)}; its message is logged with log_level=debug"
            raise HookFailed(told) from None
        if principal and isinstance(principal, str):
            principal = Principal(principal)
        if not isinstance(principal, Principal) or not isinstance(principal.name, str):
            kind = type(principal).__name__
            raise HookFailed(f"authorize: {described(hook)} returned {kind}; return a Principal, or its name as str")
        if not is_principal(principal.name):
            if (count := refusals.add("name", time.monotonic())) is not None:
                rule = f"1 to {MOST_NAME_BYTES} bytes and no control characters, and is not -"
                log.warning("authorize: %s: a principal's name has %s; %d refused", described(hook), rule, count)
            raise web.HTTPUnauthorized(text="These credentials name no principal.")
        return principal

    return authorize


def warn_if_open(logger: logging.Logger, host: str, authorize: Authorize | None) -> None:
    """Log at start that other machines can use every chat, where no hook decides about them."""
    if authorize is None and not is_loopback(host):
        logger.warning("every chat is open to any client that reaches %s: no authorize hook is set", host)


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
