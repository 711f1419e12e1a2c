"""A principal's right while its request is handled and, where that becomes a tunnel, until the tunnel has ended."""

from collections.abc import Awaitable, Callable

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.rights import Rights

__all__ = ["Held"]


class Held:
    """Release it once, when nothing uses it any more."""

    def __init__(self, rights: Rights, principal: Principal, ask: Callable[[], Awaitable[Principal]]) -> None:
        self._rights = rights
        self._right = rights.take(principal, ask)
        self.kept = False
        """Whether a tunnel keeps it beyond its request."""

    @property
    def expired(self) -> bool:
        """Whether it has ended by its time alone."""
        return self._right.expired

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` in place of an earlier one when the right ends; at once where it has ended already."""
        self._right.on_end(callback)

    def keep(self, callback: Callable[[], None]) -> None:
        """The same, for a tunnel that keeps it."""
        self.kept = True
        self.on_end(callback)

    def release(self) -> None:
        """Ask no more."""
        self._rights.release(self._right)
