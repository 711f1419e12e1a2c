"""The timers of tunnels, on a loop whose time the test has in its hands."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from moorline.gateway.tunnel.timers import Timers


class Loop:
    """Holds what it is to call."""

    def __init__(self) -> None:
        self.later: list[Handle] = []
        self.soon: list[Callable[[], object]] = []

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> "Handle":
        self.later.append(Handle(seconds, lambda: callback(*arguments)))
        return self.later[-1]

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)


class Handle:
    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.seconds, self.call, self.cancelled = seconds, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Waiting:
    """Notes that its moment has come, and does what the test has for it then."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.expired = 0
        self.then = then

    def expire(self) -> None:
        self.expired += 1
        self.then()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def timers(loop: Loop) -> Timers:
    return Timers(cast("asyncio.AbstractEventLoop", loop))


def test_all_for_one_moment_have_one_timer_of_the_loop(loop: Loop, timers: Timers) -> None:
    first, second, other = Waiting(), Waiting(), Waiting()
    timers.add(first, 120.0, 100.0)
    timers.add(second, 120.0, 101.0)
    timers.add(other, 120.25, 101.0)
    assert [round(each.seconds) for each in loop.later] == [20, 19]
    loop.later[0].call()
    assert (first.expired, second.expired, other.expired) == (1, 1, 0)


def test_one_that_waits_no_more_does_not_expire(loop: Loop, timers: Timers) -> None:
    one, other = Waiting(), Waiting()
    timers.add(one, 120.0, 100.0)
    timers.add(other, 120.0, 100.0)
    timers.remove(one, 120.0)
    loop.later[0].call()
    assert (one.expired, other.expired) == (0, 1)


def test_a_moment_that_nothing_waits_for_has_no_timer(loop: Loop, timers: Timers) -> None:
    one, other = Waiting(), Waiting()
    timers.add(one, 120.0, 100.0)
    timers.add(other, 120.0, 100.0)
    timers.remove(one, 120.0)
    assert not loop.later[0].cancelled
    timers.remove(other, 120.0)
    assert loop.later[0].cancelled


def test_one_that_is_ended_by_another_of_its_moment_does_not_expire(loop: Loop, timers: Timers) -> None:
    one, other = Waiting(), Waiting()
    one.then = lambda: timers.remove(other, 120.0)
    other.then = lambda: timers.remove(one, 120.0)
    timers.add(one, 120.0, 100.0)
    timers.add(other, 120.0, 100.0)
    loop.later[0].call()
    assert one.expired + other.expired == 1


def test_one_may_wait_for_the_same_moment_again(loop: Loop, timers: Timers) -> None:
    one = Waiting(lambda: timers.add(one, 120.0, 120.0))
    timers.add(one, 120.0, 100.0)
    loop.later[0].call()
    assert (one.expired, len(loop.later)) == (1, 2)


def test_the_error_of_one_is_the_loops_and_holds_up_no_other(loop: Loop, timers: Timers) -> None:
    def fail() -> None:
        raise LookupError

    waiting = [Waiting(fail) for _ in range(3)]
    for each in waiting:
        timers.add(each, 120.0, 100.0)
    with pytest.raises(LookupError):
        loop.later[0].call()
    while loop.soon:
        with pytest.raises(LookupError):
            loop.soon.pop()()
    assert [each.expired for each in waiting] == [1, 1, 1]
