"""Rows of the request: what of it reaches the backend, and how often."""

import asyncio

from tests.differential.frames import TEXT, frame, words
from tests.differential.stage import Stage
from tests.differential.table import table
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, handshake

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_FRAME = frame(TEXT, b"early", masked=True)
_TARGETS = (
    "/ws/a%2Fb",
    "/ws//x",
    "/ws/%7e",
    "/ws/a/b?c&&e=",
    "/ws/x?",
    "/ws/x?q=/../%2e;'()",
)
_HEAD = b"""GET /ws/x HTTP/1.1
Host: Chat.Example.COM:8443
Upgrade: WebSocket
Connection: Upgrade, X-Foo
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Protocol: a, b
Sec-WebSocket-Extensions: x-own; y=1
Cookie: a=1
Cookie: b=2
x-DUP: 1
x-DUP: 2
X-Foo: nominated
X_Under: 1
X-Empty:
X-Real-IP: 6.6.6.6
X-Forwarded-For: 7.7.7.7
X-Forwarded-For: 8.8.8.8
Forwarded: for=9.9.9.9
TE: trailers
Keep-Alive: timeout=5
Trailer: X-Sum
Proxy-Connection: keep-alive
Proxy-Authorization: Basic eDp5
Origin: http://chat.example.com:8443

""".replace(b"\n", b"\r\n")
_PASSED = {
    "Host": "chat.example.com",
    "Upgrade": "WebSocket",
    "Connection": "upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "a, b",
    "Sec-WebSocket-Extensions": "x-own; y=1",
    "Cookie": "a=1 | b=2",
    "x-DUP": "1 | 2",
    "X-Foo": "nominated",
    "X_Under": "",
    "X-Real-IP": "127.0.0.1",
    "X-Forwarded-For": "7.7.7.7, 8.8.8.8, 127.0.0.1",
    "Forwarded": "for=9.9.9.9",
    "TE": "",
    "Keep-Alive": "",
    "Trailer": "X-Sum",
    "Proxy-Connection": "keep-alive",
    "Proxy-Authorization": "Basic eDp5",
    "Origin": "http://chat.example.com:8443",
}
# RFC 9110 section 7.6.1; a Host with the port that Origin has; whom a trusted proxy names, as every local client is.
_OTHERWISE = {
    "Host": "Chat.Example.COM:8443",
    "Upgrade": "websocket",
    "X-Foo": "",
    "X-Real-IP": "8.8.8.8",
    "Trailer": "",
    "Proxy-Connection": "",
    "Proxy-Authorization": "",
}


@row("hs_headers", {"names": "as they are", **_PASSED}, gateway=_OTHERWISE)
async def hs_headers(stage: Stage) -> None:
    _, backend = await stage.ask(_HEAD)
    lines = [line.partition(b":") for line in backend.request.split(b"\r\n")[1:-2]]
    for name in _PASSED:
        values = [value.strip().decode() for known, _, value in lines if known.lower() == name.lower().encode()]
        stage.see(name, " | ".join(values))
    stage.see("Connection", stage.record["Connection"].text.lower())
    cased = {b"x-DUP", b"X-Empty", b"Cookie", b"Sec-WebSocket-Key"} <= {name for name, _, _ in lines}
    stage.see("names", "as they are" if cased else "changed")


@row("hs_uri_raw", {target: f"GET {target} HTTP/1.1" for target in _TARGETS})
async def hs_uri_raw(stage: Stage) -> None:
    for target in _TARGETS:
        _, backend = await stage.ask(handshake(target))
        stage.see(target, backend.request.split(b"\r\n")[0].decode())


@row(
    "hs_dot_segments",
    {"line": "GET /ws/./x/%2e%2e/y HTTP/1.1", "client": "403"},
    gateway={"line": None, "client": "400", "connections": "0"},
)
async def hs_dot_segments(stage: Stage) -> None:
    """A backend may resolve them to a path outside /ws, which no access rule of the gateway allowed."""
    client = await stage.client()
    await client.send(handshake("/ws/./x/%2e%2e/y"))

    async def refuse() -> None:
        backend = await stage.backend.accept()
        stage.see("line", backend.request.split(b"\r\n")[0].decode())
        await backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    stage.aside(refuse())
    await stage.answer(client)


@row("absolute_target", {"line": "GET /ws/x%7e?q HTTP/1.1"})
async def absolute_target(stage: Stage) -> None:
    """RFC 9112 section 3.2.2: a server takes the absolute form, too."""
    _, backend = await stage.ask(handshake("http://localhost/ws/x%7e?q"))
    stage.see("line", backend.request.split(b"\r\n")[0].decode())


_NOT_OFFERED = {"client": "400", "connections": "0", "passes": None}


@row(
    "hs_http10",
    {"client": "101", "passes": "x", "line": "GET /ws/x HTTP/1.1"},
    gateway=_NOT_OFFERED | {"line": None},
)
async def hs_http10(stage: Stage) -> None:
    await _offered(stage, handshake("/ws/x").replace(b"HTTP/1.1", b"HTTP/1.0"), SWITCH)


@row(
    "hs_other_upgrade_token",
    {"client": "101", "passes": "x", "line": "GET /ws/x HTTP/1.1"},
    gateway=_NOT_OFFERED | {"line": None},
)
async def hs_other_upgrade_token(stage: Stage) -> None:
    sure = b"HTTP/1.1 101 Sure\r\nUpgrade: foo/1\r\nConnection: Upgrade\r\n\r\n"
    await _offered(stage, handshake("/ws/x").replace(b"Upgrade: websocket", b"Upgrade: foo/1"), sure)


async def _offered(stage: Stage, request: bytes, switch: bytes) -> None:
    """Ask for something else than a WebSocket over HTTP/1.1; the backend, if it is asked, agrees."""
    client = await stage.client()
    await client.send(request)

    async def agree() -> None:
        backend = await stage.backend.accept()
        stage.see("line", backend.request.split(b"\r\n")[0].decode())
        await backend.send(switch)
        await stage.passes("passes", b"x", client, backend)

    agreeing = stage.aside(agree())
    if (await stage.answer(client)).status == "101":
        await agreeing


@row("hs_request_body", {"body": "body", "frame": words(_FRAME)})
async def hs_request_body(stage: Stage) -> None:
    client, backend = await stage.ask(handshake("/ws/x", "Content-Length: 4") + b"body" + _FRAME)
    stage.see("body", (await backend.exactly(4)).decode())
    await backend.send(SWITCH)
    stage.see("frame", words(await backend.exactly(len(_FRAME))))
    del client


@row("expect", {"interim": "100", "client": "101", "Expect": ""})
async def expect(stage: Stage) -> None:
    """hs_headers: it is answered by whom it reaches first, even where no body waits for that."""
    client, backend = await stage.ask(handshake("/ws/x", "Expect: 100-continue"))
    stage.see("Expect", "passed" if b"expect" in backend.request.lower() else "")
    await backend.send(SWITCH)
    await stage.answer(client, "interim")
    await stage.answer(client)


@row("hs_missing_host", {"client": "400", "connections": "0"})
async def hs_missing_host(stage: Stage) -> None:
    client = await stage.client()
    await client.send(HANDSHAKE.replace(b"Host: localhost\r\n", b""))
    await stage.answer(client)


# Early bytes ----------------------------------------------------------------------------------------------------------


@row("hs_first_frame_with_101", {"frame": f"{words(_FRAME)} @0.0"})
async def hs_first_frame_with_101(stage: Stage) -> None:
    client, _ = await stage.tunnel(answer=SWITCH + _FRAME)
    stage.see("frame", words(await client.exactly(len(_FRAME))))


_HELD = {"before": "nothing", "after": f"{words(_FRAME)} @0.0"}


@row("hs_first_frame_with_request", _HELD)
async def hs_first_frame_with_request(stage: Stage) -> None:
    client, backend = await stage.ask(HANDSHAKE + _FRAME)
    await _held(stage, client, backend)


@row("hs_frame_before_101", _HELD)
async def hs_frame_before_101(stage: Stage) -> None:
    client, backend = await stage.ask()
    await client.send(_FRAME)
    await _held(stage, client, backend)


async def _held(stage: Stage, client: Peer, backend: Peer) -> None:
    early = asyncio.ensure_future(backend.exactly(len(_FRAME)))
    await asyncio.wait([early], timeout=0.3)
    stage.see("before", "all" if early.done() else "nothing")
    await backend.send(SWITCH)
    stage.mark()
    await stage.answer(client)
    stage.see("after", words(await early))
