"""That the measurement of upgrades runs, and that no socket notices one."""

import pytest

from tests.bench.handover import measure


@pytest.mark.timeout(120)
async def test_an_upgrade_under_traffic_closes_no_tunnel_and_damages_no_stream() -> None:
    result = await measure(tunnels=50, upgrades=1)
    assert (result.tunnels, result.closed, result.damaged) == (50, 0, 0)
    assert result.pauses
