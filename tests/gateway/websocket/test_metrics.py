"""What Prometheus reads of a gateway: each series after traffic of which everything is known."""

import asyncio
import contextlib
from collections.abc import Sequence

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.listen import listen
from moorline.gateway.counts import Sample
from moorline.gateway.keys import METRICS
from moorline.gateway.metrics import Metrics, code_label, method_label
from tests.gateway.websocket.conftest import Gateway, Start, tunnel
from tests.support.faulty_upstream import (
    HANDSHAKE,
    REFUSAL,
    STEP,
    Fault,
    Upstream,
    dial,
    faulty_upstream,
    handshake,
)
from tests.support.websocket_frames import close_frame, frame

TEXT = 1
KEY = b"\1\2\3\4"


@pytest.fixture
def port(unused_tcp_port: int) -> int:
    """The one for /metrics."""
    return unused_tcp_port


async def scrape(port: int) -> dict[str, float]:
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        return samples_of(await answer.text())


def samples_of(text: str) -> dict[str, float]:
    """Each sample by its name and its labels in alphabetical order: `moorline_socket_bytes_total{from="client"}`."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def until(port: int, sample: str, value: float = 1) -> dict[str, float]:
    """All samples, once this one has its value: what is counted behind an answer is so a moment later."""
    async with asyncio.timeout(STEP):
        while True:
            samples = await scrape(port)
            if samples.get(sample) == value:
                return samples


async def test_an_open_socket_is_counted_with_what_it_has_carried(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port)
    up, down = frame(TEXT, b"hello", key=KEY), frame(TEXT, b"hi")
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(up)
        assert await backend.exactly(len(up)) == up
        await backend.send(down + down)
        assert await client.exactly(2 * len(down)) == down + down
        while_open = await scrape(port)
        backend.close()
    assert while_open["moorline_sockets_open"] == 1
    assert while_open['moorline_handshake_seconds_count{outcome="opened"}'] == 1
    assert while_open['moorline_socket_bytes_total{from="client"}'] == len(up)
    assert while_open['moorline_socket_bytes_total{from="upstream"}'] == 2 * len(down)
    assert while_open['moorline_socket_frames_total{from="client"}'] == 1
    assert while_open['moorline_socket_frames_total{from="upstream"}'] == 2
    assert while_open[f'moorline_upstream_connections{{upstream="http://127.0.0.1:{upstream.port}"}}'] == 1
    afterwards = await until(port, "moorline_sockets_open", 0)
    assert afterwards['moorline_socket_bytes_total{from="upstream"}'] == 2 * len(down)
    assert afterwards[f'moorline_upstream_connections{{upstream="http://127.0.0.1:{upstream.port}"}}'] == 0


async def test_an_end_is_counted_by_who_why_and_code(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port)
    async with tunnel(gateway, upstream) as (client, backend):
        await backend.send(close_frame(4504, "deleted"))
        backend.fin()
        await client.end()
        client.close()
    samples = await until(
        port, 'moorline_sockets_ended_total{cause="UC-closing",close_code="4504",ended_by="upstream",reason="closed"}'
    )
    async with tunnel(gateway, upstream) as (client, backend):
        client.reset()
        await backend.end()
        backend.close()
    samples = await until(
        port, 'moorline_sockets_ended_total{cause="CR-idle",close_code="1001",ended_by="client",reason="reset"}'
    )
    assert samples["moorline_socket_seconds_count"] == 2


async def test_lifetimes_are_no_latencies(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port)
    async with aiohttp.ClientSession(gateway.url) as client, client.get("/healthz") as answer:
        assert answer.status == 200
    async with tunnel(gateway, upstream):
        samples = await until(port, 'moorline_http_request_seconds_count{method="GET",route="/healthz",status="200"}')
    assert [name for name in samples if name.startswith("moorline_http_request_seconds_count")] == [
        'moorline_http_request_seconds_count{method="GET",route="/healthz",status="200"}'
    ]


async def test_round_trips_of_pings_are_counted_by_hop(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port, client_heartbeat=0.1, upstream_heartbeat=0.1)
    async with tunnel(gateway, upstream) as (client, backend):
        for peer, key, hop in ((client, KEY, "client"), (backend, b"", "upstream")):
            # Header and payload; the upstream's are masked.
            ping = await peer.exactly(2)
            size = ping[1] & 0x7F
            mask = await peer.exactly(4) if hop == "upstream" else b""
            payload = bytearray(await peer.exactly(size))
            for index in range(size if mask else 0):
                payload[index] ^= mask[index % 4]
            await peer.send(frame(0xA, bytes(payload), key=key))
            async with asyncio.timeout(STEP):
                while (await scrape(port)).get(f'moorline_ping_seconds_count{{hop="{hop}"}}', 0) < 1:
                    pass


@pytest.mark.parametrize(
    ("fault", "outcome"), [(Fault.REFUSE, "upstream_unreachable"), (Fault.SILENT, "upstream_timeout")]
)
async def test_a_backend_that_fails_is_the_handshake_s_outcome(
    start: Start, port: int, fault: Fault, outcome: str
) -> None:
    async with faulty_upstream(fault) as backend:
        limits = {"proxy_read_timeout": 0.3} if fault is Fault.SILENT else {}
        gateway = await start(backend, metrics_port=port, connect_retry=None, **limits)
        async with dial(gateway.port) as client:
            await client.send(HANDSHAKE)
            await client.head()
        await until(port, f'moorline_handshake_seconds_count{{outcome="{outcome}"}}')


async def test_refusals_are_counted_by_who_refuses(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port, max_connections=1)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(REFUSAL)
        await client.head()
    await until(port, 'moorline_handshake_seconds_count{outcome="rejected_by_upstream"}')
    async with dial(gateway.port) as client:
        await client.send(handshake("/ws/chat/p/s", "Origin: https://elsewhere.example"))
        assert (await client.head()).startswith(b"HTTP/1.1 403 ")
    await until(port, 'moorline_handshake_seconds_count{outcome="rejected"}')
    async with tunnel(gateway, upstream), dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    await until(port, 'moorline_handshake_seconds_count{outcome="unavailable"}')


async def test_a_held_handshake_shows_and_so_does_its_client_s_leaving(start: Start, port: int) -> None:
    async with faulty_upstream(Fault.REFUSE) as backend:
        gateway = await start(backend, metrics_port=port)
        async with dial(gateway.port) as client:
            await client.send(HANDSHAKE)
            await gateway.holds(1)
            assert (await scrape(port))["moorline_handshakes_held"] == 1
        samples = await until(port, 'moorline_handshake_seconds_count{outcome="client_closed"}')
        assert samples["moorline_handshakes_held"] == 0


async def test_an_upstream_that_is_down_shows(start: Start, upstream: Upstream, port: int) -> None:
    async with faulty_upstream(Fault.REFUSE) as away:
        urls = (f"http://127.0.0.1:{away}", f"http://127.0.0.1:{upstream.port}")
        gateway = await start(upstream.port, metrics_port=port, upstream=urls)
        async with tunnel(gateway, upstream):
            samples = await scrape(port)
        assert samples[f'moorline_upstream_down{{upstream="{urls[0]}"}}'] == 1
        assert samples[f'moorline_upstream_down{{upstream="{urls[1]}"}}'] == 0


async def test_nothing_that_a_client_chose_is_in_it(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port, connect_retry=None, upstream_keepalive=None)
    secret = "patient:secret"
    for line in (f"MADEUP-{secret} /{secret}", f"GET /api/chat/{secret}/other", f"GET /ws/chat/{secret}/s"):
        async with dial(gateway.port) as client:
            await client.send(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if "/api" in line or "/ws" in line:
                backend = await upstream.accept()
                await backend.send(REFUSAL)
            await client.head()
    async with dial(gateway.port) as client:
        await client.send(handshake(f"/ws/chat/{secret}/s"))
        backend = await upstream.accept()
        await backend.send(REFUSAL)
        await client.head()
    samples = await until(port, 'moorline_handshake_seconds_count{outcome="rejected_by_upstream"}')
    assert [name for name in samples if "secret" in name.lower() or "madeup" in name.lower()] == []


def test_a_client_s_codes_and_methods_are_of_few_kinds() -> None:
    assert {code_label("client", code) for code in range(1016, 65536)} == {"1xxx", "2xxx", "3xxx", "4xxx", "other"}
    assert code_label("client", 1001) == "1001"
    assert code_label("backend", 4504) == "4504"
    assert (method_label("GET"), method_label("MADEUP")) == ("GET", "other")


async def test_the_page_s_port_has_no_metrics(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port)
    async with aiohttp.ClientSession(gateway.url) as client, client.get("/metrics") as answer:
        assert "moorline_" not in await answer.text()


async def test_a_page_that_rebinds_its_name_cannot_read_them(start: Start, upstream: Upstream, port: int) -> None:
    await start(upstream.port, metrics_port=port)
    url = f"http://127.0.0.1:{port}/metrics"
    async with aiohttp.ClientSession() as client, client.get(url, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 421
        assert "moorline_" not in await answer.text()


@pytest.mark.parametrize("path", ["metrics", "none"])
async def test_their_port_tells_no_version(start: Start, upstream: Upstream, port: int, path: str) -> None:
    await start(upstream.port, metrics_port=port)
    async with aiohttp.request("GET", f"http://127.0.0.1:{port}/{path}") as answer:
        assert answer.headers["Server"] == "moorline"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_they_can_be_read_during_the_drain(start: Start, upstream: Upstream, port: int) -> None:
    gateway = await start(upstream.port, metrics_port=port, drain=10.0)
    async with tunnel(gateway, upstream):
        gateway.drain()
        assert (await scrape(port))["moorline_sockets_open"] == 1


async def test_a_taken_port_is_one_clear_line(start: Start, upstream: Upstream, port: int) -> None:
    words = f"^metrics_port: {port} is in use on 127.0.0.1; .* --metrics-port$"
    with contextlib.closing(listen("127.0.0.1", port)[0]), pytest.raises(UsageError, match=words):
        await start(upstream.port, metrics_port=port)


async def test_there_are_none_by_default(start: Start, upstream: Upstream) -> None:
    gateway: Gateway = await start(upstream.port)
    async with tunnel(gateway, upstream):
        assert METRICS not in gateway.app


def test_a_series_that_goes_on_in_another_process_began_when_the_first_did() -> None:
    def began(samples: Sequence[Sample]) -> list[float]:
        return [sample.value for sample in samples if sample.name == "moorline_handshake_seconds_created"]

    before, after = Metrics(), Metrics()
    before.handshake("opened", 0.1)
    taken = before.take()
    after.handshake("opened", 0.1)
    after.add(taken)
    assert began(after.take()) == began(taken)


def test_what_was_taken_is_not_taken_again() -> None:
    def opened(samples: Sequence[Sample]) -> list[float]:
        return [sample.value for sample in samples if sample.name == "moorline_handshake_seconds_count"]

    metrics = Metrics()
    for _ in range(2):
        metrics.handshake("opened", 0.1)
        assert opened(metrics.take()) == [1.0]
    assert metrics.take() == ()
