"""The processes that `serve` keeps alive beside the gateway, started, stopped and killed together."""

import asyncio

from moorline.gateway.run.supervisor import Supervisor

__all__ = ["Parts"]


class Parts:
    """Use it in one event loop. `stop` awaits all that `start` began."""

    def __init__(self) -> None:
        self._running: dict[Supervisor, asyncio.Task[int]] = {}

    def start(self, supervisor: Supervisor) -> None:
        """Keep a process alive from now on."""
        self._running[supervisor] = asyncio.create_task(supervisor.run())

    async def wait(self) -> None:
        """Return when one of them has ended and is not started again: it refused its options."""
        await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> int:
        """Have all of them drain at the same time; 0, or the status of one that refused its options."""
        for supervisor in self._running:
            supervisor.stop()
        statuses = await asyncio.gather(*self._running.values())
        return next((status for status in statuses if status), 0)

    def kill(self) -> None:
        """End all of them now."""
        for supervisor in self._running:
            supervisor.kill()
