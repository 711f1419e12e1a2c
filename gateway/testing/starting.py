"""Something that runs for the length of a test: in the test's own loop, or in a loop on a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

__all__ = ["Starting"]

T = TypeVar("T")


class Starting(Generic[T]):
    """Enter it to have it started.

    `async with` runs it in the test's own loop, where a test may share objects with its application. `with`, and
    `async with` on another library's loop than asyncio's, run it in a loop on a thread of its own.
    """

    def __init__(self, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = open_it
        self._here: AbstractAsyncContextManager[T] | None = None
        self._elsewhere: _Thread[T] | None = None

    async def __aenter__(self) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self.__enter__()
        self._here = self._open()
        return await self._here.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        if self._here is None:
            self.__exit__()
            return
        here, self._here = self._here, None
        await here.__aexit__(None, None, None)

    def __enter__(self) -> T:
        self._elsewhere = _Thread(self._open)
        return self._elsewhere.start()

    def __exit__(self, *raised: object) -> None:
        if self._elsewhere is not None:
            thread, self._elsewhere = self._elsewhere, None
            thread.stop()


class _Thread(Generic[T]):
    """A loop that does nothing but hold one thing open."""

    def __init__(self, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = open_it
        self._started = threading.Event()
        self._value: T
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="moorline", daemon=True)

    def start(self) -> T:
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self._value

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by an error, which is raised below
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _hold(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._open() as self._value:
            self._started.set()
            await self._stop.wait()
