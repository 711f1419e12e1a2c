"""That the measurement of restarts runs, and that no client notices one but by its wait."""

import pytest

from tests.bench.restarts import measure


@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
async def test_no_handshake_is_refused_during_a_restart(workers: int) -> None:
    result = await measure(restarts=1, rate=20, workers=workers)
    assert not result.refused
    assert len(result.seconds) >= 20
