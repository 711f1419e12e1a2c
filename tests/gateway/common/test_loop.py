"""What a program's event loop is given at the start."""

import gc

from moorline.gateway.common.loop import keep_start


def test_what_a_program_has_at_its_start_is_not_looked_through_for_cycles() -> None:
    before = gc.get_freeze_count()
    kept: list[list[int]] = [[] for _ in range(1000)]
    try:
        keep_start()
        assert gc.get_freeze_count() - before >= len(kept)
    finally:
        gc.unfreeze()
