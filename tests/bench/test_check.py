"""Each case is measured, and `moorline check` has the right verdict on it."""

import dataclasses

import pytest

from tests.bench.check import measure, table
from tests.bench.check_faults import FAULTS
from tests.bench.check_healthy import HEALTHY

QUICK = ("not running", "wrong path", "Origin refused", "wrong Sec-WebSocket-Accept", "moorline")


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param((), marks=[pytest.mark.whole_measurement, pytest.mark.timeout(600)])]
)
async def test_each_fault_is_named_and_what_works_is_healthy(names: tuple[str, ...]) -> None:
    cases = [case for case in (*FAULTS, *HEALTHY) if not names or case.name in names]
    results = await measure(cases)
    assert len(results) == (len(names) or len(FAULTS) + len(HEALTHY))
    assert all(result.is_right or result.missing for result in results), table(results)


async def test_a_verdict_that_names_another_hop_is_wrong() -> None:
    (case,) = [case for case in FAULTS if case.name == "not running"]
    (result,) = await measure([dataclasses.replace(case, hop="HTTP")])
    assert not result.is_right
    assert table([result]).startswith("WRONG ")
