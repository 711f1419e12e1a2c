"""Switching faults on and off: `faults.reset(after_bytes=100)` and its like for every entry of the catalogue."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, Self, TypeVar

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import CATALOGUE, Phase, fault_named
from moorline.gateway.tunnel.endings import Side

__all__ = ["Faults", "Switch", "Target", "in_loop"]

T = TypeVar("T")

# Longest wait of a thread for the loop that carries out what it asks; reached only where that loop is blocked.
_LOOP_SECONDS = 10.0


class Target(Protocol):
    """Where a fault acts: a proxy, or a model's server."""

    def arm(self, armed: Armed) -> None: ...
    def disarm(self, armed: Armed) -> None: ...


class Switch:
    """A fault that is on within `with` or `async with`; `with` is for other threads than the loop's."""

    def __init__(self, armed: Armed, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self._armed = armed
        self._target = target
        self._loop = loop

    @property
    def met(self) -> int:
        """How many connections have met it so far."""
        return self._armed.met

    @property
    def armed(self) -> Armed:
        """The fault, its parameters and its side."""
        return self._armed

    def __enter__(self) -> Self:
        self._in_loop(self._target.arm)
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._target.disarm)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _in_loop(self, action: Callable[[Armed], None]) -> None:
        if _runs(self._loop):
            action(self._armed)
        else:
            in_loop(self._loop, _called(action, self._armed))


class Faults:
    """The faults of one gateway or one model's server, by name."""

    def __init__(self, targets: Mapping[Side, Target], loop: asyncio.AbstractEventLoop, *, provider: bool) -> None:
        self._targets = targets
        self._loop = loop
        self._provider = provider

    def arm(
        self,
        name: str,
        *,
        side: str | Side | None = None,
        path: str = "",
        times: int | None = None,
        resets_after: float | None = None,
        **parameters: Any,
    ) -> Switch:
        """The fault of this name, to be entered.

        Raises:
            UsageError: there is no such fault here, or it cannot have these parameters.
        """
        fault = fault_named(name)
        if (fault.phase is Phase.PROVIDER) is not self._provider:
            where = "a model's server: moorline.provider()" if not self._provider else "a gateway: moorline.gateway()"
            raise UsageError(f"{name}: it is a fault of {where}")
        try:
            chosen = None if side is None else Side(side)
        except ValueError:
            raise UsageError(f'{name}: side="{side}" is neither "client" nor "upstream"') from None
        armed = Armed(fault, parameters, side=chosen, path=path, times=times, resets_after=resets_after)
        return Switch(armed, self._targets[armed.side], self._loop)

    def __getattr__(self, name: str) -> Callable[..., Switch]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            fault_named(name)
        except UsageError as error:
            raise AttributeError(str(error)) from None
        return lambda **parameters: self.arm(name, **parameters)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *CATALOGUE]


def _runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is called in that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _called(action: Callable[[Armed], None], armed: Armed) -> None:
    action(armed)


def in_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Have another thread's loop do this."""
    future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
    return future.result(_LOOP_SECONDS)
