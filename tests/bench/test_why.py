"""The benchmark runs; what it finds on a busy machine says nothing."""

import pytest

from tests.bench.marks import WHY_MARKS, verdicts
from tests.bench.why import QUICK, measure


@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_what_a_cause_and_the_inspector_cost_is_measured() -> None:
    results, quotients = await measure(QUICK)
    assert results.missing == {}
    assert all(verdict != "not measured" for *_, verdict in verdicts(results.medians, WHY_MARKS))
    assert all(value > 0 for each in quotients for value in each.values)
    assert all(value > 0 for row, values in results.medians.items() if "closed" not in row for value in values.values())
