"""The benchmark itself runs; what it finds on a busy machine says nothing."""

import pytest

from tests.bench.figures import FIGURES, IDLE_CPU, LATENCY, MEMORY, Scale
from tests.bench.marks import MARKS, verdicts
from tests.bench.peers import PEERS
from tests.bench.rounds import Results, ratios
from tests.bench.table import number, table
from tests.bench.tunnel import measure
from tests.support import needs

TINY = Scale(rounds=1, seconds=0.1, handshakes=20, tunnels=100, idle=100, heartbeat=1)


@needs.nginx
@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_every_figure_of_the_gateway_and_of_nginx_is_measured() -> None:
    results = await measure(TINY, [peer for peer in PEERS if peer.name in ("gateway", "nginx")])
    assert not {"gateway", "nginx"} & set(results.missing)
    for figure in FIGURES:
        for row in figure.rows:
            assert set(results.medians[row]) == {"gateway", "nginx"}, row
            # The difference of two latencies may be noise.
            assert figure is LATENCY or min(results.medians[row].values()) > 0, row
    # Memory of so few tunnels may have been there before.
    assert set(results.medians[MEMORY.rows[0]]) == {"gateway", "nginx"}
    assert results.medians[IDLE_CPU.rows[0]]["gateway"] > 0
    rows = verdicts(results.medians, MARKS)
    assert all(
        verdict != "not measured" for _, row, mark, _, verdict in rows if "CPU per" in row and mark.endswith("nginx")
    )


def test_a_ratio_is_that_of_the_same_round_with_the_quartiles_of_all() -> None:
    results = Results()
    # A machine that is twice as slow in the second round is so for both.
    for peer, rounds in (("gateway", [2, 4, 2, 2]), ("nginx", [1, 2, 1, 1])):
        results.add(["cost"], "us", peer, [[value] for value in rounds])
    assert results.ratio("cost", "gateway", "nginx") == (2, 2, 2)
    assert ratios(results, "gateway").splitlines()[1] == "cost  2.00 (2.00-2.00)"


def test_a_table_has_a_column_for_each_peer_and_the_ratio_of_the_first() -> None:
    text = table({"cost": {"gateway": 12.34, "nginx": 10.0}}, {"cost": "us"}, against="nginx")
    assert [line.split() for line in text.splitlines()] == [
        ["gateway", "nginx", "gateway", "/", "nginx"],
        ["cost", "us", "12.3", "10", "1.23"],
    ]


def test_a_number_has_three_digits_that_count() -> None:
    assert [number(value) for value in (1234.5, 12.345, 0.012345, None)] == ["1234", "12.3", "0.0123", "-"]
