"""Close frames on real sockets: the peers' own, and the gateway's where a peer ended without one."""

import asyncio
import contextlib
import logging

import pytest

from tests.gateway.websocket.conftest import Start, ended, tunnel
from tests.support.faulty_upstream import Peer, Upstream
from tests.support.websocket_frames import BINARY, CLOSE, TEXT, close_frame, frame, parse

KEY = b"\x0a\x0b\x0c\x0d"
HELLO = frame(TEXT, b"hello", key=KEY)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")


@pytest.mark.parametrize("way", ["fin", "close", "reset"])
async def test_a_client_that_ends_without_a_close_frame_is_1001_to_the_upstream(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(HELLO)
        await backend.exactly(len(HELLO))
        getattr(client, way)()
        (told,) = parse(await backend.rest())
        assert (told.masked, told.close) == (True, (1001, "client went away"))
        backend.close()
        reason = "reset" if way == "reset" else "fin"
        assert f"ended_by=client reason={reason} close_code=1001 " in await ended(gateway, caplog)


@pytest.mark.parametrize("way", ["fin", "close", "reset"])
async def test_an_upstream_that_ends_without_a_close_frame_is_1014_to_the_client(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        await backend.send(frame(TEXT, b"hello"))
        await client.exactly(7)
        getattr(backend, way)()
        (told,) = parse(await client.rest())
        assert (told.masked, told.close) == (False, (1014, "backend connection lost"))
        client.close()
        reason = "reset" if way == "reset" else "fin"
        assert f"ended_by=upstream reason={reason} close_code=1014 " in await ended(gateway, caplog)


async def test_a_close_frame_passes_alone_and_its_answer_comes_back(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        question, answer = close_frame(4001, "enough", key=KEY), close_frame(4001)
        await client.send(question)
        assert await backend.exactly(len(question)) == question
        await backend.send(answer)
        backend.close()
        assert await client.rest() == answer
        client.close()
        assert "ended_by=client reason=closed close_code=4001 " in await ended(gateway, caplog)


async def test_the_answer_to_the_gateways_close_frame_is_discarded(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(HELLO[:3])
        await backend.exactly(3)
        backend.fin()
        (told,) = parse(await client.rest())
        assert told.opcode == CLOSE
        await client.send(HELLO[3:] + close_frame(1014, key=KEY))
        client.close()
        assert await backend.rest() == b""
        await gateway.has(0)


async def test_a_close_frame_arrives_while_the_client_is_sending(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    for _ in range(10):
        async with tunnel(gateway, upstream) as (client, backend):
            sending = asyncio.ensure_future(client.send(frame(BINARY, bytes(8 << 20), key=KEY)))
            await backend.exactly(100_000)
            backend.reset()
            (told,) = parse(await client.rest())
            assert told.close == (1014, "backend connection lost")
            await sending


async def test_within_a_frame_there_is_a_fin_alone(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        await backend.send(frame(TEXT, b"hello")[:4])
        assert await client.exactly(4) == frame(TEXT, b"hello")[:4]
        backend.reset()
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("key", "other_code", "code"), [(b"", 1014, 1014), (KEY, 1001, 1009)], ids=["backend", "client"]
)
async def test_a_frame_over_max_frame_size_is_1009_to_its_sender_and_the_log_has_the_clients_code(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, key: bytes, other_code: int, code: int
) -> None:
    gateway = await start(upstream.port, max_frame_size=1000)
    async with tunnel(gateway, upstream) as (client, backend):
        sender, other = (client, backend) if key else (backend, client)
        fits = frame(BINARY, bytes(1000), key=key)
        await sender.send(fits + frame(BINARY, bytes(1001), key=key))
        assert parse(await sender.rest())[0].close == (1009, "frame larger than max_frame_size")
        assert await other.exactly(len(fits)) == fits
        assert parse(await other.rest())[0].close == (other_code, "frame larger than max_frame_size")
        sender.close()
        other.close()
        assert f"reason=max_frame_size close_code={code} " in await ended(gateway, caplog)


async def test_silence_is_1001_with_the_timers_name_to_both(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, proxy_read_timeout=0.6)
    async with tunnel(gateway, upstream) as (client, backend):
        for peer in (client, backend):
            assert parse(await peer.rest())[0].close == (1001, "proxy_read_timeout")


async def test_a_drain_is_1001_to_both(start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        for relay in list(gateway.tunnels._sockets):
            relay.shut_down()
        for peer in (client, backend):
            assert parse(await peer.rest())[0].close == (1001, "gateway restarting")
            peer.close()
        assert "ended_by=gateway reason=shutdown close_code=1001 " in await ended(gateway, caplog)


@pytest.mark.parametrize("code", [1000, 4001])
async def test_peers_that_do_not_disconnect_after_a_close_are_cut_after_close_timeout(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    gateway = await start(upstream.port, close_timeout=0.2)
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(close_frame(code, key=KEY))
        assert await client.ended()
        assert await backend.ended()
        assert f"ended_by=gateway reason=close_timeout close_code={code} " in await ended(gateway, caplog)


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_peer_that_gets_a_close_frame_and_does_not_disconnect_is_cut_after_close_timeout(
    start: Start, upstream: Upstream, who: str
) -> None:
    gateway = await start(upstream.port, close_timeout=0.2)
    async with tunnel(gateway, upstream) as (client, backend):
        (backend if who == "client" else client).close()
        left = client if who == "client" else backend
        assert parse(await left.rest())[0].opcode == CLOSE
        await gateway.has(0)


async def test_a_client_that_does_not_read_is_cut_and_the_upstream_gets_the_reason(
    start: Start, upstream: Upstream
) -> None:
    gateway = await start(upstream.port, send_timeout=0.4)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (_, backend):
        flooding = asyncio.ensure_future(_flood(backend, frame(BINARY, bytes(1 << 20))))
        (told,) = parse(await backend.rest())
        assert (told.masked, told.close) == (True, (1001, "send_timeout"))
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_an_upstream_that_does_not_read_is_cut_and_the_client_gets_the_reason(start: Start) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        gateway = await start(upstream.port, proxy_send_timeout=0.4)
        async with tunnel(gateway, upstream) as (client, _):
            flooding = asyncio.ensure_future(_flood(client, frame(BINARY, bytes(1 << 20), key=KEY)))
            (told,) = parse(await client.rest())
            assert told.close == (1013, "proxy_send_timeout")
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


async def _flood(peer: Peer, message: bytes) -> None:
    """Send until the connection ends."""
    with contextlib.suppress(ConnectionError):
        while True:
            await peer.send(message)
