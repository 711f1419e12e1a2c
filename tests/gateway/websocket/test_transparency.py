"""All that a side sends arrives unchanged, at once, and in both directions at the same time."""

import asyncio
import os
import random

import pytest

from tests.gateway.websocket.conftest import Start, tunnel
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, Upstream, dial
from tests.support.websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

KEY = b"\x11\x22\x33\x44"
# Per direction. A million take minutes; they need FUZZ_CHUNKS=1000000 and `--timeout 3600`.
CHUNKS = int(os.environ.get("FUZZ_CHUNKS", "4000"))

FRAMES = {
    "fragments with a ping between": frame(TEXT, b"a", fin=False, key=KEY)
    + frame(PING, b"p", key=KEY)
    + frame(CONTINUATION, b"b", key=KEY),
    "permessage-deflate": frame(TEXT, b"\xaa\x56\x4a\x2c\x28\xc8\x49\x05\x00", rsv=4, key=KEY),
    "every rsv bit": frame(BINARY, b"x", rsv=7, key=KEY),
    "reserved opcodes": b"".join(frame(opcode, b"x", key=KEY) for opcode in (3, 7, 11, 15)),
    "unmasked": frame(TEXT, b"no mask"),
    "bad utf-8": frame(TEXT, b"\xff\xfe", key=KEY),
    "a continuation of nothing": frame(CONTINUATION, b"x", key=KEY),
    "a ping that is too long": frame(PING, bytes(126), key=KEY),
    "a fragmented ping": frame(PING, b"x", fin=False, key=KEY),
    "lengths that need not be so long": b"\x82\x7e\x00\x01x\x82\x7f" + bytes(7) + b"\x01x",
    "a negative length": b"\x82\x7f\xff" + bytes(7) + b"x" * 100,
    "an unsolicited pong": frame(PONG, b"me", key=KEY),
    "bytes behind a close": close_frame(1000, key=KEY) + frame(TEXT, b"late", key=KEY) + b"\xff\xff",
    "a close of one byte": frame(CLOSE, b"\x03", key=KEY),
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES.keys())
async def test_frames_right_and_wrong_pass_both_ways_byte_by_byte(
    start: Start, upstream: Upstream, data: bytes
) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream) as (client, backend):
        for sender, receiver in ((client, backend), (backend, client)):
            for number in range(len(data)):
                await sender.send(data[number : number + 1])
                assert await receiver.exactly(1) == data[number : number + 1]
        assert len(gateway.tunnels) == 1


@pytest.mark.parametrize("key", [b"", KEY], ids=["backend", "client"])
async def test_a_frame_of_16_mib_passes(start: Start, upstream: Upstream, key: bytes) -> None:
    gateway = await start(upstream.port)
    whole = frame(BINARY, random.Random(16).randbytes(16 << 20), key=key)
    async with tunnel(gateway, upstream) as (client, backend):
        sender, receiver = (client, backend) if key else (backend, client)
        sending = asyncio.ensure_future(sender.send(whole))
        assert await receiver.exactly(len(whole)) == whole
        await sending


async def test_a_wrong_sec_websocket_accept_and_what_was_never_offered_pass(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    wrong = SWITCH.replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"d3Jvbmc=").replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: unasked\r\nSec-WebSocket-Extensions: unheard-of\r\n\r\n"
    )
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(wrong)
        head = await client.head()
        assert b"\r\nSec-WebSocket-Accept: d3Jvbmc=\r\n" in head
        assert b"\r\nSec-WebSocket-Protocol: unasked\r\n" in head
        assert b"\r\nSec-WebSocket-Extensions: unheard-of\r\n" in head
        await client.send(frame(TEXT, b"works", key=KEY))
        assert await backend.exactly(11) == frame(TEXT, b"works", key=KEY)


@pytest.mark.parametrize("kind", ["frames", "noise"])
async def test_random_chunks_both_ways_at_once_arrive_as_they_were(start: Start, upstream: Upstream, kind: str) -> None:
    gateway = await start(upstream.port, max_frame_size=None)
    async with tunnel(gateway, upstream) as (client, backend):
        ways = ((client, backend, random.Random(1)), (backend, client, random.Random(2)))
        await asyncio.gather(*(_fuzz(sender, receiver, order, kind) for sender, receiver, order in ways))


async def _fuzz(sender: Peer, receiver: Peer, order: random.Random, kind: str) -> None:
    """Rounds of chunks, so that a million need no more memory than a thousand."""
    left = CHUNKS
    while left > 0:
        count = min(left, 1000)
        left -= count
        sizes = [order.choice((1, 2, 3, 7, 20, 130, 1000, 9000)) for _ in range(count)]
        stream = _frames(sum(sizes), order) if kind == "frames" else order.randbytes(sum(sizes))
        sending = asyncio.ensure_future(_send(sender, stream, sizes))
        assert await receiver.exactly(len(stream)) == stream
        await sending


def _frames(size: int, order: random.Random) -> bytes:
    """About so many bytes of frames."""
    parts, made = [], 0
    while made < size:
        payload = order.randbytes(order.choice((0, 1, 60, 125, 126, 300, 66_000)))
        opcode = order.choice((TEXT, BINARY, PING, PONG) if len(payload) < 126 else (TEXT, BINARY))
        parts.append(frame(opcode, payload, key=order.choice((b"", KEY)), rsv=order.choice((0, 4))))
        made += len(parts[-1])
    return b"".join(parts)


async def _send(peer: Peer, stream: bytes, sizes: list[int]) -> None:
    at = 0
    for size in sizes:
        await peer.send(stream[at : at + size])
        at += size
        # Each its chance to be read alone.
        await asyncio.sleep(0)
    await peer.send(stream[at:])
