"""That clients come back as they are told; what they wait for on a busy machine says nothing."""

from pathlib import Path

import pytest

from moorline.gateway.common.web import reconnect_window
from tests.bench.chatters import Chatters
from tests.bench.processes import free_port
from tests.bench.restart import measure
from tests.support.backends import Script, backend


async def test_all_clients_come_back_within_the_time_that_a_restarting_backend_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect_window, "_LEAST_SECONDS", 0.0)
    chatters, port = Chatters(), free_port()
    async with backend(tmp_path, Script(), port=port):
        await chatters.open(port, [f"s{number}" for number in range(20)], hello=True)
    told = await chatters.told()
    async with backend(tmp_path, Script(), port=port):
        back = await chatters.come_back_as_told(port)
        assert await chatters.close() == 20
    assert 0 < told <= 300
    assert len(back["handshakes"]) == 20
    assert 0 < max(back["handshakes"]) <= back["ended"] - back["began"]


@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ["backend", "gateway"])
async def test_all_clients_come_back_through_two_workers(part: str) -> None:
    returned = await measure(50, part, workers=2)
    assert 0 < returned.clients.median <= returned.clients.p99
    assert returned.gateway_cpu > 0
    assert returned.backend_cpu > 0
