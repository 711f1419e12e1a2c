"""Tunnels that have ended, in any way, leave nothing behind."""

import asyncio
import gc
import random
from pathlib import Path

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from moorline.gateway.common.collection import no_collection
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.tunnel.relay import End, Relay
from tests.gateway.websocket.conftest import Gateway, Start
from tests.support.eventlogs import until
from tests.support.faulty_upstream import HANDSHAKE, REFUSAL, SWITCH, Upstream, dial


async def test_1000_connections_that_ended_in_every_way_leave_nothing_behind(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, handshake_timeout=5.0)
    await _one_of_each(gateway, upstream, rounds=1)
    before = await _holdings(gateway)
    # Ten ways, a hundred times.
    await _one_of_each(gateway, upstream, rounds=100)
    assert await _holdings(gateway) == before


async def test_tunnels_that_ended_in_every_way_are_freed_without_a_search_for_cycles(
    start: Start, upstream: Upstream
) -> None:
    gateway = await start(upstream.port, handshake_timeout=5.0)
    gc.collect()
    with no_collection():
        await _one_of_each(gateway, upstream, rounds=1)
        await gateway.has(0)
        await until(lambda: not any(isinstance(each, End | Relay) for each in gc.get_objects()))


async def test_a_request_whose_upstream_cannot_be_reached_is_freed_without_a_search_for_cycles(start: Start) -> None:
    gateway = await start(9)  # nothing listens there
    gc.collect()
    with no_collection():
        async with dial(gateway.port) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert b" 502 " in await client.head()
        await until(lambda: not any(isinstance(each, Exchange | UpstreamConnection) for each in gc.get_objects()))


async def _holdings(gateway: Gateway) -> dict[str, int]:
    await gateway.has(0)
    # What the last one left to the loop: callbacks of tasks, closings of sockets.
    for _ in range(20):
        await asyncio.sleep(0)
    gc.collect()
    kept = (RequestHandler, UpstreamConnection, Relay, web.Request)
    objects = gc.get_objects()
    return {
        "descriptors": _descriptors(),
        "tasks": len(asyncio.all_tasks()),
        **{kind.__name__: sum(isinstance(each, kind) for each in objects) for kind in kept},
    }


def _descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def _one_of_each(gateway: Gateway, upstream: Upstream, *, rounds: int) -> None:
    """Each way to end, in an order of its own per round; two at a time overlap."""
    ways = [
        ("client", "fin"),
        ("client", "close"),
        ("client", "reset"),
        ("backend", "fin"),
        ("backend", "close"),
        ("backend", "reset"),
        ("both", "close"),
        ("both", "reset"),
        ("refused", ""),
        ("early", ""),
    ]
    order = random.Random(rounds)
    for _ in range(rounds):
        for who, how in order.sample(ways, len(ways)):
            await _live(gateway, upstream, who, how)


async def _live(gateway: Gateway, upstream: Upstream, who: str, how: str) -> None:
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        if who == "early":
            client.reset()
            await backend.ended()
        elif who == "refused":
            await backend.send(REFUSAL)
            await client.head()
        else:
            await backend.send(SWITCH + b"hello")
            await client.head()
            assert await client.exactly(5) == b"hello"
            await client.send(b"hello")
            await backend.exactly(5)
            for name, peer, other in (("client", client, backend), ("backend", backend, client)):
                if who == name:
                    getattr(peer, how)()
                    await other.ended()
                    other.close()
                elif who == "both":
                    getattr(peer, how)()
        backend.close()
