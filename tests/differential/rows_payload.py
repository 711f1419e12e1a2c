"""Rows of what passes an open tunnel: everything, as it is and at once."""

from tests.differential.frames import BINARY, CLOSE, PING, PONG, TEXT, frame, words
from tests.differential.stage import Stage
from tests.differential.table import table

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_HUGE = bytes(range(256)) * (16 << 12)
_DOWN = frame(BINARY, _HUGE, masked=False)
_UP = frame(BINARY, _HUGE, masked=True)

_FRAGMENTS = [
    frame(TEXT, b"one ", masked=False, first=0),
    frame(PING, b"between", masked=False),
    frame(0, b"two ", masked=False, first=0),
    frame(0, b"three", masked=False),
]
# Each of it against RFC 6455, and none of it the proxy's business.
_INVALID = {
    "unmasked": frame(TEXT, b"hi", masked=False),
    "reserved bit": frame(TEXT, b"hi", masked=True, first=0xC0),
    "bad UTF-8": frame(TEXT, b"\xff\xfe", masked=True),
    "big control": frame(PING, bytes(200), masked=True),
    "reserved opcode": frame(0x5, b"hi", masked=True),
    "fragmented control": frame(PING, b"hi", masked=True, first=0),
    "close of one byte": frame(CLOSE, b"\x03", masked=True),
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
}


@row("big_frame_b2c", {"frame": words(_DOWN)})
async def big_frame_b2c(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("frame", _DOWN, backend, client)


@row("big_frame_c2b", {"frame": words(_UP)})
async def big_frame_c2b(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("frame", _UP, client, backend)


@row("fragments_not_held_back", {f"fragment {n}": f"{words(part)} @0.0" for n, part in enumerate(_FRAGMENTS)})
async def fragments_not_held_back(stage: Stage) -> None:
    """Also `fragmented`: the same fragments, with the Ping in its place."""
    client, backend = await stage.tunnel()
    for number, fragment in enumerate(_FRAGMENTS):
        await stage.passes(f"fragment {number}", fragment, backend, client)


@row("half_frames", {"down": "all", "up": "all"})
async def half_frames(stage: Stage) -> None:
    """One buffer, no frames: every byte is passed on before the next one comes."""
    client, backend = await stage.tunnel()
    for byte in frame(TEXT, b"byte by byte", masked=False):
        await stage.passes("byte", bytes([byte]), backend, client)
    stage.see("down", "all")
    for byte in frame(TEXT, b"byte by byte", masked=True):
        await stage.passes("byte", bytes([byte]), client, backend)
    stage.see("up", "all")


@row(
    "ping_pong_transparent",
    {
        "ping": words(frame(PING, b"you?", masked=True)),
        "pong": words(frame(PONG, b"you?", masked=False)),
        "ping back": words(frame(PING, b"and you?", masked=False)),
        "pong back": words(frame(PONG, b"and you?", masked=True)),
    },
)
async def ping_pong_transparent(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("ping", frame(PING, b"you?", masked=True), client, backend)
    await stage.passes("pong", frame(PONG, b"you?", masked=False), backend, client)
    await stage.passes("ping back", frame(PING, b"and you?", masked=False), backend, client)
    await stage.passes("pong back", frame(PONG, b"and you?", masked=True), client, backend)


@row(
    "invalid_frames",
    {name: words(data) for name, data in _INVALID.items()} | {"client": "FIN @2.0"},
    truthful={"client": "FIN @2.0"},
)
async def invalid_frames(stage: Stage) -> None:
    """One after the other through the same tunnel, which stays."""
    client, backend = await stage.tunnel()
    for name, data in _INVALID.items():
        await stage.passes(name, data, client, backend)
    await stage.passes("junk", b"\xff" * 1000, backend, client)
    stage.mark()
    await stage.ends(client=client)
