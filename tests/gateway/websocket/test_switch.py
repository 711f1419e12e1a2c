"""From the handshake to the open tunnel: what reaches the other end, byte by byte."""

import asyncio
import logging

import pytest
from websockets.asyncio.client import connect

from tests.gateway.websocket.conftest import Start, tunnel
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Upstream, dial, echoing_in_pieces, handshake

# Text "hi" from a client, with a mask of zeroes.
FRAME = b"\x81\x82\0\0\0\0hi"
ANSWER = b"\x81\x02ho"


# The heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/ws/a%2Fb", "/ws//x/.y", "/ws/%7e?c&&e=", "/ws/x?", "/ws"])
async def test_the_target_reaches_the_backend_byte_for_byte(start: Start, upstream: Upstream, target: str) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(handshake(target))
        assert (await upstream.accept()).request.startswith(f"GET {target} HTTP/1.1\r\n".encode())


async def test_the_backend_learns_who_asks_and_header_lines_stay_as_they_are(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(handshake("/ws/x", "x-DUP: 1", "x-DUP: 2", "Cookie: a=\xe4", "X-Forwarded-For: 7.7.7.7"))
        lines = (await upstream.accept()).request.split(b"\r\n")
    assert [line for line in lines if line.lower().startswith(b"x-dup")] == [b"x-DUP: 1", b"x-DUP: 2"]
    assert {"Cookie: a=\xe4".encode(), b"X-Forwarded-For: 7.7.7.7, 127.0.0.1", b"Host: localhost"} <= set(lines)


async def test_the_backends_101_passes_with_its_choices(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(
            b"HTTP/1.1 101 Sure\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n"
            b"Sec-WebSocket-Protocol: never-offered\r\nSec-WebSocket-Extensions: x-unknown; a=1\r\n"
            b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
        )
        lines = (await client.head()).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Sure"
    assert lines[1:5] == [
        b"Sec-WebSocket-Protocol: never-offered",
        b"Sec-WebSocket-Extensions: x-unknown; a=1",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
    ]
    assert lines[-4:-2] == [b"Upgrade: websocket", b"Connection: Upgrade"]


async def test_interim_answers_are_passed_over(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SWITCH + ANSWER)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert await client.exactly(len(ANSWER)) == ANSWER


async def test_the_body_of_a_handshake_comes_before_the_first_frame(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(handshake("/ws/x", "Content-Length: 4") + b"body" + FRAME)
        backend = await upstream.accept()
        assert await backend.exactly(4) == b"body"
        await backend.send(SWITCH)
        assert await backend.exactly(len(FRAME)) == FRAME


async def test_a_chunked_body_of_a_handshake_arrives_chunked(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(handshake("/ws/x", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n" + FRAME)
        backend = await upstream.accept()
        assert b"\r\nTransfer-Encoding: chunked\r\n" in backend.request
        assert await backend.exactly(14) == b"4\r\nbody\r\n0\r\n\r\n"
        await backend.send(SWITCH)
        assert await backend.exactly(len(FRAME)) == FRAME


async def test_what_is_no_handshake_under_ws_is_plain_http(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(b"GET /ws/x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\r\n")
        backend = await upstream.accept()
        assert b"upgrade" not in backend.request.lower()
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


# Early bytes ----------------------------------------------------------------------------------------------------------


async def test_what_the_client_sends_with_its_handshake_waits_for_the_101(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE + FRAME)
        backend = await upstream.accept()
        early = asyncio.ensure_future(backend.exactly(1))
        async with dial(gateway.port) as other:
            # A whole handshake later nothing has come yet.
            await other.send(HANDSHAKE)
            await upstream.accept()
        assert not early.done()
        await backend.send(SWITCH)
        assert await early + await backend.exactly(len(FRAME) - 1) == FRAME


async def test_what_the_client_sends_before_the_101_waits_for_it(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await client.send_in_pieces(FRAME * 3)
        await backend.send(SWITCH)
        await client.send(b"more")
        assert await backend.exactly(3 * len(FRAME) + 4) == FRAME * 3 + b"more"


async def test_what_the_backend_sends_with_its_101_follows_it(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH + ANSWER)
        await client.head()
        assert await client.exactly(len(ANSWER)) == ANSWER


async def test_what_a_backend_sent_before_it_ended_passes_behind_its_101(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH + ANSWER)
        backend.close()
        await client.head()
        assert (await client.rest()).startswith(ANSWER)


async def test_a_megabyte_before_the_101_arrives_whole(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    payload = bytes(range(256)) * 4096
    async with dial(gateway.port) as client:
        sending = asyncio.ensure_future(client.send(HANDSHAKE + payload))
        backend = await upstream.accept()
        await backend.send(SWITCH)
        assert await backend.exactly(len(payload)) == payload
        await sending


async def test_headers_that_come_byte_by_byte_make_a_tunnel(start: Start) -> None:
    async with echoing_in_pieces() as port:
        gateway = await start(port)
        async with dial(gateway.port) as client:
            await client.send_in_pieces(HANDSHAKE)
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            await client.send_in_pieces(FRAME)
            assert await client.exactly(len(FRAME)) == FRAME


# The open tunnel ------------------------------------------------------------------------------------------------------


async def test_half_frames_pass_at_once(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        for number in range(len(FRAME)):
            await client.send(FRAME[number : number + 1])
            assert await backend.exactly(1) == FRAME[number : number + 1]
        for number in range(len(ANSWER)):
            await backend.send(ANSWER[number : number + 1])
            assert await client.exactly(1) == ANSWER[number : number + 1]


async def test_what_is_no_websocket_passes_as_it_is(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    junk = b"GET / HTTP/1.1\r\n\r\n\xff\xff\x00" * 100
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(junk)
        assert await backend.exactly(len(junk)) == junk
        await backend.send(junk)
        assert await client.exactly(len(junk)) == junk


async def test_16_mib_pass_both_ways_at_once(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    up, down = bytes(range(256)) * 65536, bytes(reversed(range(256))) * 65536
    async with tunnel(gateway, upstream) as (client, backend), asyncio.TaskGroup() as tasks:
        sending = [tasks.create_task(client.send(up)), tasks.create_task(backend.send(down))]
        received = [tasks.create_task(backend.exactly(len(up))), tasks.create_task(client.exactly(len(down)))]
        await asyncio.gather(*sending)
        assert await received[0] == up
        assert await received[1] == down


async def test_a_line_at_the_open_and_one_at_the_end_without_ids(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(handshake("/ws/chat/secret-patient/secret-session", "X-Request-ID: abc"))
        backend = await upstream.accept()
        await backend.send(SWITCH + ANSWER)
        await client.head()
        await client.exactly(len(ANSWER))
        await client.send(FRAME)
        await backend.exactly(len(FRAME))
        backend.close()
        await client.rest()
    await gateway.has(0)
    lines = [record.getMessage() for record in caplog.records if record.name == "moorline.gateway.ws"]
    assert lines[0] == "WebSocket opened: client=127.0.0.1 request_id=abc"
    assert lines[1].startswith("WebSocket closed: ended_by=upstream reason=fin close_code=1014 seconds=0.")
    counted = f" from_client={len(FRAME)} from_upstream={len(ANSWER)} frames_from_client=1 frames_from_upstream=1"
    assert f"{counted} cause=UF-idle order=upstream:fin,client:fin " in lines[1]
    assert lines[1].endswith(" request_id=abc")
    assert len(lines) == 2
    assert "secret" not in caplog.text
    # In JSON each is a field.
    fields = vars([record for record in caplog.records if record.name == "moorline.gateway.ws"][1])
    assert (fields["ended_by"], fields["reason"], fields["close_code"], fields["from_client"]) == (
        "upstream",
        "fin",
        1014,
        len(FRAME),
    )


async def test_the_library_of_another_make_negotiates_with_the_backend_through_it(start: Start) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
        await connection.close(4001, "that was all")

    async with serve(echo, "127.0.0.1", 0, subprotocols=["v2", "v1"], max_size=None) as server:  # type: ignore[list-item]
        gateway = await start(server.sockets[0].getsockname()[1])
        address = gateway.url.replace("http", "ws") + "/ws/x"
        async with connect(address, subprotocols=["v1"], max_size=None, proxy=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "v1"
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            for message in ("ünïcode", b"\0\1", "x" * (16 << 20)):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())


async def test_a_body_cannot_become_a_request_of_its_own(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    smuggled = b"DELETE /api/chat/other HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with dial(gateway.port) as client:
        length = f"Content-Length: {len(smuggled)}"
        await client.send(handshake("/ws/x", "Connection: Content-Length, Host", length) + smuggled)
        backend = await upstream.accept()
        fields = backend.request.split(b"\r\n")
        assert length.encode() in fields
        assert b"Host: localhost" in fields
        assert await backend.exactly(len(smuggled)) == smuggled
