"""That every command is measured; how long it takes on a busy machine says nothing."""

import pytest

from tests.bench.marks import START_MARKS
from tests.bench.start import measure


@pytest.mark.whole_measurement
@pytest.mark.timeout(180)
async def test_the_commands_with_a_mark_are_measured() -> None:
    results = await measure(1)
    assert {mark.row for mark in START_MARKS} <= set(results.medians)
    assert all(value > 0 for values in results.medians.values() for value in values.values())
