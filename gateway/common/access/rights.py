"""How long a principal may use a chat: the authorize hook is asked again while a socket or a request is held.

A right ends when the principal expires, when the hook refuses, or when `Rights.close` is called. Where its time has
come or the hook says 401, it has expired: the principal may come back with new credentials. A hook that fails (any
other exception, a status of 5xx, or no answer within `authorize_again`) has not decided: the right stands, and the hook
is asked again. Without a hook there is neither timer nor task.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from moorline.gateway.common.access.authorize import Authorize, HookFailed, Principal
from moorline.gateway.common.logs import hashed
from moorline.gateway.common.web.statuses import UNAUTHORIZED

__all__ = ["REVOKED_SECONDS", "Right", "Rights"]

logger = logging.getLogger("moorline.rights")

#: How long a revocation is kept. Credentials that are older are refused: they may have been revoked. No browser keeps a
#: cookie for longer than these 400 days (draft-ietf-httpbis-rfc6265bis section 5.5).
REVOKED_SECONDS = 400 * 86_400.0

# The longest timer: an expiry may be years ahead, and loops bound what they take.
_LONGEST_SECONDS = 86_400.0
# Sockets that were opened at once, after a restart for example, are not asked about at once.
_JITTER = 0.5


class Rights:
    """All rights that are in use in this process."""

    def __init__(self, authorize: Authorize, *, again: float | None) -> None:
        self._authorize = authorize
        self.again = again
        """Seconds until the hook is asked again; None: it is not."""
        self._held: set[Right] = set()
        self._revoked: dict[str, float] = {}
        # For each request that the hook works on, the names that were closed since it was asked.
        self._asking: dict[object, set[str]] = {}

    async def ask(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        """Ask the hook who sends this; it refuses by raising `web.HTTPException`.

        A principal that is closed while the hook works is asked about again: the hook may have decided before that.
        """
        return await self.decide(lambda: self._authorize(request, patient_id, session_id))

    async def decide(self, ask: Callable[[], Awaitable[Principal]]) -> Principal:
        """The same where something else than the hook decides."""
        question = object()
        closed = self._asking[question] = set[str]()
        try:
            principal = await ask()
            while principal.name in closed:
                closed.clear()
                principal = await ask()
        finally:
            del self._asking[question]
        if _seconds_left(principal) <= 0:
            # As for one that expires a moment later: its client may come back with new credentials.
            raise web.HTTPUnauthorized(text="Please sign in again.")
        if self._is_revoked(principal):
            raise web.HTTPUnauthorized(text="These credentials were revoked. Please sign in again.")
        if _is_older_than_revocations(principal):
            raise web.HTTPUnauthorized(text="These credentials are too old. Please sign in again.")
        return principal

    def hold(
        self, held: contextlib.ExitStack, principal: Principal, ask: Callable[[], Awaitable[Principal]] | None
    ) -> "Right":
        """As `take`, and `release` when `held` ends."""
        right = self.take(principal, ask)
        held.callback(self.release, right)
        return right

    def take(
        self, principal: Principal, ask: Callable[[], Awaitable[Principal]] | None, *, ask_by: float | None = None
    ) -> "Right":
        """Call `ask` again and again until `release`. Comes before the next await after the hook's answer.

        Without `ask` the right ends by its time, or is closed. `ask_by`: that of a right that this one goes on with."""
        right = Right(ask, principal, self.again, ask_by)
        self._held.add(right)
        return right

    def release(self, right: "Right") -> None:
        """Ask no more."""
        self._held.discard(right)
        right.stop()

    def replace(self, authorize: Authorize) -> None:
        """Ask this hook from now on, and about what is held at once."""
        self._authorize = authorize
        for right in self._held:
            right.ask_now()

    def close(self, name: str) -> None:
        """End what the principal called `name` holds; the hook decides whether it may come back."""
        for right in self._closed(name):
            right.end()

    def revoke(self, name: str, at: float) -> None:
        """The same, and refuse from now on what was issued to it until `at`: it may sign in again. Idempotent."""
        if self._revoked.get(name, -math.inf) >= at:
            return
        self._revoked[name] = at
        for right in self._closed(name):
            if right.principal.issued is None or self._is_revoked(right.principal):
                right.expire()

    def prune(self) -> None:
        """Forget the revocations that are too old to count."""
        since = time.time() - REVOKED_SECONDS
        self._revoked = {name: at for name, at in self._revoked.items() if at >= since}

    def _closed(self, name: str) -> "list[Right]":
        for closed in self._asking.values():
            closed.add(name)
        return [right for right in self._held if right.principal.name == name]

    def _is_revoked(self, principal: Principal) -> bool:
        return principal.issued is not None and principal.issued <= self._revoked.get(principal.name, -math.inf)


class Right:
    """A principal's right while a socket or a long poll uses it."""

    __slots__ = ("_again", "_ask", "_ask_at", "_on_end", "_task", "_timer", "ended", "expired", "principal")

    def __init__(
        self,
        ask: Callable[[], Awaitable[Principal]] | None,
        principal: Principal,
        again: float | None,
        ask_by: float | None = None,
    ) -> None:
        self.principal = principal
        self.ended = False
        self.expired = False
        """It ended by its time, by 401, or was revoked: with new credentials the principal may come back."""
        self._ask = ask
        self._again = None if ask is None else again
        self._ask_at: float | None = None
        self._on_end: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._renew(math.inf if ask_by is None else ask_by)

    @property
    def ask_by(self) -> float | None:
        """When `ask` is due, on the loop's clock: now where it works and may refuse. None: it is not called again."""
        if self._again is None:
            return None
        return asyncio.get_running_loop().time() if self._ask_at is None else self._ask_at

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the right ends; at once where it has ended already."""
        self._on_end = callback
        if self.ended:
            callback()

    def check(self) -> None:
        """Raise 401 where the right has expired, 403 where it has ended otherwise."""
        if self.expired:
            raise web.HTTPUnauthorized(text="Please sign in again.")
        if self.ended:
            raise web.HTTPForbidden

    def end(self) -> None:
        """The principal reads and writes nothing more. Idempotent."""
        if not self.ended:
            self.ended = True
            self._stop_timer()
            logger.info("principal %s: a right has ended", hashed(self.principal.name))
            if self._on_end is not None:
                self._on_end()

    def expire(self) -> None:
        """The same until the principal signs in again."""
        if not self.ended:
            self.expired = True
            self.end()

    def ask_now(self) -> None:
        """Ask without waiting for the next turn."""
        if self._task is not None:
            self._task.cancel()
        self._ask_at = asyncio.get_running_loop().time()
        self._stop_timer()
        self._arm()

    def stop(self) -> None:
        """Ask no more, and call no callback."""
        self._stop_timer()
        # It leads back to this right, which would stay until a search for cycles.
        self._on_end = None
        if self._task is not None:
            self._task.cancel()

    def _renew(self, ask_by: float = math.inf) -> None:
        now = asyncio.get_running_loop().time()
        again = math.inf if self._again is None else now + self._again * random.uniform(_JITTER, 1)
        self._ask_at = None if self._ask is None or min(ask_by, again) == math.inf else min(ask_by, again)
        self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        due = _seconds_left(self.principal)
        if self._ask_at is not None:
            due = min(due, self._ask_at - loop.time())
        if due < math.inf:
            self._timer = loop.call_later(min(due, _LONGEST_SECONDS), self._due)

    def _due(self) -> None:
        if _seconds_left(self.principal) <= 0:
            self.expire()
        elif self._ask_at is not None and asyncio.get_running_loop().time() >= self._ask_at:
            # The expiry still counts while the hook works.
            self._ask_at = None
            self._arm()
            self._task = asyncio.create_task(self._ask_again())
        else:
            self._arm()

    async def _ask_again(self) -> None:
        try:
            async with asyncio.timeout(self._again):
                assert self._ask is not None, "otherwise there is no time at which it is due"
                self.principal = await self._ask()
        except web.HTTPException as error:
            if error.status == UNAUTHORIZED:
                # It is of the credentials, as for a handshake: others may do, of a token whose key was withdrawn for
                # example. Any other refusal is of the principal.
                self.expire()
            elif error.status < 500:
                self.end()
            else:
                logger.warning("authorize failed with status %s and is asked again", error.status)
        except HookFailed as error:
            logger.error("%s; it is asked again", error)
        except Exception:
            logger.exception("authorize failed and is asked again")
        if not self.ended:
            self._stop_timer()
            self._renew()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_older_than_revocations(principal: Principal) -> bool:
    # 0 stands for a token that does not say when it was issued: it may be new.
    return principal.issued is not None and 0 < principal.issued < time.time() - REVOKED_SECONDS


def _seconds_left(principal: Principal) -> float:
    return math.inf if principal.expires is None else principal.expires - time.time()
