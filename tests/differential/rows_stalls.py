"""Rows of a peer that does not read: which timer ends it, what sets that timer anew, and what of the rest arrives."""

import asyncio

from tests.differential.frames import BULK_DOWN, BULK_UP, PING, frame
from tests.differential.stage import Stage
from tests.differential.table import SPLIT, table

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_PING = frame(PING, b"", masked=True)
_PONG_DOWN = frame(PING, b"", masked=False)
_SMALL = 1 << 16
_TOLD = {"client": "Close 1013 proxy_send_timeout FIN @2.0"}
_TOLD_UP = {"backend": "masked Close 1001 send_timeout FIN @4.0"}


@row("client_stalls_reading", {"backend": "RST @4.0", "client": "a part FIN"}, truthful=_TOLD_UP)
@row("client_stalls_reading_split", {"backend": "RST @4.0", "client": "a part FIN"}, truthful=_TOLD_UP, options=SPLIT)
async def client_stalls_reading(stage: Stage) -> None:
    """`send_timeout`, whatever `proxy_read_timeout` is."""
    client, backend = await stage.tunnel(receive_buffer=_SMALL)
    sent = await stage.stall(backend, BULK_DOWN)
    await stage.ends(backend=backend)
    await stage.drains("client", client, sent)


@row("client_stalls_but_sends", {"alive": "yes", "backend": "RST @4.0"}, truthful=_TOLD_UP)
async def client_stalls_but_sends(stage: Stage) -> None:
    """Any byte of either side sets its timer anew."""
    client, backend = await stage.tunnel(receive_buffer=_SMALL)
    await stage.stall(backend, BULK_DOWN)
    stage.mark()
    for _ in range(10):
        await asyncio.sleep(0.5)  # its pace
        await stage.passes("ping", _PING, client, backend)
    stage.see("alive", "yes")
    stage.mark()
    await stage.ends(backend=backend)


@row("client_slow_reader", {"alive": "yes"})
async def client_slow_reader(stage: Stage) -> None:
    client, backend = await stage.tunnel(receive_buffer=_SMALL)
    stage.flood(backend, BULK_DOWN)
    for _ in range(12):
        await asyncio.sleep(0.5)  # its pace, over one and a half times `send_timeout`
        await client.exactly(1 << 19)
    stage.see("alive", "yes")


@row(
    "backend_stalls_reading",
    {"client": "FIN @2.0", "writes": "taken", "backend": "a part FIN"},
    # The two timers that are due at the same instant.
    truthful={"client": "Close 1001 proxy_read_timeout FIN @2.0"},
)
@row(
    "backend_stalls_reading_split",
    {"client": "FIN @2.0", "writes": "taken", "backend": "a part FIN"},
    truthful=_TOLD,
    options=SPLIT,
)
async def backend_stalls_reading(stage: Stage) -> None:
    """`proxy_send_timeout`, whatever `proxy_read_timeout` is."""
    client, backend = await stage.tunnel()
    sent = await stage.stall(client, BULK_UP)
    await stage.ends(client=client)
    await stage.probe("writes", client)
    await stage.drains("backend", backend, sent)


@row("backend_stalls_but_sends", {"alive": "yes", "client": "FIN @2.0"}, truthful=_TOLD, options=SPLIT)
async def backend_stalls_but_sends(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.stall(client, BULK_UP)
    stage.mark()
    for _ in range(10):
        await asyncio.sleep(0.4)  # its pace, over twice `proxy_send_timeout`
        await stage.passes("ping", _PONG_DOWN, backend, client)
    stage.see("alive", "yes")
    stage.mark()
    await stage.ends(client=client)


@row(
    "both_stall",
    {"client": "a part FIN", "backend": "cut"},
    gateway={"client": "a part RST"},
    truthful={"client": "a part FIN"},
)
async def both_stall(stage: Stage) -> None:
    """Both are cut. The gateway cuts the client, whose input is unread; nginx lingers."""
    client, backend = await stage.tunnel(receive_buffer=_SMALL)
    down, _ = await asyncio.gather(stage.stall(backend, BULK_DOWN), stage.stall(client, BULK_UP))
    await stage.cut("backend", backend)
    await stage.drains("client", client, down)
