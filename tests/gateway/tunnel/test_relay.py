"""The shell on a real loop, between two transports that only record what they are asked for."""

import asyncio
import dataclasses
import os
import socket
from collections.abc import Iterator

import pytest

from moorline.gateway.common.web.turns import Turns
from moorline.gateway.tunnel.buffered import Buffered
from moorline.gateway.tunnel.endings import CLIENT
from moorline.gateway.tunnel.machine import Limits
from moorline.gateway.tunnel.relay import Ended, Relay, Shared
from moorline.gateway.tunnel.timers import Expiring, Timers
from tests.support.tunnels import NGINX
from tests.support.websocket_frames import PING, TEXT, close_frame, frame

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
PINGS = frame(PING, key=b"mask") * 3000


class Wire(asyncio.Transport):
    """A transport that takes everything; the test calls the protocol for it."""

    def __init__(self, sock: socket.socket) -> None:
        # The kernel is asked about it; it is not connected.
        super().__init__({"socket": sock})
        self.sent = b""
        self.reads = False
        self.calls: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.calls.append("write")

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return bool({"abort", "close"} & set(self.calls))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


class Rig:
    """A relay that has started."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        from_client: bytes = b"",
        client_stalls: bool = False,
        turns: Turns | None = None,
        timers: Timers | None = None,
        limits: Limits = NGINX,
    ) -> None:
        self.client, self.upstream = Wire(sock), Wire(sock)
        self.ended: list[Ended] = []
        self.relay = Relay(
            self.client,
            self.upstream,
            limits,
            Shared(
                turns or Turns(asyncio.get_running_loop()),
                timers or Timers(asyncio.get_running_loop()),
                Buffered(1 << 20),
                on_end=lambda relay, ended: self.ended.append(ended),
            ),
        )
        self.relay.start(head=HEAD, from_client=from_client, from_upstream=b"", client_stalls=client_stalls)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        yield sock


@pytest.fixture
async def rig(sock: socket.socket) -> Rig:
    return Rig(sock)


async def until_read(wire: Wire) -> int:
    """How many turns everything else on the loop had before this side was read from again."""
    count = 0
    while not wire.reads:
        await asyncio.sleep(0)
        count += 1
        assert count < 100
    return count


async def test_both_sides_are_read_from_at_the_start(rig: Rig) -> None:
    assert (rig.client.reads, rig.upstream.reads) == (True, True)
    assert rig.client.sent == HEAD


async def test_the_upstream_is_not_read_from_while_the_client_stalls(sock: socket.socket) -> None:
    rig = Rig(sock, client_stalls=True)
    assert (rig.client.reads, rig.upstream.reads) == (True, False)
    rig.relay.client.resume_writing()
    assert rig.upstream.reads


async def test_a_read_of_many_frames_takes_several_turns_of_the_loop(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    assert (rig.upstream.sent, rig.client.reads) == (PINGS[: 1024 * 6], False)
    assert await until_read(rig.client) >= 2
    assert rig.upstream.sent == PINGS


async def test_of_many_connections_with_a_backlog_only_some_have_a_turn_at_once(sock: socket.socket) -> None:
    turns, most = Turns(asyncio.get_running_loop()), 0
    rigs = [Rig(sock, turns=turns) for _ in range(20)]
    for each in rigs:
        each.relay.client.data_received(PINGS)
    before = sum(len(each.upstream.calls) for each in rigs)
    while not all(each.client.reads for each in rigs):
        await asyncio.sleep(0)
        after = sum(len(each.upstream.calls) for each in rigs)
        most, before = max(most, after - before), after
    assert most < len(rigs)
    assert all(each.upstream.sent == PINGS for each in rigs)


async def test_early_bytes_of_many_frames_take_several_turns_too(sock: socket.socket) -> None:
    rig = Rig(sock, from_client=PINGS)
    assert (rig.upstream.sent, rig.client.reads) == (PINGS[: 1024 * 6], False)
    await until_read(rig.client)
    assert rig.upstream.sent == PINGS


async def test_a_side_with_a_backlog_is_not_read_from_when_the_other_takes_bytes_again(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    rig.relay.upstream.pause_writing()
    rig.relay.upstream.resume_writing()
    assert not rig.client.reads
    await until_read(rig.client)
    assert rig.upstream.sent == PINGS


async def test_a_side_whose_backlog_has_passed_is_not_read_from_while_the_other_stalls(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    rig.relay.upstream.pause_writing()
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.upstream.sent == PINGS
    assert not rig.client.reads
    rig.relay.upstream.resume_writing()
    assert rig.client.reads


async def until_closed(wire: Wire) -> int:
    """How many turns everything else on the loop had before this side was closed."""
    count = 0
    while not wire.is_closing():
        await asyncio.sleep(0)
        count += 1
        assert count < 100
    return count


def end(protocol: asyncio.Protocol, how: str) -> None:
    if how == "fin":
        protocol.eof_received()
    else:
        protocol.connection_lost(ConnectionResetError())


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_the_end_of_a_stream_does_not_overtake_its_backlog_and_waits_for_its_turns(rig: Rig, how: str) -> None:
    rig.relay.client.data_received(PINGS)
    end(rig.relay.client, how)
    assert rig.upstream.sent == PINGS[: 1024 * 6]
    assert await until_closed(rig.upstream) >= 2
    assert rig.upstream.sent == PINGS
    assert rig.upstream.calls[-1] == "close"


async def test_a_fin_and_a_loss_behind_a_backlog_are_both_reported(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    for how in ("fin", "reset"):
        end(rig.relay.client, how)
    await until_closed(rig.upstream)
    rig.relay.upstream.connection_lost(None)
    assert rig.ended[0].order == ("client:fin",)


async def test_nothing_is_sent_to_a_client_that_is_lost_while_its_backlog_passes(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    end(rig.relay.client, "reset")
    before = rig.client.sent
    rig.relay.upstream.data_received(frame(TEXT, b"late"))
    assert rig.client.sent == before


async def test_a_shutdown_while_a_backlog_passes_ends_a_tunnel_whose_client_is_lost(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    end(rig.relay.client, "reset")
    rig.relay.shut_down()
    rig.relay.upstream.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(rig.ended) == 1


async def test_a_tunnel_whose_client_is_lost_does_not_go_to_another_process(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    end(rig.relay.client, "fin")
    assert rig.relay.detach() is None


async def test_a_backlog_is_discarded_when_the_other_side_has_ended(rig: Rig) -> None:
    rig.relay.client.data_received(PINGS)
    rig.relay.upstream.connection_lost(None)
    sent = rig.upstream.sent
    rig.relay.client.connection_lost(None)
    await asyncio.sleep(0)
    assert (rig.upstream.sent, len(rig.ended)) == (sent, 1)


async def test_after_its_end_a_side_that_goes_on_sending_is_read_in_turns(sock: socket.socket) -> None:
    rig = Rig(sock, limits=dataclasses.replace(NGINX, close_frames=True))
    rig.relay.shut_down()
    sent = rig.upstream.sent
    for _ in range(3):
        rig.relay.client.data_received(bytes(1 << 16))
        assert not rig.client.reads
        await until_read(rig.client)
    assert rig.upstream.sent == sent


async def test_after_its_end_nothing_passes(rig: Rig) -> None:
    rig.relay.shut_down()
    rig.relay.client.data_received(frame(TEXT, b"late"))
    assert rig.upstream.sent == b""


class NotedTimers(Timers):
    """Notes the moments that are waited for."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.moments: list[float] = []

    def add(self, each: Expiring, at: float, now: float) -> None:
        self.moments.append(at)
        super().add(each, at, now)


async def test_a_close_frame_that_came_before_a_hand_over_is_waited_for_no_longer_behind_it(
    sock: socket.socket,
) -> None:
    limits = dataclasses.replace(NGINX, close_frames=True)
    rig = Rig(sock, limits=limits)
    rig.relay.client.data_received(close_frame(1000, key=b"mask"))
    taken = rig.relay.detach()
    assert taken is not None
    state, *descriptors = taken
    for descriptor in descriptors:
        os.close(descriptor)
    timers, loop = NotedTimers(), asyncio.get_running_loop()
    shared = Shared(Turns(loop), timers, Buffered(1 << 20), on_end=lambda relay, ended: None)
    Relay(Wire(sock), Wire(sock), limits, shared, state=state).resume(state, from_client=b"", from_upstream=b"")
    silence, close = timers.moments
    assert close < silence


async def test_a_long_timer_that_fires_with_others_holds_up_no_short_one(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.1
    monkeypatch.setattr("moorline.gateway.tunnel.relay.monotonic", lambda: now)
    timers = NotedTimers()
    rig = Rig(sock, timers=timers, limits=dataclasses.replace(NGINX, close_frames=True, close_timeout=2))
    # The long one is due at 120.1 and fires at 120.25; the one of the Close frames is due between.
    now = 118.2
    rig.relay.shut_down()
    assert timers.moments == [120.25, 120.2]


async def test_a_deadline_that_stays_keeps_its_moment(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.1
    monkeypatch.setattr("moorline.gateway.tunnel.relay.monotonic", lambda: now)
    timers = NotedTimers()
    rig = Rig(sock, timers=timers, limits=dataclasses.replace(NGINX, close_frames=True, close_timeout=10))
    rig.relay.shut_down()
    now = 101.0
    rig.relay.eof_received(CLIENT)
    assert timers.moments == [120.25, 110.25]
