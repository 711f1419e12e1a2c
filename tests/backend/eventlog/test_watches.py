"""Watches are cheap, share a signal, and leave nothing behind."""

import asyncio
import gc

from moorline.backend.eventlog.base import Commit, Hint
from moorline.backend.eventlog.watches import Watches, hints_of
from moorline.backend.events import Position, RunStarted


async def test_growth_between_registering_and_waiting_is_not_missed() -> None:
    watches = Watches()
    watch = watches.watch("s")
    watches.notify({"s": Hint.GROWN})
    assert await watch.wait() is Hint.GROWN


def test_a_session_is_watched_from_the_head_that_was_read_before_its_first_watch_until_there_is_a_hint() -> None:
    watches = Watches()
    held = [watches.watch("s", Position("e", seq)) for seq in (2, 3)] + [watches.watch("unknown")]
    assert watches.watched() == {"s": Position("e", 2), "unknown": None}
    watches.notify({"s": Hint.GROWN})
    assert watches.watched() == {"s": None, "unknown": None}
    held.clear()
    assert watches.watched() == {}


async def test_an_erasure_is_still_told_when_the_session_has_grown_again() -> None:
    watches = Watches()
    watch = watches.watch("s")
    event = RunStarted(1, "r", "m", 0.0)
    watches.notify(hints_of([Commit("s", "e1", event), Commit("s", "e1", None), Commit("s", "e2", event)]))
    watches.notify({"s": Hint.GROWN})
    assert await watch.wait() is Hint.ERASED
    watches.notify({"s": Hint.GROWN})
    assert await watch.wait() is Hint.GROWN


async def test_thousands_of_watches_wake_at_once_and_a_cancelled_one_affects_no_other() -> None:
    watches = Watches()
    waiting = [asyncio.create_task(watches.watch("s").wait()) for _ in range(5000)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    watches.notify({"s": Hint.GROWN})
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[1:] == [Hint.GROWN] * 4999


async def test_a_watch_that_was_dropped_without_close_is_forgotten() -> None:
    watches = Watches()
    for number in range(100):
        watches.watch(f"s{number}")
    gc.collect()
    assert len(watches._signals) == 0
