"""Over which time the clients of a restart come back, and what a handshake is measured to cost."""

import asyncio
import time

import pytest

from moorline.backend.protocol.v1 import Version1
from moorline.backend.protocol.v2 import Version2
from moorline.gateway.common.web.reconnect_window import Measured, ReconnectWindow


def window(cost: float) -> ReconnectWindow:
    """After many handshakes of this cost."""
    window = ReconnectWindow(whole=10, weight=64)
    for _ in range(1000):
        window.add(cost)
    return window


def test_the_window_grows_with_the_sockets_and_the_cost_of_a_handshake() -> None:
    one, ten = window(0.0005).seconds(1000), window(0.0005).seconds(10_000)
    slow = window(0.001).seconds(1000)
    assert one is not None
    assert (slow, ten) == (2 * one, 10 * one)


def test_few_clients_need_not_be_told() -> None:
    assert window(0.0005).seconds(10) is None


def test_it_is_no_longer_than_a_person_waits() -> None:
    assert window(1.0).seconds(100_000) == 300


def test_goaway_has_the_window_in_version_2_alone() -> None:
    assert Version2().goaway(1.0, 30.0) == b'{"type":"goaway","reconnect_after":1.0,"reconnect_within":30.0}'
    assert Version1().goaway(1.0, 30.0) is None


async def test_only_the_work_is_measured_and_not_what_it_waits_for() -> None:
    async def work() -> str:
        busy_until(time.thread_time() + 0.02)
        await others
        busy_until(time.thread_time() + 0.02)
        return "done"

    others = asyncio.create_task(asyncio.to_thread(lambda: busy_until(time.thread_time() + 0.2)))
    measured, began = Measured(work()), time.perf_counter()
    assert await measured == "done"
    assert 0.04 <= measured.seconds <= time.perf_counter() - began - 0.2


def busy_until(end: float) -> None:
    """Take CPU time of this thread."""
    while time.thread_time() < end:
        pass


async def test_what_is_measured_can_be_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def measure() -> None:
        await Measured(work())

    task = asyncio.create_task(measure())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_what_it_waits_for_may_fail() -> None:
    async def work() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    with pytest.raises(TimeoutError):
        await Measured(work())
