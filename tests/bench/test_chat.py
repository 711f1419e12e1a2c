"""The benchmark of the chat runs; what it finds on a busy machine says nothing."""

import pytest

from tests.bench.chat import Scale, measure


@pytest.mark.timeout(120)
async def test_both_servers_stream_and_a_restart_and_a_history_are_measured() -> None:
    results = await measure(Scale(levels=(3,), seconds=0.5, resumed=3, messages=2200, rounds=1))
    (level,) = results.levels
    for found in (level["moorline"], level["plain"]):
        assert found.begun == found.wanted == 3
        assert 0 < found.median <= found.p99
        assert min(found.cpu, found.busy) > 0
    assert level["moorline"].commits > 0
    half, all_clients, cpu = results.resumed
    assert 0 < half <= all_clients
    assert cpu > 0
    assert len(results.openings) == 2
    assert all(seconds > 0 and cpu > 0 for seconds, cpu in results.openings)
