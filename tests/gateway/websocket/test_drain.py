"""The end of the gateway, as its sockets see it."""

import asyncio
import contextlib
import json
import re
import time

import pytest

from moorline.gateway.app import create_app
from moorline.gateway.common.web import reconnect_window, server
from moorline.gateway.settings import Settings
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


def request(method: str) -> bytes:
    return f"{method} /api/slow HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def cut(upstream: Upstream, page: str, request: bytes, begun: bytes = b"") -> bytes:
    """All that the client gets of a request of which the upstream has sent this much at the end of the drain."""
    address = f"http://127.0.0.1:{upstream.port}"
    settings = Settings(host="127.0.0.1", port=0, upstream=(address,), frontend=page, drain=1)
    async with contextlib.AsyncExitStack() as until_answered:
        async with server.running(create_app(settings), settings) as gateway:
            client = await until_answered.enter_async_context(dial(gateway.port))
            await client.send(request)
            backend = await upstream.accept()
            await backend.send(begun)
            head = await client.head() if begun else b""
        return head + await client.rest()


@pytest.mark.parametrize(
    ("sent", "is_told_to_retry"),
    [(request("GET"), True), (HANDSHAKE, True), (request("POST"), False)],
    ids=["GET", "handshake", "POST"],
)
async def test_what_the_upstream_has_not_answered_at_the_end_of_the_drain_is_a_503(
    upstream: Upstream, page: str, sent: bytes, *, is_told_to_retry: bool
) -> None:
    head, _, body = (await cut(upstream, page, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nConnection: close" in head
    # What was sent and may have been done is not to be repeated.
    assert (b"\r\nRetry-After: 1" in head) is is_told_to_retry
    assert json.loads(body)["cause"] == "GD-response"


async def test_a_response_that_has_begun_at_the_end_of_the_drain_is_followed_by_no_other(
    upstream: Upstream, page: str
) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    received = await cut(upstream, page, request("GET"), begun)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\nhalf")


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
