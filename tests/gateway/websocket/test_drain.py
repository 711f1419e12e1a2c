"""The end of the gateway, as its sockets see it."""

import asyncio
import contextlib
import re
import time

import pytest

from moorline.gateway.common.web import reconnect_window
from tests.gateway.websocket.conftest import Start, tunnel
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Upstream, dial
from tests.support.websocket_frames import close_frame, parse

GOODBYE = close_frame(1001, "gateway restarting")


async def test_a_new_handshake_is_a_503(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        gateway.drain()
        await client.send(HANDSHAKE)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in head


async def test_a_handshake_that_is_answered_during_the_drain_is_a_503(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        gateway.drain()
        await backend.send(SWITCH)
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_both_sides_of_every_tunnel_get_a_close_frame_at_once(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, drain=30.0)
    async with tunnel(gateway, upstream) as one, tunnel(gateway, upstream) as other:
        began = time.monotonic()
        gateway.drain()
        for client, backend in (one, other):
            assert await client.rest() == GOODBYE
            (told,) = parse(await backend.rest())
            assert told.close == (1001, "gateway restarting")
        assert time.monotonic() - began < 15


async def test_the_close_frames_of_many_tell_their_clients_over_which_time_to_come_back(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect_window, "_LEAST_SECONDS", 0.0)
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        gateway.drain()
        (told,) = parse(await client.rest())
        assert told.close is not None
        assert re.fullmatch(r"gateway restarting; reconnect_after=2\.0 reconnect_within=\d+\.\d", told.close[1])
        # The backend does not come back.
        assert parse(await backend.rest())[0].close == (1001, "gateway restarting")


async def test_more_than_100_tunnels_are_ended_in_steps(start: Start, upstream: Upstream) -> None:
    # What is left of it for them are two seconds.
    gateway = await start(upstream.port, drain=3.0, close_frames=False)
    async with contextlib.AsyncExitStack() as stack:
        clients = [(await stack.enter_async_context(tunnel(gateway, upstream)))[0] for _ in range(120)]

        async def ended(client_number: int) -> float:
            assert await clients[client_number].ended()
            return time.monotonic()

        ends = [asyncio.ensure_future(ended(number)) for number in range(len(clients))]
        gateway.drain()
        times = sorted(await asyncio.gather(*ends))
    assert times[-1] - times[0] > 0.4
    assert times[60] - times[0] > 0.2
