"""When the interpreter searches for cycles."""

import gc

from moorline.gateway.common import collection
from moorline.gateway.common.collection import keep_start, no_collection


def test_modules_are_read_with_few_searches_and_an_event_loop_runs_with_more() -> None:
    usual = gc.get_threshold()
    try:
        collection.begin()
        # A hundred times what is usual up to Python 3.12.
        assert gc.get_threshold()[0] > 100 * 700
        collection.serve()
        serving = gc.get_threshold()
        assert usual[0] < serving[0] <= 10 * usual[0]
        assert serving[1:] == usual[1:]
    finally:
        gc.set_threshold(*usual)


def test_what_a_program_has_at_its_start_is_not_looked_through_for_cycles() -> None:
    before = gc.get_freeze_count()
    kept: list[list[int]] = [[] for _ in range(1000)]
    # Nothing unfreezes it: the objects of all tests are frozen, too.
    keep_start()
    assert gc.get_freeze_count() - before >= len(kept)


def test_searches_begin_again_behind_the_outermost_block() -> None:
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_program_that_has_switched_the_searches_off_finds_them_off() -> None:
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
