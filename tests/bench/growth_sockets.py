"""What chat sockets cost as their number grows, through the gateway and the backend; and the clients of one session."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.bench.chat_servers import ChatServer, moorline
from tests.bench.peers.base import HTTP, Running, running
from tests.bench.peers.gateway import gateway
from tests.bench.processes import Child, child
from tests.bench.usage import cpu_seconds, memory

__all__ = ["clients", "sockets"]

Rows = dict[str, list[float]]
# Of one command to the process that opens them, which has a time limit.
_BATCH = 500
# For what is behind an open socket: lines of a log, timers, freed memory.
_SETTLE = 2.0
_KIB, _MIB = 1 << 10, 1 << 20
_MILLI, _MICRO = 1e3, 1e6


@contextlib.asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[tuple[Running, ChatServer, Child, Child]]:
    """The gateway and the backend behind it, the clients and the provider."""
    os.makedirs(folder, exist_ok=True)
    limits = ("--max-connections=30000", "--max-connections-per-address=off")
    async with (
        child("tests.bench.provider") as provider,
        child("tests.bench.chatters") as chatters,
        moorline(folder / "backend", folder / "chat.db", provider.port, *limits) as backend,
        running(gateway(probe=HTTP, max_connections_per_address="off"), folder / "gateway", backend.port) as front,
    ):
        yield front, backend, chatters, provider


async def sockets(folder: Path, *, sizes: Sequence[int], seconds: float) -> Rows:
    """By the idle chat sockets that are open: memory and CPU of both processes, and the CPU of a handshake."""
    rows: Rows = {}
    async with _stack(folder) as (front, backend, chatters, _):
        parts = {"gateway": front.pid, "backend": backend.pid}
        # The first ones also import and compile.
        await _open(chatters, front.port, 0, 20)
        await asyncio.sleep(_SETTLE)
        bases = {name: memory(pid) for name, pid in parts.items()}
        there = 20
        idle = dict.fromkeys(parts, 0.0)
        for size in sizes:
            began, before = time.monotonic(), {name: cpu_seconds(pid) for name, pid in parts.items()}
            await _open(chatters, front.port, there, size)
            elapsed, opened, there = time.monotonic() - began, size - there, size
            took = {name: cpu_seconds(pid) - before[name] for name, pid in parts.items()}
            await asyncio.sleep(_SETTLE)
            before = {name: cpu_seconds(pid) for name, pid in parts.items()}
            await asyncio.sleep(seconds)
            for name, pid in parts.items():
                was_idle, idle[name] = idle[name], (cpu_seconds(pid) - before[name]) / seconds
                # While they were opened the ones that were there had their heartbeats.
                handshakes = took[name] - elapsed * (was_idle + idle[name]) / 2
                grown = memory(pid) - bases[name]
                _note(rows, f"{name}: memory (MiB)", grown / _MIB)
                _note(rows, f"{name}: memory of a socket (KiB)", grown / size / _KIB)
                _note(rows, f"{name}: CPU of a handshake (us)", handshakes / opened * _MICRO)
                _note(rows, f"{name}: CPU while all are idle (% of a core)", idle[name] * 100)
    return dict(sorted(rows.items(), reverse=True))


async def clients(folder: Path, *, sizes: Sequence[int], seconds: float) -> Rows:
    """By the clients of one session, in which an answer is written: the CPU of a token that reaches all of them."""
    rows: Rows = {}
    async with _stack(folder) as (front, backend, chatters, provider):
        for size in sizes:
            for begun in range(0, size, _BATCH):
                names = [f"of-{size}"] * min(_BATCH, size - begun)
                await chatters.ask("open", port=front.port, sessions=names, hello=True)
            await chatters.ask("ask_first")
            await asyncio.sleep(_SETTLE)
            parts = {"gateway": front.pid, "backend": backend.pid}
            before = {name: cpu_seconds(pid) for name, pid in parts.items()}
            tokens, median, p99 = await chatters.ask("listen", seconds=seconds)
            for name, pid in parts.items():
                _note(
                    rows,
                    f"{name}: CPU of a token at one client (us)",
                    (cpu_seconds(pid) - before[name]) / tokens * _MICRO,
                )
            _note(rows, "a token on its way, median (ms)", median * _MILLI)
            _note(rows, "a token on its way, 99th percentile (ms)", p99 * _MILLI)
            await provider.ask("finish")
            await chatters.ask("answered")
            await chatters.ask("close")
    return rows


async def _open(chatters: Child, port: int, there: int, size: int) -> None:
    for begun in range(there, size, _BATCH):
        names = [f"idle-{number}" for number in range(begun, min(begun + _BATCH, size))]
        await chatters.ask("open", port=port, sessions=names, hello=True)


def _note(rows: Rows, name: str, value: float) -> None:
    rows.setdefault(name, []).append(value)
