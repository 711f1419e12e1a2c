"""A fault that is on, and which connections meet it."""

from collections.abc import Mapping
from typing import Any

from moorline.gateway.faults.catalogue import Fault, parameters_of
from moorline.gateway.tunnel.endings import Side

__all__ = ["Armed"]


class Armed:
    """One fault with its parameters, on one side of the gateway.

    Only connections whose request has a path that begins with `path` meet it, and at most `times` of them.
    """

    def __init__(
        self,
        fault: Fault,
        parameters: Mapping[str, Any],
        *,
        side: Side | None = None,
        path: str = "",
        times: int | None = None,
        resets_after: float | None = None,
    ) -> None:
        self.fault = fault
        self.parameters = parameters_of(fault, parameters)
        self.side = side or fault.side
        self.resets_after = resets_after
        """Seconds after which a connection that met it is reset, so that one that waits for it has an end."""
        self.met = 0
        """How many connections have met it."""
        self._path = path
        self._times = times

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.parameters.items() if value not in (None, "", 0))
        return f"{self.fault.name}({given}) on the side of the {self.side.value}"

    @property
    def after_bytes(self) -> int | None:
        """Bytes of the server's behind the headers, before it acts."""
        after: int | None = self.parameters.get("after_bytes")
        return after

    @property
    def idle(self) -> float | None:
        """Seconds without a byte before it acts."""
        idle: float | None = self.parameters.get("idle")
        return idle

    def make(self) -> Any:
        """What the fault does, from its beginning."""
        own = {name: value for name, value in self.parameters.items() if name != "after_bytes"}
        return self.fault.make(**own)

    def claims(self, path: str | None = None, *, upgrades: bool = False) -> bool:
        """Whether a connection with this request, or one whose request is not known yet, meets it now; that counts."""
        if self.fault.sockets_only and not upgrades:
            return False
        if path is not None and not path.startswith(self._path):
            return False
        if self._times is not None and self.met >= self._times:
            return False
        self.met += 1
        return True
