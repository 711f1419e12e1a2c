"""The benchmark of the chat runs; what it finds on a busy machine says nothing."""

import pytest

from tests.bench.chat import Scale, _marks, measure
from tests.bench.stages import STAGES, table
from tests.bench.stages import measure as measure_stages
from tests.bench.streams import Streams


@pytest.mark.whole_measurement
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


@pytest.mark.whole_measurement
@pytest.mark.timeout(60)
async def test_each_token_passes_all_stages_one_after_the_other() -> None:
    found = await measure_stages(2, 0.5)
    assert found
    assert all(seconds >= 0 for token in found for seconds in token.values())


def test_the_stages_of_a_token_add_up_to_all_of_its_way() -> None:
    token = dict.fromkeys(STAGES, 0.001)
    *_, whole = table({1: [token, token]}).splitlines()
    assert whole.split() == ["all", "8", "8"]


def streams(*, wanted: int, cpu: float = 1.0, median: float = 0.001, p99: float = 0.001) -> Streams:
    return Streams(wanted, wanted, median, p99, cpu, 0.5, 100.0, 1.0)


def test_each_mark_is_held_against_the_level_that_it_is_about() -> None:
    levels = {
        1: {"moorline": streams(wanted=1, median=0.003)},
        100: {"moorline": streams(wanted=100, cpu=0.4), "plain": streams(wanted=100)},
        500: {"moorline": streams(wanted=500, p99=0.2)},
    }
    assert [line.rpartition(" ")[2] for line in _marks(levels)] == ["MISSED", "reached", "reached"]


def test_a_level_that_the_server_did_not_come_to_is_missed() -> None:
    assert [line.rpartition(" ")[2] for line in _marks({100: {}, 500: {}})] == ["MISSED", "MISSED"]
