"""Live tunnels go from one gateway to another: both ends see one connection, on which no byte is missing or doubled."""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.rights import Rights
from moorline.gateway.common.descriptors import DescriptorChannel
from moorline.gateway.keys import METRICS
from moorline.gateway.proxy.handover import HandOverFailed, hand_over, take_over
from moorline.gateway.proxy.held_right import HeldRight, RightState
from moorline.gateway.proxy.tunnels import SocketState
from moorline.gateway.tunnel.state import VERSION, encode
from tests.gateway.websocket.conftest import Gateway, Start, ended, tunnel
from tests.gateway.websocket.test_metrics import samples_of
from tests.support.eventlogs import until
from tests.support.faulty_upstream import STEP, Peer, Upstream
from tests.support.websocket_frames import BINARY, PING, PONG, TEXT, close_frame, frame, parse

GREETING = b"moorline tunnels %d" % VERSION
KEY = b"mask"
LONG = frame(BINARY, bytes(range(256)) * 600, key=KEY)


@contextlib.asynccontextmanager
async def moving(
    old: Gateway, new: Gateway, *, is_same_place: bool = True, only_counts: bool = False
) -> AsyncIterator["asyncio.Task[None]"]:
    """The hand-over at work, once all has gone that can."""
    one, other = socket.socketpair()
    done = asyncio.Event()
    giving = asyncio.create_task(hand_over(old.tunnels, one, done, only_counts=only_counts))
    taking = asyncio.create_task(take_over(new.tunnels, other, is_same_place=is_same_place))
    try:
        async with asyncio.timeout(STEP):
            await done.wait()
        yield giving
    finally:
        giving.cancel()
        await asyncio.gather(giving, taking, return_exceptions=True)


async def test_both_halves_of_a_frame_arrive_whichever_process_relays_them(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:1000])
        await backend.send(frame(TEXT, b"answer")[:3])
        assert await backend.exactly(1000) == LONG[:1000]
        async with moving(old, new):
            await new.has(1)
            await backend.send(frame(TEXT, b"answer")[3:])
            assert await client.send_to(backend, LONG[1000:]) == LONG[1000:]
            assert await client.exactly(8) == frame(TEXT, b"answer")
            assert len(old.tunnels) == 0


@pytest.mark.parametrize("to_client", [True, False], ids=["client", "upstream"])
async def test_what_a_side_had_not_taken_yet_is_sent_by_the_new_process(start: Start, *, to_client: bool) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        old, new = await start(upstream.port), await start(upstream.port)
        async with tunnel(old, upstream, receive_buffer=4096) as (client, backend):
            source, sink = (backend, client) if to_client else (client, backend)
            sent, _ = await source.send_until_stalled(LONG)
            async with moving(old, new):
                await new.has(1)
                assert await sink.exactly(sent) == (LONG * (sent // len(LONG) + 1))[:sent]


async def test_a_tunnel_is_handed_over_many_times_under_traffic(start: Start, upstream: Upstream) -> None:
    gateways = [await start(upstream.port) for _ in range(3)]
    stream = b"".join(frame(BINARY, bytes([number % 256]) * (number * 7 % 3000), key=KEY) for number in range(400))
    async with tunnel(gateways[0], upstream) as (client, backend):
        sending = asyncio.create_task(client.send_in_pieces(stream, 997))
        receiving = asyncio.create_task(backend.exactly(len(stream)))
        for number in range(6):
            async with moving(gateways[number % 3], gateways[(number + 1) % 3]):
                pass
        await sending
        assert await receiving == stream


async def test_the_log_line_of_its_end_counts_what_both_relayed(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    old, new = await start(upstream.port), await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(frame(TEXT, b"one", key=KEY))
        await backend.exactly(9)
        async with moving(old, new):
            await client.send(close_frame(1000, key=KEY))
            await backend.exactly(8)
            client.fin()
            await backend.rest()
            backend.close()
            line = await ended(new, caplog)
    assert "ended_by=client reason=closed close_code=1000" in line
    assert "from_client=17 " in line
    assert "frames_from_client=2 " in line


def counted(gateway: Gateway) -> dict[str, float]:
    """What a scrape would read, but the times at which series began."""
    samples = samples_of(gateway.app[METRICS].render("")[1].decode())
    return {name: value for name, value in samples.items() if not name.partition("{")[0].endswith("_created")}


async def test_counts_go_on_in_the_next_process_and_none_is_counted_twice(start: Start, upstream: Upstream) -> None:
    gateways = [await start(upstream.port, metrics_port=0) for _ in range(3)]
    text = frame(TEXT, b"text", key=KEY)
    async with tunnel(gateways[0], upstream) as (client, backend):
        await client.send(text)
        await backend.exactly(len(text))
        client.reset()
        await backend.end()
        backend.close()
        await gateways[0].has(0)
    async with tunnel(gateways[0], upstream) as (client, backend):
        for old, new in itertools.pairwise(gateways):
            await client.send(text)
            await backend.exactly(len(text))
            before = counted(old)
            async with moving(old, new):
                await new.has(1)
                assert counted(new) == before
                assert not old.tunnels.traffic().from_client
        assert counted(new)['moorline_socket_bytes_total{from="client"}'] == 3 * len(text)
        assert counted(new)['moorline_handshake_seconds_count{outcome="opened"}'] == 2


async def test_what_stays_in_the_old_process_is_counted_by_the_new_one(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port, metrics_port=0), await start(upstream.port, Hook(), metrics_port=0)
    text = frame(TEXT, b"text", key=KEY)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(text)
        await backend.exactly(len(text))
        async with moving(old, new) as giving:
            await client.send(text)
            await backend.exactly(len(text))
            giving.cancel()
            await asyncio.wait([giving])
    async with asyncio.timeout(STEP):
        while new.tunnels.traffic().from_client != 2 * len(text):  # noqa: ASYNC110 - it is on its way
            await asyncio.sleep(0)


async def test_where_no_tunnel_could_go_the_counts_do(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port, metrics_port=0), await start(upstream.port, metrics_port=0)
    text = frame(TEXT, b"text", key=KEY)
    async with tunnel(old, upstream) as (client, backend), moving(old, new, only_counts=True) as giving:
        await client.send(text)
        await backend.exactly(len(text))
        client.reset()
        await backend.end()
        backend.close()
        await old.has(0)
        giving.cancel()
        await asyncio.wait([giving])
    async with asyncio.timeout(STEP):
        while counted(new).get('moorline_socket_bytes_total{from="client"}') != len(text):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert sum(value for name, value in counted(new).items() if name.startswith("moorline_sockets_ended_total")) == 1
    assert not len(new.tunnels)


async def test_a_process_of_another_place_adds_nothing_that_was_scraped_there(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    text = frame(TEXT, b"text", key=KEY)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(text)
        await backend.exactly(len(text))
        async with moving(old, new, is_same_place=False):
            await new.has(1)
            await client.send(text)
            await backend.exactly(len(text))
            assert new.tunnels.traffic().from_client == len(text)


async def test_the_new_process_removes_the_pong_to_the_old_ones_ping(start: Start, upstream: Upstream) -> None:
    beat = {"client_heartbeat": 0.05, "upstream_heartbeat": None, "heartbeat_timeout": 10.0}
    old, new = await start(upstream.port, **beat), await start(upstream.port, **{**beat, "client_heartbeat": 30.0})
    async with tunnel(old, upstream) as (client, backend):
        (ping,) = parse(await client.exactly(10))
        assert ping.opcode == PING
        pong = frame(PONG, ping.payload, key=KEY)
        async with moving(old, new):
            await client.send(pong + frame(TEXT, b"next", key=KEY))
            assert await backend.exactly(10) == frame(TEXT, b"next", key=KEY)


async def test_a_tunnel_that_opens_later_in_the_old_process_follows(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    async with moving(old, new), tunnel(old, upstream) as (client, backend):
        await new.has(1)
        await client.send(frame(TEXT, b"late", key=KEY))
        assert await backend.exactly(10) == frame(TEXT, b"late", key=KEY)


class Hook:
    """Allows until it is told otherwise."""

    def __init__(self) -> None:
        self.allows = True
        self.asked: list[tuple[str, str | None, str | None]] = []

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        self.asked.append((request.headers["Sec-WebSocket-Key"], patient_id, session_id))
        if not self.allows or request.remote != "127.0.0.1":
            raise web.HTTPForbidden
        return Principal("alice", metadata={"role": "nurse"})


async def test_the_new_process_asks_the_hook_again_with_the_clients_request(start: Start, upstream: Upstream) -> None:
    old = await start(upstream.port, Hook(), authorize_again=None)
    hook = Hook()
    new = await start(upstream.port, hook, authorize_again=0.05)
    async with tunnel(old, upstream) as (client, _), moving(old, new):
        await new.has(1)
        hook.allows = False
        (closed,) = parse(await client.exactly(2 + 2 + len("forbidden")))
        assert closed.close == (4503, "forbidden")
    assert set(hook.asked) == {("dGhlIHNhbXBsZSBub25jZQ==", "p", "s")}


async def test_a_hook_that_is_due_is_not_put_off_by_a_new_process(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.proxy.held_right._ASKED_WITHIN", 3600.0)
    hook = Hook()
    old, new = await start(upstream.port, Hook(), authorize_again=0.5), await start(upstream.port, hook)
    hook.allows = False
    async with tunnel(old, upstream) as (client, _), moving(old, new):
        (closed,) = parse(await client.exactly(2 + 2 + len("forbidden")))
        assert closed.close == (4503, "forbidden")


async def test_a_right_expires_in_the_new_process_when_it_would_have_in_the_old_one(
    start: Start, upstream: Upstream, go_on: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.proxy.held_right._ASKED_WITHIN", 3600.0)
    expires = time.time() + 1000

    async def expiring(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal("alice", expires)

    old, new = [await start(upstream.port, expiring, authorize_again=None) for _ in range(2)]
    async with tunnel(old, upstream) as (client, _), moving(old, new):
        await new.has(1)
        go_on(1000)
        (closed,) = parse(await client.exactly(2 + 2 + len("expired")))
        assert closed.close == (4401, "expired")


async def test_a_socket_whose_principal_has_metadata_without_a_form_as_json_stays(
    start: Start, upstream: Upstream
) -> None:
    async def odd(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal("alice", metadata={"rights": {"read"}})

    old, new = [await start(upstream.port, odd) for _ in range(2)]
    async with tunnel(old, upstream) as (client, backend), moving(old, new):
        await serves_on(old, client, backend)


async def test_a_new_hook_is_asked_soon_with_the_clients_address(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.proxy.held_right._ASKED_WITHIN", 0.0)
    options: dict[str, Any] = {"authorize_again": None, "trusted_proxies": ("127.0.0.1",)}
    asked = asyncio.get_running_loop().create_future()

    async def refuse(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        asked.set_result(client_address(request))
        raise web.HTTPForbidden

    old, new = await start(upstream.port, Hook(), **options), await start(upstream.port, refuse, **options)
    async with tunnel(old, upstream, "X-Forwarded-For: 192.0.2.7") as (client, _), moving(old, new):
        (closed,) = parse(await client.exactly(2 + 2 + len("forbidden")))
        assert closed.close == (4503, "forbidden")
        assert await asked == "192.0.2.7"


async def test_a_socket_whose_origin_is_not_allowed_any_more_is_not_taken_over(
    start: Start, upstream: Upstream
) -> None:
    old = await start(upstream.port, allowed_origins=("https://a.example", "https://b.example"))
    new = await start(upstream.port, allowed_origins=("https://a.example",))
    async with (
        tunnel(old, upstream, "Origin: https://a.example"),
        tunnel(old, upstream, "Origin: https://b.example") as (client, backend),
    ):
        await client.send(LONG[:500])
        await backend.exactly(500)
        async with moving(old, new):
            await new.has(1)
            await serves_on(old, client, backend)


async def test_a_right_that_ended_on_the_way_puts_no_close_frame_within_a_frame(start: Start) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        old, new = await start(upstream.port, Hook()), await start(upstream.port, Hook())
        async with tunnel(old, upstream, receive_buffer=4096) as (client, backend):
            await backend.send_until_stalled(LONG)
            restored = new.tunnels._restored

            async def ended_at_once(rights: Rights, state: RightState, client: str) -> HeldRight:
                right = await restored(rights, state, client)
                rights.close("alice")
                return right

            new.tunnels._restored = ended_at_once
            async with moving(old, new):
                received, _ = await client.end()
                whole, part = divmod(len(received), len(LONG))
                assert received[: whole * len(LONG)] == LONG * whole
                rest = received[-part:] if part else b""
                # Behind a whole frame it may stand.
                assert LONG.startswith(rest) or rest == close_frame(4503, "forbidden")


async def test_a_hook_that_was_not_there_before_is_asked_first(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port), await start(upstream.port, Hook())
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        async with moving(old, new):
            await serves_on(old, client, backend)
            assert len(new.tunnels) == 0


async def serves_on(gateway: Gateway, client: Peer, backend: Peer) -> None:
    await gateway.has(1)
    assert await client.send_to(backend, LONG[500:]) == LONG[500:]


async def test_a_new_process_that_dies_before_it_took_anything_leaves_all_to_the_old_one(
    start: Start, upstream: Upstream
) -> None:
    old = await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        one, other = socket.socketpair()
        with DescriptorChannel(other) as channel:
            await channel.send(GREETING)
            giving = asyncio.create_task(hand_over(old.tunnels, one, asyncio.Event()))
            for _ in range(2):
                # The counters and the tunnel arrive, and are not answered for.
                assert await channel.receive() is not None
        with pytest.raises(HandOverFailed):
            await giving
        await serves_on(old, client, backend)


@contextlib.asynccontextmanager
async def given_to(old: Gateway, received: int) -> AsyncIterator[tuple["asyncio.Task[None]", DescriptorChannel]]:
    """A hand-over to a process that has received so many messages, answers nothing by itself, and ends."""
    one, other = socket.socketpair()
    held: list[int] = []
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with DescriptorChannel(other) as channel:
        await channel.send(GREETING)
        giving = asyncio.create_task(hand_over(old.tunnels, one, asyncio.Event()))
        for _ in range(received):
            message = await channel.receive()
            assert message is not None
            held += message[1]
        yield giving, channel
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)
        for descriptor in held:
            os.close(descriptor)


async def test_what_is_under_way_at_a_cancellation_goes_on_unless_it_was_taken(
    start: Start, upstream: Upstream
) -> None:
    old = await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend), given_to(old, 2) as (giving, channel):
        await client.send(LONG[:500])
        giving.cancel()
        assert await channel.receive() is None
        channel.__exit__(None, None, None)
        with pytest.raises(asyncio.CancelledError):
            await giving
        assert await backend.exactly(500) == LONG[:500]
        await serves_on(old, client, backend)


async def test_a_cancellation_within_a_message_leaves_its_tunnel_where_it_is(start: Start) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        old = await start(upstream.port)
        async with tunnel(old, upstream) as (client, backend):
            sent, _ = await client.send_until_stalled(LONG)
            if old.tunnels.buffered < 16 << 10:
                pytest.skip("the kernel's TCP buffers are too small for a message that is long")
            # The message is longer than what the socket takes: it waits with its first half sent.
            async with given_to(old, 1) as (giving, channel):
                await old.has(0)
                giving.cancel()
                with pytest.raises(ConnectionResetError):
                    await channel.receive()
                channel.__exit__(None, None, None)
                with pytest.raises(asyncio.CancelledError):
                    await giving
                assert await backend.exactly(sent) == (LONG * (sent // len(LONG) + 1))[:sent]


@contextlib.asynccontextmanager
async def given_to_one_that_hangs(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, "asyncio.Task[None]"]]:
    """A tunnel that a process has which does not answer. It may have taken it before: the tunnel ends with that."""
    monkeypatch.setattr("moorline.gateway.proxy.handover._ANSWER_SECONDS", 0.05)
    old = await start(upstream.port)
    async with tunnel(old, upstream) as (_, backend):
        async with given_to(old, 2) as (giving, _):
            yield old, giving
        assert await backend.ended()


async def test_a_drain_does_not_wait_for_a_new_process_that_hangs(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with given_to_one_that_hangs(start, upstream, monkeypatch) as (old, giving):
        old.drain()
        with pytest.raises(HandOverFailed, match="drains"):
            await giving


async def test_a_tunnel_that_a_process_which_hangs_may_have_taken_is_not_relayed_here_as_well(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with given_to_one_that_hangs(start, upstream, monkeypatch) as (old, giving):
        giving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving
        await old.has(0)


async def test_a_new_process_that_drains_takes_no_more(start: Start, upstream: Upstream) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    async with moving(old, new) as giving:
        new.drain()
        with pytest.raises(HandOverFailed):
            await giving
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        await serves_on(old, client, backend)


async def test_a_tunnel_that_cannot_go_on_ends_alone(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    adopt, outcomes = new.tunnels.adopt, iter([RuntimeError("a mistake"), None])

    async def adopt_second(state: SocketState, client: socket.socket, upstream: socket.socket) -> None:
        if (error := next(outcomes)) is not None:
            client.close()
            upstream.close()
            raise error
        await adopt(state, client, upstream)

    monkeypatch.setattr(new.tunnels, "adopt", adopt_second)
    async with tunnel(old, upstream) as (first, _), tunnel(old, upstream) as (client, backend), moving(old, new):
        assert await first.ended()
        await client.send(LONG[:500])
        await backend.exactly(500)
        await serves_on(new, client, backend)
    assert "a mistake" in caplog.text


async def test_a_tunnel_that_the_new_process_refuses_stays(start: Start, upstream: Upstream) -> None:
    old = await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        one, other = socket.socketpair()
        done = asyncio.Event()
        with DescriptorChannel(other) as channel:
            await channel.send(GREETING)
            giving = asyncio.create_task(hand_over(old.tunnels, one, done))
            await channel.receive()
            await channel.receive()
            await channel.send(b"n")
            await done.wait()
            await serves_on(old, client, backend)
        with pytest.raises(HandOverFailed):
            await giving


async def test_nothing_goes_to_a_process_that_knows_another_form(start: Start, upstream: Upstream) -> None:
    old = await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        one, other = socket.socketpair()
        with DescriptorChannel(other) as channel:
            await channel.send(b"moorline tunnels %d" % (VERSION + 1))
            with pytest.raises(HandOverFailed, match="another form"):
                await hand_over(old.tunnels, one, asyncio.Event())
        await serves_on(old, client, backend)


async def test_a_client_that_resets_on_the_way_ends_its_tunnel_in_the_new_process(
    start: Start, upstream: Upstream
) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend):
        one, other = socket.socketpair()
        done = asyncio.Event()
        giving = asyncio.create_task(hand_over(old.tunnels, one, done))
        await asyncio.sleep(0)
        taking = asyncio.create_task(take_over(new.tunnels, other))
        client.reset()
        assert await backend.ended()
        backend.close()
        await new.has(0)
        await old.has(0)
        giving.cancel()
        await asyncio.gather(giving, taking, return_exceptions=True)


async def test_a_tunnel_that_was_refused_is_not_offered_again(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moorline.gateway.proxy.handover._AGAIN_SECONDS", 0.01)
    old = await start(upstream.port, allowed_origins=("https://a.example",))
    new = await start(upstream.port)
    rounds = Mock(wraps=old.tunnels.relays)
    monkeypatch.setattr(old.tunnels, "relays", rounds)
    async with tunnel(old, upstream, "Origin: https://a.example") as (client, backend), moving(old, new):
        await client.send(LONG[:500])
        await backend.exactly(500)
        await until(lambda: rounds.call_count > 4)
        await serves_on(old, client, backend)
    assert caplog.text.count("a socket was not taken over") == 1


async def test_a_tunnel_that_the_system_has_no_room_for_goes_later(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, failed = DescriptorChannel.send, list[int]()

    async def full_once(channel: DescriptorChannel, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        if descriptors and not failed:
            failed.extend(descriptors)
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        await send(channel, payload, descriptors)

    monkeypatch.setattr(DescriptorChannel, "send", full_once)
    old, new = await start(upstream.port), await start(upstream.port)
    async with tunnel(old, upstream) as (client, backend), moving(old, new):
        await client.send(LONG[:500])
        await backend.exactly(500)
        await serves_on(new, client, backend)
    assert failed


async def test_a_tunnel_goes_on_where_the_old_process_dies_before_it_has_the_answer(
    start: Start, upstream: Upstream
) -> None:
    old, new = await start(upstream.port), await start(upstream.port)
    one, other = socket.socketpair()
    async with tunnel(old, upstream) as (client, backend):
        await client.send(LONG[:500])
        await backend.exactly(500)
        taking = asyncio.create_task(take_over(new.tunnels, other))
        with DescriptorChannel(one) as channel:
            assert await channel.receive() == (GREETING, [])
            (relay,) = old.tunnels.relays(besides=set())
            detached = old.tunnels.detach(relay)
            assert detached is not None
            state, *descriptors = detached
            await channel.send(b"t" + encode(state), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        await taking
        await serves_on(new, client, backend)


async def test_scrapes_do_not_wait_for_counts_of_a_process_that_has_ended(start: Start, upstream: Upstream) -> None:
    new, counted = await start(upstream.port), asyncio.Event()
    one, other = socket.socketpair()
    one.close()
    await take_over(new.tunnels, other, on_counts=counted.set)
    assert counted.is_set()


async def test_descriptors_of_a_message_that_breaks_off_are_closed() -> None:
    one, other = socket.socketpair()
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    socket.send_fds(one, [b"\0\0\0\x09part"], [writes])
    os.close(writes)
    one.close()
    with DescriptorChannel(other) as channel, pytest.raises(ConnectionResetError):
        await channel.receive()
    # The end: nothing has the other side of it.
    assert os.read(reads, 1) == b""
    os.close(reads)
