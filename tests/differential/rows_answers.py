"""Rows of the backend's answer that is one: the switch, and a refusal, which passes as it is."""

import asyncio
import contextlib

from tests.differential.frames import TEXT, frame, words
from tests.differential.stage import Answer, Stage
from tests.differential.table import SPLIT, table
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, handshake

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_COMPRESSED = frame(TEXT, b"\xca\xc9\xc9\x07\x00", masked=False, first=0xC0)


def _head(status: str, *lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")).encode()


_SWITCH_LINES = ("Upgrade: websocket", "Connection: upgrade")


# The switch -----------------------------------------------------------------------------------------------------------


_CHOICES = {
    "client": "101",
    "reason": "Sure",
    "Upgrade": "websocket",
    "Connection": "upgrade",
    "Server": "nginx",
    "Date": "now",
    "Sec-WebSocket-Protocol": "never-offered",
    "Sec-WebSocket-Extensions": "x-unknown; a=1",
    "Sec-WebSocket-Accept": "of another key",
    "Set-Cookie": "a=1 | b=2",
    "X-Own": "kept",
    "Keep-Alive": "",
    "X-Accel-Buffering": "",
}
# A proxy in front of the gateway may need the latter, and no client needs the former to be another's.
_KEPT = {"Server": "backend", "Date": "then", "X-Accel-Buffering": "no"}


@row("hs_subprotocol_ext", {**_CHOICES, "frame": words(_COMPRESSED), "switched": "once"}, gateway=_KEPT)
async def hs_subprotocol_ext(stage: Stage) -> None:
    """Also hs_bad_accept. Whatever the backend chooses is its client's business."""
    client, backend = await stage.ask(handshake("/ws/x", "Sec-WebSocket-Protocol: a"))
    stage.see("switched", "once" if backend.request.lower().count(b"\r\nupgrade:") == 1 else "not once")
    await backend.send(
        _head(
            "101 Sure",
            *_SWITCH_LINES,
            "Sec-WebSocket-Protocol: never-offered",
            "Sec-WebSocket-Extensions: x-unknown; a=1",
            "Sec-WebSocket-Accept: of another key",
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
            "X-Own: kept",
            "Server: backend",
            "Date: then",
            "Keep-Alive: timeout=5",
            "X-Accel-Buffering: no",
        )
        + _COMPRESSED
    )
    answer = await stage.answer(client)
    stage.see("reason", answer.reason)
    for name in list(_CHOICES)[2:]:
        stage.see(name, answer.all(name))
    stage.see("Connection", answer.all("Connection").lower())
    stage.see("Date", "then" if answer.all("Date") == "then" else "now")
    stage.see("frame", words(await client.exactly(len(_COMPRESSED))))


@row("hs_no_ws_validation", {"client": "426", "version": "12", "key": "none"})
async def hs_no_ws_validation(stage: Stage) -> None:
    request = handshake().replace(b"Version: 13", b"Version: 12")
    client, backend = await stage.ask(request.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""))
    stage.see("version", "12" if b"Sec-WebSocket-Version: 12" in backend.request else "another")
    stage.see("key", "added" if b"-Key:" in backend.request else "none")
    await backend.send(_head("426 Upgrade Required", "Sec-WebSocket-Version: 13", "Content-Length: 0"))
    await stage.answer(client)


@row("big_switch_3k", {"switch": "101", "passes": "x"})
async def big_switch_3k(stage: Stage) -> None:
    """hs_big_response_header"""
    client, backend = await stage.tunnel(answer=_big_switch(3400))
    await stage.passes("passes", b"x", backend, client)


@row("big_switch_5k", {"client": "502"}, gateway={"client": "101"})
async def big_switch_5k(stage: Stage) -> None:
    """hs_big_response_header"""
    client, backend = await stage.ask()
    await backend.send(_big_switch(5000))
    await stage.answer(client)


@row("big_switch_40k", {"client": "502"})
async def big_switch_40k(stage: Stage) -> None:
    """hs_big_response_header"""
    client, backend = await stage.ask()
    with contextlib.suppress(ConnectionError):
        await backend.send(_big_switch(40_000))
    await stage.answer(client)


def _big_switch(size: int) -> bytes:
    cookies = [f"X-Big-{n}: {'x' * 480}" for n in range(size // 500)]
    return _head("101 Switching Protocols", *_SWITCH_LINES, *cookies)


# Refusals -------------------------------------------------------------------------------------------------------------


def _refusal(status: str, *lines: str) -> None:
    code, reason = status.split(" ", 1)
    fields = dict(line.split(": ", 1) for line in lines)

    @row(
        f"hs_reject_{code}",
        {"client": f"{code} @0.0", "reason": reason, "body": "never", **fields, "backend": "FIN", "again": code},
    )
    async def hs_reject(stage: Stage) -> None:
        """As it is, and the client may ask again on the same connection."""
        client, backend = await stage.ask()
        stage.mark()
        await backend.send(_head(status, *lines, "Content-Length: 5") + b"never")
        answer = await stage.answer(client)
        stage.see("reason", answer.reason)
        stage.see("body", answer.body.decode())
        for name in fields:
            stage.see(name, answer.all(name))
        await stage.ends(backend=backend)
        await client.send(HANDSHAKE)
        await (await stage.backend.accept()).send(_head(status, "Content-Length: 0"))
        await stage.answer(client, "again")


_refusal("401 Unauthorized", "WWW-Authenticate: Bearer", "Content-Type: text/plain")
_refusal("403 Not You", "Content-Type: application/json", "X-Why: because")
_refusal("404 Not Found", "Content-Encoding: x-own")
_refusal("500 Oops", "Set-Cookie: a=1")
_refusal("502 Bad Gateway", "Content-Type: text/plain")
_refusal("503 Service Unavailable", "Retry-After: 7")
_refusal("302 Found", "Location: https://elsewhere.example/x?y#z")


@row(
    "hs_redirect_to_backend_url",
    {"client": "302", "location": "http://localhost:<listening>/elsewhere"},
    gateway={"location": "http://localhost/elsewhere"},
)
async def hs_redirect_to_backend_url(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(
        _head("302 Found", f"Location: http://127.0.0.1:{stage.backend.port}/elsewhere", "Content-Length: 0")
    )
    location = (await stage.answer(client)).all("Location")
    stage.see("location", location.replace(str(stage.port), "<listening>"))


@row("hs_reject_until_close", {"client": "403", "framing": "chunked", "body": "until the end"})
async def hs_reject_until_close(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(_head("403 Forbidden") + b"until the end")
    backend.fin()
    answer = await stage.answer(client)
    stage.see("framing", answer.all("Transfer-Encoding"))
    stage.see("body", answer.body.decode())


@row("hs_reject_chunked", {"client": "403", "body": "in pieces"})
async def hs_reject_chunked(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(_head("403 Forbidden", "Transfer-Encoding: chunked") + b"3\r\nin \r\n6\r\npieces\r\n0\r\n\r\n")
    stage.see("body", (await stage.answer(client)).body.decode())


@row("http10_backend", {"client": "403", "body": "old"})
async def http10_backend(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(b"HTTP/1.0 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nold")
    backend.fin()
    stage.see("body", (await stage.answer(client)).body.decode())


@row("http10_switch", {"client": "101", "passes": "x"})
async def http10_switch(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await stage.answer(client)
    await stage.passes("passes", b"x", backend, client)


@row("hs_reject_stalled_body", {"status": "403", "client": "FIN @2.0"}, gateway={"client": "half FIN @2.0"})
@row(
    "hs_reject_stalled_body_split",
    {"status": "403", "client": "FIN @6.0"},
    gateway={"client": "half FIN @6.0"},
    options=SPLIT,
)
async def hs_reject_stalled_body(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(_head("403 Forbidden", "Content-Length: 100") + b"half")
    stage.mark()
    stage.see("status", Answer.of(await client.head()).status)
    await stage.ends(client=client)


@row("hs_reject_dribbled_body", {"client": "403", "body": "dribble @3.0"})
async def hs_reject_dribbled_body(stage: Stage) -> None:
    client, backend = await stage.ask()
    await backend.send(_head("403 Forbidden", "Content-Length: 7"))
    stage.mark()

    async def send_slowly() -> None:
        for byte in b"dribble":
            await asyncio.sleep(3.0 / 7)  # its pace, in all one and a half times the timeout
            await backend.send(bytes([byte]))

    stage.aside(send_slowly())
    stage.see("body", (await stage.answer(client)).body.decode())
