"""That clients which come back are measured; the figures of a busy machine say nothing."""

import pytest

from tests.bench.marks import RECONNECT_CPU
from tests.bench.reconnect import PEERS, Scale, measure
from tests.support import needs


@needs.nginx
@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_the_gateway_and_nginx_take_all_clients_that_come_back_at_once() -> None:
    peers = [peer for peer in PEERS if peer.name in ("gateway", "nginx")]
    results = await measure(Scale(clients=50, rounds=1), peers)
    assert not results.missing
    for row, values in results.medians.items():
        assert set(values) == {"gateway", "nginx"}, row
    assert RECONNECT_CPU in results.medians
    assert results.medians["handshake, median"]["gateway"] <= results.medians["all are in"]["gateway"]
