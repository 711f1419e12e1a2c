"""Rows of the idle clock: one for the tunnel, set anew by any byte of either side."""

import asyncio

from tests.differential.frames import BULK_UP, PING, PONG, TEXT, frame
from tests.differential.stage import Stage
from tests.differential.table import SPLIT, table
from tests.support.faulty_upstream import SWITCH, Peer

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_SILENT = {"client": "FIN @2.0", "backend": "FIN @2.0"}
# Both sides that can still be told are.
_TOLD = {"client": "Close 1001 proxy_read_timeout FIN @2.0", "backend": "masked Close 1001 proxy_read_timeout FIN @2.0"}
# The pace of a peer that keeps a tunnel alive, for one and a half times the timeout.
_PACE, _TIMES = 0.4, 8


@row("idle", _SILENT, truthful=_TOLD)
@row(
    "idle_split",
    {"client": "FIN @6.0", "backend": "FIN @6.0"},
    truthful={name: told.replace("2.0", "6.0") for name, told in _TOLD.items()},
    options=SPLIT,
)
async def idle(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.ends(client=client, backend=backend)


async def _talk(stage: Stage, sender: Peer, receiver: Peer, pieces: list[bytes]) -> None:
    for piece in pieces:
        await asyncio.sleep(_PACE)
        await stage.passes("passes", piece, sender, receiver)
    stage.see("alive", "yes")
    stage.mark()


_ALIVE = {"alive": "yes", **_SILENT}


@row("client_only_text", _ALIVE, truthful=_TOLD)
async def client_only_text(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await _talk(stage, client, backend, [frame(TEXT, b"hi", masked=True)] * _TIMES)
    await stage.ends(client=client, backend=backend)


@row("client_ping_only", _ALIVE, truthful=_TOLD)
async def client_ping_only(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await _talk(stage, client, backend, [frame(PING, b"hi", masked=True)] * _TIMES)
    await stage.ends(client=client, backend=backend)


@row("client_pong_only", _ALIVE, truthful=_TOLD)
async def client_pong_only(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await _talk(stage, client, backend, [frame(PONG, b"", masked=True)] * _TIMES)
    await stage.ends(client=client, backend=backend)


@row("backend_only_text", _ALIVE, truthful=_TOLD)
async def backend_only_text(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await _talk(stage, backend, client, [frame(TEXT, b"hi", masked=False)] * _TIMES)
    await stage.ends(client=client, backend=backend)


@row("backend_ping_only", _ALIVE, truthful=_TOLD)
async def backend_ping_only(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await _talk(stage, backend, client, [frame(PING, b"hi", masked=False)] * _TIMES)
    await stage.ends(client=client, backend=backend)


@row("partial_frame_dribble", _ALIVE, truthful={**_TOLD, "backend": "FIN @2.0"})
async def partial_frame_dribble(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    beginning = frame(TEXT, b"never whole", masked=True)[:_TIMES]
    await _talk(stage, client, backend, [bytes([byte]) for byte in beginning])
    await stage.ends(client=client, backend=backend)


@row("dense_then_idle", _SILENT, truthful=_TOLD)
async def dense_then_idle(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    for _ in range(50):
        await stage.passes("passes", frame(TEXT, b"hi", masked=False), backend, client)
        await asyncio.sleep(0.02)  # dense
    stage.mark()
    await stage.ends(client=client, backend=backend)


@row("hs_late_101", {"switch": "101", **_SILENT}, truthful=_TOLD)
async def late_101(stage: Stage) -> None:
    """The clock starts anew with the switch."""
    client, backend = await stage.ask()
    await asyncio.sleep(1.5)
    await backend.send(SWITCH)
    await stage.answer(client, "switch")
    stage.mark()
    await stage.ends(client=client, backend=backend)


@row(
    "lingering",
    {"client": "FIN @2.0", "after 4 s": "taken", "after 6 s more": "reset"},
    truthful={"client": "Close 1013 proxy_send_timeout FIN @2.0"},
    options=SPLIT,
)
async def lingering(stage: Stage) -> None:
    """A client whose input is unread at the end may go on until it was silent for five seconds."""
    client, _ = await stage.tunnel()
    await stage.stall(client, BULK_UP)
    sending = stage.flood(client, BULK_UP)
    await stage.ends(client=client)
    sending.cancel()
    for name, seconds in (("after 4 s", 4.0), ("after 6 s more", 6.0)):
        await asyncio.sleep(seconds)
        await stage.probe(name, client)
