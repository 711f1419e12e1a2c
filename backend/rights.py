"""The rights of the backend's clients, and who a client is for the limits."""

import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from moorline.backend.audit import Access
from moorline.backend.client_limits import Client
from moorline.backend.errors import Refusal
from moorline.backend.principal_limits import PrincipalLimits
from moorline.gateway.common.access import rights
from moorline.gateway.common.access.authorize import Authorize, Principal, allow_all
from moorline.gateway.common.access.local import is_local_request
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.refusals import Refusals
from moorline.gateway.common.access.rules import AccessRules, client_network
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, UNTIL_TAKEN

__all__ = ["RIGHTS", "Rights"]

logger = logging.getLogger("moorline.backend.rights")


class Rights(rights.Rights):
    """All rights that are in use in this process; without a hook every request is allowed, and asked about once."""

    def __init__(
        self,
        authorize: Authorize | None,
        rules: AccessRules,
        *,
        again: float | None,
        closed_within: float,
        limits: PrincipalLimits,
    ) -> None:
        """`closed_within`: for how many seconds `closed_since` is asked about a closed name. `limits`: of the
        principals that the hook names; the default hook gives every client one name."""
        super().__init__(authorize or allow_all, again=again if authorize else None)
        self._names = authorize is not None
        self._limits = limits
        # The name under which each right is counted: the hook may give its principal another one later.
        self._counted: dict[rights.Right, str] = {}
        self._refusals = Refusals()
        self._rules = rules
        self._closed_within = closed_within
        self._closed_at: dict[str, float] = {}

    async def enter(
        self, access: Access, held: contextlib.ExitStack, ask: Callable[[], Awaitable[Principal]]
    ) -> rights.Right:
        """What `ask` allows, held until `held` ends: `close` finds it from the hook's answer on. The audit log has the
        name also where a limit of the principal refuses it.

        Raises:
            Refusal: `rate_limited`, the principal has too much open.
        """
        principal = await ask()
        access.who = principal.name
        return self.hold(held, principal, ask)

    async def enter_request(
        self, request: web.Request, access: Access, ask: Callable[[], Awaitable[Principal]]
    ) -> rights.Right:
        """As `enter`, until the client has taken the response.

        Raises:
            Refusal: `rate_limited`, the principal has too much open, or its share of the requests.
        """
        held = request[UNTIL_TAKEN]
        right = await self.enter(access, held, ask)
        if self._names:
            name = right.principal.name
            with self._telling():
                self._limits.take_request(name, free=request.app[REQUEST_LIMITS].free)
            held.callback(self._limits.release_request, name)
        return right

    def take(
        self, principal: Principal, ask: Callable[[], Awaitable[Principal]] | None, *, ask_by: float | None = None
    ) -> rights.Right:
        """See `gateway/common/access/rights.py`.

        Raises:
            Refusal: `rate_limited`, the principal has too much open.
        """
        if not self._names:
            return super().take(principal, ask, ask_by=ask_by)
        with self._telling():
            self._limits.take(principal.name)
        right = super().take(principal, ask, ask_by=ask_by)
        self._counted[right] = principal.name
        return right

    def release(self, right: rights.Right) -> None:
        """See `gateway/common/access/rights.py`. Idempotent."""
        super().release(right)
        if (name := self._counted.pop(right, None)) is not None:
            self._limits.release(name)

    def count_handshake(self, principal: Principal) -> None:
        """Count a socket that is to be opened.

        Raises:
            Refusal: `rate_limited`, the principal opens too many.
        """
        if self._names:
            with self._telling():
                self._limits.handshake(principal.name, time.monotonic())

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """A limit that is too low for a principal, as of many people with one account, is the operator's to raise."""
        try:
            yield
        except Refusal as refusal:
            if (count := self._refusals.add(refusal.message, time.monotonic())) is not None:
                logger.warning("refused, %d since the last such line: %s", count, refusal.message)
            raise

    def close(self, name: str) -> None:
        """See `gateway/common/access/rights.py`. What the hook said of the principal before counts no longer."""
        self._closed_at[name] = time.monotonic()
        super().close(name)

    def closed_since(self, name: str, at: float) -> bool:
        """Whether the principal called `name` was closed at this time, of `time.monotonic()`, or later."""
        return at <= self._closed_at.get(name, -math.inf)

    def prune(self) -> None:
        """Forget what can no longer count."""
        super().prune()
        since = time.monotonic() - self._closed_within
        self._closed_at = {name: at for name, at in self._closed_at.items() if at >= since}

    def check_list(self, request: web.Request) -> None:
        """Refuse the list of a patient's sessions where no hook decides, but for programs on this machine.

        Without a hook the id of a session, which none can guess, is all that keeps visitors of one page from the chats
        of each other, and pages of other sites from all of them where `allowed_origins` is `*`.
        """
        if self._names:
            return
        if not is_local_request(request, self._rules, behind_gateway=True):
            raise web.HTTPForbidden(text="The list of a patient's sessions needs an authorize hook or tokens.")

    def client(self, request: web.Request, principal: Principal) -> Client:
        """Who `request` comes from, for the limits. The default hook gives every client one name, which is none."""
        return Client(client_network(client_address(request)), principal.name if self._names else None)


RIGHTS = web.AppKey("rights", Rights)
