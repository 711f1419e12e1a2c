"""A pytest plugin that ends tests that hang, each at its own limit: pytest-timeout's `timeout`, of the mark or the ini.

Shortly before its limit a coroutine test is cancelled: the failure shows where it waited, and its fixtures clean up.
What that does not end (a task that never returns to the event loop, a fixture, a swallowed cancellation) ends at the
limit with its process, which prints the stack of each thread; pytest-xdist reports the test's name and goes on in a new
process. pytest-timeout itself raises an exception from a signal handler, and an event loop stores that in the task that
happens to run; its other method prints the stacks to where pytest-xdist's processes print nothing.
"""

import asyncio
import faulthandler
import functools
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest

__all__ = ["pytest_configure", "pytest_timeout_cancel_timer", "pytest_timeout_set_timer", "pytest_unconfigure"]

# For the fixtures of a cancelled test, as a part of its limit.
_CLEANUP = 0.2
_STDERR = pytest.StashKey[int]()


class _Settings(Protocol):
    """pytest-timeout's, which has no types."""

    timeout: float


def pytest_configure(config: pytest.Config) -> None:
    # While a test runs, descriptor 2 is a file of pytest's.
    config.stash[_STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


def pytest_timeout_set_timer(item: pytest.Item, settings: _Settings) -> bool:
    faulthandler.dump_traceback_later(settings.timeout, exit=True, file=item.config.stash[_STDERR])
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _cancelled_after(settings.timeout * (1 - _CLEANUP), item.obj)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    faulthandler.cancel_dump_traceback_later()
    return True


def _cancelled_after(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    deadline = time.monotonic() + seconds

    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()) as limit:
                await test(*args, **kwargs)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AssertionError(f"cancelled after {seconds:g} s") from error

    return limited
