"""Each fault on real connections: what arrives at the client, and at the server."""

import asyncio
import contextlib
from typing import Any

import pytest

from moorline.gateway.faults.proxy import FaultProxy
from tests.gateway.faults.conftest import Between
from tests.support.faulty_upstream import HANDSHAKE, STEP, SWITCH, Upstream, dial
from tests.support.websocket_frames import CLOSE, PING, PONG, TEXT, close_frame, frame, parse

HELLO = frame(TEXT, b"hello")


async def test_without_a_fault_everything_passes(between: Between) -> None:
    async with between.socket() as (client, server):
        data = b"a" * 300_000
        assert await client.send_to(server, data) == data
        await server.send(HELLO)
        assert await client.exactly(len(HELLO)) == HELLO
        client.fin()
        assert await server.rest() == b""
        server.close()
        assert await client.rest() == b""


# The listening port ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["refuse", "gone", "restart"])
async def test_new_connections_are_refused_and_accepted_again(between: Between, name: str) -> None:
    async with between.faults.arm(name, seconds=None if name == "refuse" else 60):
        with pytest.raises(ConnectionRefusedError):
            async with dial(between.proxy.listening_port):
                pass
    async with between.socket():
        pass


async def test_an_outage_ends_by_itself(between: Between) -> None:
    async with between.faults.gone(seconds=0.05), asyncio.timeout(STEP):
        while True:
            try:
                async with between.socket():
                    break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)  # no event tells that a port listens


@pytest.mark.parametrize(("name", "end"), [("gone", (b"", "RST")), ("restart", (close_frame(1012), "FIN"))])
async def test_an_outage_ends_what_is_open(between: Between, name: str, end: tuple[bytes, str]) -> None:
    async with between.socket() as (client, _), between.faults.arm(name):
        assert await client.end() == end


async def test_a_refused_port_leaves_what_is_open(between: Between) -> None:
    async with between.socket() as (client, server), between.faults.refuse():
        await server.send(HELLO)
        assert await client.exactly(len(HELLO)) == HELLO


async def test_a_held_connection_is_served_once_the_fault_is_over(between: Between) -> None:
    async with contextlib.AsyncExitStack() as clients:
        async with between.faults.hold() as fault:
            await clients.enter_async_context(between.client())
            while not fault.met:  # noqa: ASYNC110 - the product needs no event for a test's sake
                await asyncio.sleep(0)
        assert (await between.upstream.accept()).request == HANDSHAKE


async def test_a_held_connection_that_nothing_frees_is_reset(between: Between) -> None:
    async with between.faults.hold(resets_after=0.05), between.client() as client:
        assert await client.end() == (b"", "RST")


# Instead of a response ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("not_http", (b"220 mail.example.com ESMTP\r\n\r\n", "FIN")),
        ("half_headers", (b"HTTP/1.1 101 Switching Protocols\r\nUpgr", "FIN")),
        ("reset_handshake", (b"", "RST")),
        ("fin_handshake", (b"", "FIN")),
    ],
)
async def test_what_comes_instead_of_a_response(between: Between, name: str, end: tuple[bytes, str]) -> None:
    async with between.faults.arm(name), between.client() as client:
        assert await client.end() == end


async def test_another_status_than_the_servers(between: Between) -> None:
    async with between.faults.status(code=401), between.client() as client:
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert body == b"injected\n"


async def test_a_request_is_never_answered_and_ends_with_its_client(between: Between) -> None:
    async with between.faults.silent(resets_after=0.05), between.client() as client:
        assert await client.end() == (b"", "RST")


async def test_headers_that_never_end(between: Between) -> None:
    async with between.faults.slow_headers(seconds=0.001), between.client() as client:
        assert (await client.until(b"X-Field-5: x\r\n")).startswith(b"HTTP/1.1 101 ")


# Headers --------------------------------------------------------------------------------------------------------------


async def test_a_stripped_upgrade_arrives_as_an_ordinary_request(between: Between) -> None:
    async with between.faults.strip_upgrade(), between.client():
        request = (await between.upstream.accept()).request
        assert b"upgrade" not in request.lower()
        assert request.endswith(b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no_accept", None),
        ("wrong_accept", b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        ("wrong_subprotocol", b"Sec-WebSocket-Protocol: injected\r\n"),
    ],
)
async def test_a_101_with_other_headers(between: Between, name: str, line: bytes | None) -> None:
    async with between.faults.arm(name), between.client() as client:
        await (await between.upstream.accept()).send(SWITCH)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert head != SWITCH
        assert b"Sec-WebSocket-Accept" not in head if line is None else line in head


# Open connections -----------------------------------------------------------------------------------------------------

ENDINGS = {
    "reset": (b"", "RST"),
    "fin": (b"", "FIN"),
    "close": (close_frame(1011), "FIN"),
    "cut_mid_frame": (b"\x81\x64half", "FIN"),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_an_open_socket_ends_at_once(between: Between, name: str) -> None:
    async with between.socket() as (client, server), between.faults.arm(name):
        assert await client.end() == ENDINGS[name]
        assert await server.ended()


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_socket_ends_behind_so_many_bytes(between: Between, name: str) -> None:
    data, way = ENDINGS[name]
    async with between.faults.arm(name, after_bytes=len(HELLO)), between.socket() as (client, server):
        await server.send(HELLO + HELLO)
        assert await client.end() == (HELLO + data, way)


async def test_a_reset_cuts_a_frame_where_it_is(between: Between) -> None:
    async with between.faults.reset(after_bytes=3), between.socket() as (client, server):
        await server.send(HELLO)
        assert await client.end() == (HELLO[:3], "RST")


async def test_an_injected_frame_waits_for_the_end_of_the_servers(between: Between) -> None:
    async with between.socket() as (client, server):
        await server.send(HELLO[:3])
        assert await client.exactly(3) == HELLO[:3]
        async with between.faults.close(code=4000, reason="why"):
            await server.send(HELLO[3:] + HELLO)
            assert await client.end() == (HELLO[3:] + close_frame(4000, "why"), "FIN")


@pytest.mark.parametrize(("name", "way"), [("reset_idle", "RST"), ("idle_cut", "FIN")])
async def test_a_silent_socket_is_cut_after_so_long(between: Between, name: str, way: str) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    async with between.socket() as (client, _), between.faults.arm(name, idle=0.1):
        assert await client.end() == (b"", way)
        assert clock() - began >= 0.05


@pytest.mark.parametrize(
    ("name", "injected"),
    [
        ("bad_frame", b"\xf3\x00"),
        ("bad_utf8", b"\x81\x02\xff\xfe"),
        ("masked_frame", b"\x81\x82\x00\x00\x00\x00ok"),
        ("oversized_frame", b"\x82\x7f" + (1 << 30).to_bytes(8, "big") + bytes(1000)),
    ],
)
async def test_a_frame_that_breaks_a_rule(between: Between, name: str, injected: bytes) -> None:
    async with between.socket() as (client, _), between.faults.arm(name):
        assert await client.exactly(len(injected)) == injected


async def test_what_vanished_arrives_once_the_network_is_back(between: Between) -> None:
    async with between.socket() as (client, server):
        async with between.faults.vanish():
            await client.send(b"up")
            await server.send(b"down")
            async with between.socket() as (other, other_server):
                await other_server.send(HELLO)
        assert await server.exactly(2) == b"up"
        assert await client.exactly(4) == b"down"
        other.close()


@pytest.mark.parametrize(("name", "stalls"), [("stall_client", "down"), ("stall_upstream", "up")])
async def test_one_direction_stalls(between: Between, name: str, stalls: str) -> None:
    async with between.socket() as (client, server), between.faults.arm(name):
        sender, receiver = (server, client) if stalls == "down" else (client, server)
        taken, _ = await sender.send_until_stalled(bytes(1 << 20))
        assert taken < 1 << 26
        await receiver.send(HELLO)
        assert await sender.exactly(len(HELLO)) == HELLO


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("delay", 0.04), ("slow", 0.04)])
async def test_a_slow_network_takes_its_time(between: Between, name: str, least: float) -> None:
    clock = asyncio.get_running_loop().time
    parameters = {"seconds": 0.05} if name == "delay" else {"rate": 1000}
    async with between.socket() as (client, server), between.faults.arm(name, **parameters):
        began = clock()
        await server.send(bytes(50))
        assert await client.exactly(50) == bytes(50)
        assert clock() - began >= least


@pytest.mark.parametrize("name", ["delay", "jitter", "pieces", "slow"])
async def test_a_bad_network_loses_nothing_and_keeps_the_order(between: Between, name: str) -> None:
    data = bytes(range(256)) * 20
    parameters: dict[str, tuple[str, Any]] = {"pieces": ("size", 1), "slow": ("rate", 100_000)}
    parameter, value = parameters.get(name, ("seconds", 0.01))
    async with between.socket() as (client, server), between.faults.arm(name, **{parameter: value}):
        await client.send_in_pieces(data, 500)
        assert await server.exactly(len(data)) == data
        await server.send(data)
        server.close()
        assert await client.rest() == data


async def test_a_buffering_proxy_passes_on_what_is_full(between: Between) -> None:
    async with between.socket() as (client, server):
        async with between.faults.buffer(size=10):
            await server.send(b"12345")
            await client.send(b"x")
            await server.exactly(1)
            await server.send(b"67890a")
            assert await client.exactly(11) == b"1234567890a"
            await server.send(b"rest")
            await client.send(b"x")
            await server.exactly(1)
        assert await client.exactly(4) == b"rest"


async def test_pongs_are_dropped_and_nothing_else(between: Between) -> None:
    key = b"\x01\x02\x03\x04"
    async with between.socket() as (client, server), between.faults.drop_pong():
        await client.send(frame(PONG, b"p", key=key) + frame(TEXT, b"t", key=key) + frame(PING, b"", key=key))
        (text, ping) = parse(await server.exactly(len(frame(TEXT, b"t", key=key)) + len(frame(PING, b"", key=key))))
        assert (text.opcode, ping.opcode) == (TEXT, PING)
        await server.send(frame(PONG, b"p") + frame(CLOSE))
        assert await client.exactly(2) == frame(CLOSE)


# Which connections ----------------------------------------------------------------------------------------------------


async def test_a_fault_of_one_time_happens_once(between: Between) -> None:
    async with between.faults.status(code=500, times=1) as fault:
        async with between.client() as client:
            assert (await client.head()).startswith(b"HTTP/1.1 500 ")
        async with between.socket():
            pass
    assert fault.met == 1


async def test_a_fault_of_a_path_leaves_the_others(between: Between) -> None:
    async with between.faults.reset_handshake(path="/api"), between.socket():
        pass


async def test_a_fault_that_is_over_happens_no_more(between: Between) -> None:
    async with between.faults.reset(after_bytes=3):
        pass
    async with between.socket() as (client, server):
        await server.send(HELLO)
        assert await client.exactly(len(HELLO)) == HELLO


async def test_a_second_request_of_a_connection_meets_a_fault(between: Between) -> None:
    request, response = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    async with dial(between.proxy.listening_port) as client:
        await client.send(request)
        await (await between.upstream.accept()).send(response)
        assert await client.head() == response
        async with between.faults.status(code=503):
            await client.send(request)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_the_end_of_the_proxy_ends_what_is_open() -> None:
    async with Upstream() as upstream:
        async with FaultProxy("127.0.0.1", upstream.port) as proxy:
            between = Between(proxy, upstream)
            ending = between.socket()
            client, server = await ending.__aenter__()
        assert await client.end() == (b"", "RST")
        assert await server.ended()
        await ending.__aexit__(None, None, None)


async def test_a_server_that_cannot_be_reached_is_reported_to_the_client() -> None:
    notes: list[str] = []
    async with Upstream() as upstream:
        port = upstream.port
    async with FaultProxy("127.0.0.1", port, notes.append) as proxy, dial(proxy.listening_port) as client:
        await client.send(HANDSHAKE)
        assert await client.end() == (b"", "RST")
    assert notes == [f"127.0.0.1:{port} cannot be reached"]
