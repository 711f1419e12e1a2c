"""Rows of an answer that never comes or is none, of a request that is none, and of a client that does not wait."""

import asyncio
import contextlib
import socket

from tests.differential.stage import Stage
from tests.differential.table import SPLIT, table
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, handshake

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_BAD = {"client": "502 @0.0", "again": "502"}
_LATE = {"client": "504 @2.0", "backend": "FIN"}
_LATER = {"client": "504 @6.0", "backend": "FIN"}


async def _asked(stage: Stage) -> Peer:
    client = await stage.client()
    await client.send(HANDSHAKE)
    stage.mark()
    return client


# The backend ----------------------------------------------------------------------------------------------------------


@row("hs_refused", {**_BAD, "connections": "0"}, listening=False)
async def hs_refused(stage: Stage) -> None:
    client = await _asked(stage)
    await stage.answer(client)
    await client.send(HANDSHAKE)
    await stage.answer(client, "again")


@row(
    "hs_restart_refused_1s",
    {"first": "502 @0.0", "second": "502", "third": "101"},
    listening=False,
)
async def hs_restart_refused_1s(stage: Stage) -> None:
    """No penalty: as soon as the backend is back it is used."""
    client = await _asked(stage)
    await stage.answer(client, "first")
    await client.send(HANDSHAKE)
    await stage.answer(client, "second")
    stage.backend.listen()
    await client.send(HANDSHAKE)
    await (await stage.backend.accept()).send(SWITCH)
    await stage.answer(client, "third")


@row("hs_connect_blackhole", {"client": "504 @2.0", "again": "504"}, listening=False)
async def hs_connect_blackhole(stage: Stage) -> None:
    """A backlog that is full: the kernel drops what else comes, as a host that is down does."""
    stage.backend.listen(0)
    with contextlib.ExitStack() as fillers:
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", stage.backend.port))
        client = await _asked(stage)
        await stage.answer(client)
        await client.send(HANDSHAKE)
        await stage.answer(client, "again")


@row("hs_no_answer", _LATE)
@row("hs_no_answer_split", _LATER, options=SPLIT)
async def hs_no_answer(stage: Stage) -> None:
    client, backend = await stage.ask()
    stage.mark()
    await stage.answer(client)
    await stage.ends(backend=backend)


@row("hs_accept_no_read", {"client": "504 @2.0"})
async def hs_accept_no_read(stage: Stage) -> None:
    client = await _asked(stage)
    await stage.backend.accept_silently()
    await stage.answer(client)


@row("hs_header_dribble", {"client": "504 @2.0"})
@row("hs_header_dribble_split", {"client": "504 @6.0"}, options=SPLIT)
async def hs_header_dribble(stage: Stage) -> None:
    """Progress is no answer."""
    client, backend = await stage.ask()
    stage.mark()

    async def send_slowly() -> None:
        await backend.send(b"HTTP/1.1 101 Switching Protocols\r\n")
        for number in range(100):
            await backend.send(b"X-Field-%d: x\r\n" % number)
            await asyncio.sleep(0.2)  # its pace

    stage.aside(send_slowly())
    await stage.answer(client)


async def _fails(stage: Stage, client: Peer) -> None:
    """The answer to what the backend has just done, and to the next handshake on the same connection."""
    await stage.answer(client)
    await client.send(HANDSHAKE)
    (await stage.backend.accept()).close()
    await stage.answer(client, "again")


@row("hs_fin_no_response", {**_BAD, "connections": "2"})
async def hs_fin_no_response(stage: Stage) -> None:
    client, backend = await stage.ask()
    stage.mark()
    backend.close()
    await _fails(stage, client)


@row("hs_rst_no_response", {**_BAD, "connections": "2"})
async def hs_rst_no_response(stage: Stage) -> None:
    client, backend = await stage.ask()
    stage.mark()
    backend.reset()
    await _fails(stage, client)


@row("hs_fin_mid_header", {**_BAD, "connections": "2"})
async def hs_fin_mid_header(stage: Stage) -> None:
    client, backend = await stage.ask()
    stage.mark()
    await backend.send(SWITCH[:40])
    backend.close()
    await _fails(stage, client)


@row("hs_garbage", {"client": "220 mail.example.com ESMTP"}, gateway={"client": "HTTP/1.1 502 Bad Gateway"})
async def hs_garbage(stage: Stage) -> None:
    """nginx takes it for the body of an answer in HTTP/0.9."""
    client, backend = await stage.ask()
    await backend.send(b"220 mail.example.com ESMTP\r\n\r\n")
    backend.fin()
    stage.see("client", (await client.head()).split(b"\r\n")[0].decode())


@row("hs_101_unrequested", {"client": "101"}, gateway={"client": "502"})
async def hs_101_unrequested(stage: Stage) -> None:
    """Smuggling: behind the 101 the client's next request would pass unseen."""
    client, backend = await stage.ask(b"GET /ws/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await backend.send(SWITCH)
    await stage.answer(client)


@row("101_without_upgrade", {"client": "101"}, gateway={"client": "502"})
async def switch_without_upgrade(stage: Stage) -> None:
    """It is unknown to what protocol this switches."""
    client, backend = await stage.ask()
    await backend.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    await stage.answer(client)


@row(
    "hs_non_ws_get",
    {"client": "200", "body": "ok", "to the backend": "upgrade", "again": "200"},
    gateway={"to the backend": "none"},
)
async def hs_non_ws_get(stage: Stage) -> None:
    client = await stage.client()
    for name in ("client", "again"):
        await client.send(b"GET /ws/x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\r\n")
        backend = await stage.backend.accept()
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answer = await stage.answer(client, name)
        stage.see("body", answer.body.decode())
        stage.see("to the backend", "upgrade" if b"connection: upgrade" in backend.request.lower() else "none")


# The client -----------------------------------------------------------------------------------------------------------


def _gone(way: str) -> None:
    @row(f"hs_client_gone_before_101[{way}]", {"backend": "gone @0.0", "connections": "1"})
    async def hs_client_gone_before_101(stage: Stage) -> None:
        client, backend = await stage.ask()
        await asyncio.sleep(0.1)  # for the proxy to wait
        stage.mark()
        getattr(client, way)()
        await stage.gone("backend", backend)


for _way in ("close", "fin", "reset"):
    _gone(_way)


@row("client_header_timeout", {"client": "gone @2.0", "connections": "0"})
async def client_header_timeout(stage: Stage) -> None:
    """Request headers that trickle in: no byte is sent back."""
    client = await stage.client()
    stage.mark()

    async def send_slowly() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in HANDSHAKE[:60]:
                await client.send(bytes([byte]))
                await asyncio.sleep(0.3)  # its pace, and no byte at the very end

    stage.aside(send_slowly())
    await stage.gone("client", client)


@row("client_header_timeout_silent", {"client": "FIN @2.0", "connections": "0"})
async def client_header_timeout_silent(stage: Stage) -> None:
    client = await stage.client()
    stage.mark()
    await stage.ends(client=client)


@row("client_body_timeout", {"client": "nothing @2.0"}, gateway={"client": "408 @2.0", "connections": "1"})
async def client_body_timeout(stage: Stage) -> None:
    """A handshake whose body does not come. nginx waits for all of it first; the gateway passes it on as it comes."""
    client = await stage.client()
    await client.send(handshake("/ws/x", "Content-Length: 10") + b"half")
    stage.mark()
    try:
        await stage.answer(client)
    except EOFError:
        stage.see("client", "nothing")


@row("big_request_7k", {"client": "101"})
async def big_request_7k(stage: Stage) -> None:
    """hs_big_request_header"""
    client, backend = await stage.ask(handshake("/ws/x", "Cookie: " + "c" * 7000))
    await backend.send(SWITCH)
    await stage.answer(client)


async def _too_big(stage: Stage, request: bytes) -> None:
    client = await stage.client()
    with contextlib.suppress(ConnectionError):
        await client.send(request)
    await stage.answer(client)


@row("big_request_line_9k", {"client": "400", "connections": "0"}, gateway={"client": "431"})
async def big_request_line_9k(stage: Stage) -> None:
    """hs_big_request_header: one line above 8 KiB"""
    await _too_big(stage, handshake("/ws/x", "Cookie: " + "c" * 9000))


@row("big_request_36k", {"client": "400", "connections": "0"}, gateway={"client": "431"})
async def big_request_36k(stage: Stage) -> None:
    """hs_big_request_header: more than 32 KiB in all"""
    await _too_big(stage, handshake("/ws/x", *(f"X-Big-{n}: {'x' * 6000}" for n in range(6))))


@row("big_request_sent_on", {"client": "400", "end": "FIN", "connections": "0"}, gateway={"client": "431"})
async def big_request_sent_on(stage: Stage) -> None:
    """A client that sends 8 MiB of headers before it reads: a reset would cost it the response (lingering_close)."""
    client = await stage.client()
    await client.send(handshake("/ws/x")[:-2])
    for _ in range(1024):
        await client.send(b"X-Big: " + b"x" * 8000 + b"\r\n")
    await stage.answer(client)
    _, end = await client.end()
    stage.see("end", end)


@row("big_target_9k", {"client": "414", "connections": "0"}, gateway={"client": "431"})
async def big_target_9k(stage: Stage) -> None:
    await _too_big(stage, handshake("/ws/" + "x" * 9000))


@row("no_request", {"client": "400", "connections": "0"})
async def no_request(stage: Stage) -> None:
    await _too_big(stage, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
