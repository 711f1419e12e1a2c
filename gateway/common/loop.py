"""The event loop of a program, and the signals that end it in an orderly way.

SIGTERM and SIGINT begin a drain; a second one ends the process at once. SIGHUP and SIGUSR2 ask a program that can for
a reload. SIGHUP begins a drain in one that cannot, and where it says what its name says: that the terminal is gone,
which must not leave a server behind that holds the port. SIGHUP is left alone where it is ignored at the start, which
is all that `nohup` does. SIGINT is taken even then: shells ignore it in what a script starts in the background. Reloads
that are asked for while the program starts are held until then, see `program.py`.

A service manager sends each signal to all processes of a service, and the parent tells its child the same: there the
first SIGTERM begins a drain and no other signal does anything.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from moorline.gateway.common import collection, tracing
from moorline.gateway.common.config.units import counted, format_duration
from moorline.gateway.common.program import end_of_terminal, held_reloads
from moorline.gateway.common.web.idle import raise_limit

__all__ = ["ReloadRequests", "run", "run_until", "stop_signals"]

T = TypeVar("T")

logger = logging.getLogger("moorline.loop")

# For tasks that are left at the end.
_CANCEL_SECONDS = 1.0
_OF_THE_PARENT = (signal.SIGHUP, signal.SIGUSR2)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on the fastest loop there is: uvloop needs half of the CPU per relayed byte.

    Tasks of the user's code that ignore their cancellation are left, and the process ends with the exit status that
    `main` returned: asyncio itself would wait for them for ever.
    """
    raise_limit()
    collection.serve()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        value = runner.run(main)
        if stubborn := runner.run(_cancel_all()):
            logger.error("ending without %s that did not end when cancelled", counted(stubborn, "task"))
            sys.stdout.flush()
            logging.shutdown()
            os._exit(value if isinstance(value, int) else 0)
    tracing.stop()
    collection.end()
    return value


async def _cancel_all() -> int:
    """Cancel all other tasks; how many have not ended in time."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return len((await asyncio.wait(tasks, timeout=_CANCEL_SECONDS))[1]) if tasks else 0


async def run_until(stop: asyncio.Event, *work: Coroutine[Any, Any, object]) -> None:
    """Do this work, all of it at the same time, until `stop` is set; some of it may end before.

    Raises:
        Exception: what a part of it has raised. The program must not go on without it, as if nothing had happened.
    """
    stopped = asyncio.create_task(stop.wait())
    working = {asyncio.create_task(each) for each in work}
    try:
        while not stopped.done():
            done, _ = await asyncio.wait([stopped, *working], return_when=asyncio.FIRST_COMPLETED)
            for task in done & working:
                task.result()
            working -= done
    finally:
        for task in (stopped, *working):
            task.cancel()
        await asyncio.gather(stopped, *working, return_exceptions=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class ReloadRequests:
    """Signals that ask for a reload. Those that come during one are one more."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._upgrade = False

    def add(self, *, upgrade: bool) -> None:
        self._upgrade = self._upgrade or upgrade
        self._requested.set()

    async def next(self) -> bool:
        """Wait for the next; whether it is an upgrade, after which all runs the code that is installed now."""
        await self._requested.wait()
        self._requested.clear()
        upgrade, self._upgrade = self._upgrade, False
        return upgrade


@contextlib.contextmanager
def stop_signals(
    log: logging.Logger,
    drain: float,
    before_exit: Callable[[], None] = lambda: None,
    reload: ReloadRequests | None = None,
    *,
    is_child: bool = False,
) -> Iterator[asyncio.Event]:
    """An event that the first signal sets. Leave the context when the drain is over, so that the log says so.

    `drain` is the time that the drain may take, for the log. `before_exit` is called before a second signal ends the
    process. `reload` gets what asks for a reload; without it SIGHUP ends the program as SIGTERM does. `is_child`: the
    parent reloads, and ends this process at once where that is asked for.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    began: float | None = None

    terminal_has_closed = end_of_terminal()

    def received(number: signal.Signals) -> None:
        nonlocal began
        if is_child and (began is not None or number in _OF_THE_PARENT):
            return
        if reload is not None and (number == signal.SIGUSR2 or (number == signal.SIGHUP and not terminal_has_closed())):
            if began is None:
                reload.add(upgrade=number == signal.SIGUSR2)
            else:
                log.info("%s during the drain: nothing is reloaded any more", number.name)
            return
        if began is not None:
            log.warning("%s during the drain: ending at once", number.name)
            before_exit()
            os._exit(128 + number)
        began = loop.time()
        log.info("%s: draining for at most %s", number.name, format_duration(drain))
        stop.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if reload is not None or is_child:
        numbers.append(signal.SIGUSR2)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, received, number)
    for held in held_reloads():
        if held in numbers:
            received(signal.Signals(held))
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        if began is not None:
            log.info("ended after %.1fs", loop.time() - began)
