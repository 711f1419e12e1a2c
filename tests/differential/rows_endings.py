"""Rows of a tunnel that a peer ends: Close frames, FINs, resets, and the bytes that are on their way."""

import asyncio

from tests.differential.frames import BULK_DOWN, BULK_UP, TEXT, close, frame, words
from tests.differential.stage import Stage
from tests.differential.table import table

__all__ = ["ROWS"]

ROWS, row = table(Stage)

_QUESTION = frame(TEXT, b"why?", masked=True)
_ANSWER = frame(TEXT, b"because", masked=False)
_BURST = frame(TEXT, bytes(range(256)) * 4096, masked=False)
_BURST_UP = frame(TEXT, bytes(range(256)) * 4096, masked=True)

_TOLD = "Close 1014 backend connection lost FIN @0.0"
_TOLD_UP = "masked Close 1001 client went away FIN @0.0"
_CUT = {"backend": "masked Close 1001 client went away gone @0.0"}
_GRACE = 0.2  # for what was sent to be in the proxy before the end comes


# By Close frames ------------------------------------------------------------------------------------------------------


@row(
    "close_from_client",
    {
        "asked": "masked Close 4001 of its own",
        "answered": "Close 4001 of its own",
        "client": "FIN @0.0",
        "backend": "FIN @0.0",
    },
)
async def close_from_client(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("asked", close(4001, "of its own", masked=True), client, backend)
    await stage.passes("answered", close(4001, "of its own", masked=False), backend, client)
    stage.mark()
    client.fin()
    await stage.ends(client=client, backend=backend)


@row(
    "close_from_backend",
    {
        "asked": "Close 1012 restart",
        "answered": "masked Close 1012 restart",
        "client": "FIN @0.0",
        "backend": "FIN @0.0",
    },
)
async def close_from_backend(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("asked", close(1012, "restart", masked=False), backend, client)
    await stage.passes("answered", close(1012, "restart", masked=True), client, backend)
    stage.mark()
    backend.fin()
    await stage.ends(client=client, backend=backend)


@row("close_frame_and_fin_at_once", {"client": "Close 1001 FIN @0.0", "backend": "FIN @0.0"})
async def close_frame_and_fin_at_once(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await backend.send(close(1001, masked=False))
    backend.fin()
    await stage.ends(client=client, backend=backend)


@row("close_frames_tcp_open", {"client": "FIN @2.0", "backend": "FIN @2.0"})
async def close_frames_tcp_open(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("asked", close(1000, masked=True), client, backend)
    await stage.passes("answered", close(1000, masked=False), backend, client)
    stage.mark()
    await stage.ends(client=client, backend=backend)


@row(
    "close_frame_no_answer",
    {"client": "FIN @2.0", "backend": "FIN @2.0"},
    truthful={"client": "Close 1001 proxy_read_timeout FIN @2.0"},
)
async def close_frame_no_answer(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await stage.passes("asked", close(1000, masked=True), client, backend)
    stage.mark()
    await stage.ends(client=client, backend=backend)


# By FIN ---------------------------------------------------------------------------------------------------------------


@row(
    "backend_fin",
    {"client": f"{words(_ANSWER)} FIN @0.0", "backend": "FIN @0.0"},
    truthful={"client": f"{words(_ANSWER)} {_TOLD}"},
)
async def backend_fin(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await backend.send(_ANSWER)
    backend.fin()
    await stage.ends(client=client, backend=backend)


@row(
    "client_fin",
    {"client": "FIN @0.0", "backend": f"{words(_QUESTION)} FIN @0.0"},
    truthful={"backend": f"{words(_QUESTION)} {_TOLD_UP}"},
)
async def client_fin(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await client.send(_QUESTION)
    client.fin()
    await stage.ends(client=client, backend=backend)


@row(
    "backend_fin_after_burst",
    {"client": f"{words(_BURST)} FIN @0.0"},
    truthful={"client": f"{words(_BURST)} {_TOLD}"},
)
async def backend_fin_after_burst(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    ending = asyncio.ensure_future(stage.ends(client=client))
    await backend.send(_BURST)
    backend.close()
    await ending


@row(
    "client_fin_after_burst",
    {"backend": f"{words(_BURST_UP)} FIN @0.0"},
    truthful={"backend": f"{words(_BURST_UP)} {_TOLD_UP}"},
)
async def client_fin_after_burst(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    ending = asyncio.ensure_future(stage.ends(backend=backend))
    await client.send(_BURST_UP)
    client.close()
    await ending


@row(
    "client_half_close",
    {"asked": words(_QUESTION), "client": "FIN @0.0", "backend": "FIN @0.0"},
    truthful={"backend": _TOLD_UP},
)
async def client_half_close(stage: Stage) -> None:
    """It asks, ends its half and waits for the answer, which comes too late."""
    client, backend = await stage.tunnel()
    await client.send(_QUESTION)
    client.fin()
    stage.see("asked", words(await backend.exactly(len(_QUESTION))))
    await stage.ends(client=client, backend=backend)


@row(
    "backend_half_close",
    {"asked": words(_ANSWER), "client": "FIN @0.0", "backend": "FIN @0.0"},
    truthful={"client": _TOLD},
)
async def backend_half_close(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await backend.send(_ANSWER)
    backend.fin()
    stage.see("asked", words(await client.exactly(len(_ANSWER))))
    await stage.ends(client=client, backend=backend)


@row(
    "backend_fin_while_client_sends",
    {"client": "gone @0.0"},
    truthful={"client": "Close 1014 backend connection lost gone @0.0"},
)
async def backend_fin_while_client_sends(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    stage.flood(client, BULK_UP)
    await backend.exactly(1 << 20)
    stage.mark()
    backend.fin()
    await stage.gone("client", client)


# By a reset -----------------------------------------------------------------------------------------------------------


@row(
    "backend_rst",
    {"client": f"{words(_ANSWER)} FIN @0.0"},
    truthful={"client": f"{words(_ANSWER)} {_TOLD}"},
)
async def backend_rst(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await backend.send(_ANSWER)
    await asyncio.sleep(_GRACE)
    stage.mark()
    backend.reset()
    await stage.ends(client=client)


@row("backend_rst_mid_frame", {"client": f"{words(_ANSWER[:5])} FIN @0.0"})
async def backend_rst_mid_frame(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await backend.send(_ANSWER[:5])
    await asyncio.sleep(_GRACE)
    stage.mark()
    backend.reset()
    await stage.ends(client=client)


@row(
    "client_rst",
    {"backend": f"{words(_QUESTION)} FIN @0.0"},
    truthful={"backend": f"{words(_QUESTION)} {_TOLD_UP}"},
)
async def client_rst(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    await client.send(_QUESTION)
    await asyncio.sleep(_GRACE)
    stage.mark()
    client.reset()
    await stage.ends(backend=backend)


@row("client_rst_while_backend_sends", {"backend": "gone @0.0"}, truthful=_CUT)
async def client_rst_while_backend_sends(stage: Stage) -> None:
    client, backend = await stage.tunnel()
    stage.flood(backend, BULK_DOWN)
    await client.exactly(1 << 20)
    stage.mark()
    client.reset()
    await stage.gone("backend", backend)


@row("client_fin_with_backlog_to_client", {"backend": "gone @0.0", "client": "a part FIN"}, truthful=_CUT)
async def client_fin_with_backlog_to_client(stage: Stage) -> None:
    """What waits for a client that ends is lost but for what the kernel has."""
    client, backend = await stage.tunnel(receive_buffer=1 << 16)
    sent = await stage.stall(backend, BULK_DOWN)
    stage.mark()
    client.fin()
    await stage.gone("backend", backend)
    await stage.drains("client", client, sent)
