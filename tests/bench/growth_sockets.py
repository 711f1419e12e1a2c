"""What chat sockets cost as their number grows, through the gateway and the backend; and the clients of one session.

A tunnel takes two files of a gateway's process and a socket one of a backend's. Where the limit on open files leaves
one process no room for the most that there are to be, all sizes are measured with as many as are needed: workers of
the gateway, and backends on one PostgreSQL.

Handshakes are measured in turn with those of the same programs with few sockets. While thousands of sockets open, the
cores are full and each piece of work takes up to twice the CPU that it takes on idle ones, heartbeats as well: by what
was left of that time when the heartbeats of idle sockets were taken off, a handshake seemed to cost a quarter more with
20,000 sockets.
"""

import asyncio
import contextlib
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import psycopg

from tests.bench.chat_servers import moorline
from tests.bench.crowd import Crowd, crowd
from tests.bench.peers.base import HTTP, backends_for, connections, running, workers_for
from tests.bench.peers.gateway import gateway
from tests.bench.processes import Child, child
from tests.bench.usage import cpu_seconds, memory
from tests.support.postgres import PostgresServer, postgres

__all__ = ["FIRST", "clients", "sockets"]

Rows = dict[str, list[float]]
# Of one command to the process that opens them, which has a time limit.
_BATCH = 500
#: The first ones also import and compile.
FIRST = 20
# Sockets of one process that opens them: more would wait for it, not for the servers.
_OF_A_PROCESS = 7000
# For what is behind an open socket: lines of a log, timers, freed memory.
_SETTLE = 2.0
# Of the handshakes that are measured.
_TURNS = 10
_OF_A_TURN = 50
_PARTS = ("gateway", "backend")
_LIMITS = ("--max-connections=30000", "--max-connections-per-address=off")
_KIB, _MIB = 1 << 10, 1 << 20
_MILLI, _MICRO = 1e3, 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class _Stack:
    """Gateway, backends and the database server, if there is one."""

    port: int
    """The gateway's."""
    parts: Mapping[str, Sequence[int]]
    """The processes of each, with their children."""
    server: PostgresServer | None

    def cpu(self) -> dict[str, float]:
        """Seconds of each part up to now."""
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self.parts.items()}

    def memory(self) -> dict[str, int]:
        """Bytes of each part."""
        return {name: sum(map(memory, pids)) for name, pids in self.parts.items()}

    def transactions(self) -> int:
        """Of the database server, this one's included; 0 without one."""
        if self.server is None:
            return 0
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        found: int = row[0]
        return found


@contextlib.asynccontextmanager
async def _stack(folder: Path, provider_port: int, *, sockets: int) -> AsyncIterator[_Stack]:
    """With room for so many."""
    os.makedirs(folder, exist_ok=True)
    workers, backends = workers_for(sockets), backends_for(sockets)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres(folder)) if backends > 1 else None
        database = folder / "chat.db" if server is None else server.url
        servers = [
            await stack.enter_async_context(moorline(folder / f"backend-{number}", database, provider_port, *_LIMITS))
            for number in range(backends)
        ]
        peer = gateway(
            probe=HTTP,
            upstream=[f"http://127.0.0.1:{each.port}" for each in servers],
            workers=str(workers),
            max_connections=str(2 * sockets),
            max_connections_per_address="off",
        )
        front = await stack.enter_async_context(running(peer, folder / "gateway", servers[0].port))
        parts = {"gateway": [front.pid], "backend": [each.pid for each in servers]}
        if max(workers, backends) > 1:
            print(f"processes: {workers} of the gateway, {backends} of the backend", file=sys.stderr)
        if server is not None:
            parts["database"] = [server.pid]
        yield _Stack(front.port, parts, server)


async def sockets(folder: Path, *, sizes: Sequence[int], seconds: float) -> Rows:
    """By the idle chat sockets that are open: memory and CPU of both parts, and the CPU of a handshake."""
    rows: Rows = {}
    async with (
        child("tests.bench.provider") as provider,
        child("tests.bench.chatters") as callers,
        crowd(max(sizes), each=min(_OF_A_PROCESS, connections())) as people,
        _stack(folder / "many", provider.port, sockets=max(sizes)) as stack,
        _stack(folder / "few", provider.port, sockets=max(sizes)) as few,
    ):
        await _open(people, stack.port, 0, FIRST)
        await callers.ask("open", port=few.port, sessions=[f"first-{number}" for number in range(FIRST)], hello=True)
        await callers.ask("close")
        await asyncio.sleep(_SETTLE)
        bases, there = stack.memory(), FIRST
        (alone, _), (few_idle, _) = await asyncio.gather(_idle(stack, seconds), _idle(few, seconds))
        for size in sizes:
            began = time.monotonic()
            await _open(people, stack.port, there, size)
            elapsed, opened, there = time.monotonic() - began, size - there, size
            await asyncio.sleep(_SETTLE)
            idle, transactions = await _idle(stack, seconds)
            grown = _since(bases, stack.memory())
            handshakes = await _handshakes(callers, (stack, idle), (few, few_idle))
            for name in _PARTS:
                many_cost, few_cost = handshakes[name]
                _note(rows, f"{name}: memory (MiB)", grown[name] / _MIB)
                _note(rows, f"{name}: memory of a socket (KiB)", grown[name] / (size - FIRST) / _KIB)
                _note(rows, f"{name}: CPU of a handshake (us)", many_cost * _MICRO)
                _note(rows, f"{name}: the same, x one without other sockets", many_cost / few_cost)
                _note(rows, f"{name}: CPU while all are idle (% of a core)", idle[name] * 100)
                _note(
                    rows,
                    f"{name}: the same of a socket (us a second)",
                    (idle[name] - alone[name]) / (size - FIRST) * _MICRO,
                )
            if stack.server is not None:
                _note(rows, "database: CPU while all are idle (% of a core)", idle["database"] * 100)
                _note(rows, "database: transactions a second meanwhile", transactions)
            print(f"{size} sockets, the last {opened} opened within {elapsed:.0f} s", file=sys.stderr)
    return dict(sorted(rows.items(), key=lambda row: row[0].partition(":")[0], reverse=True))


async def clients(folder: Path, *, sizes: Sequence[int], seconds: float) -> Rows:
    """By the clients of one session, in which an answer is written: the CPU of a token that reaches all of them."""
    rows: Rows = {}
    async with (
        child("tests.bench.provider") as provider,
        child("tests.bench.chatters") as chatters,
        _stack(folder, provider.port, sockets=max(sizes)) as stack,
    ):
        for size in sizes:
            for begun in range(0, size, _BATCH):
                names = [f"of-{size}"] * min(_BATCH, size - begun)
                await chatters.ask("open", port=stack.port, sessions=names, hello=True)
            await chatters.ask("ask_first")
            await asyncio.sleep(_SETTLE)
            before = stack.cpu()
            tokens, median, p99 = await chatters.ask("listen", seconds=seconds)
            for name, took in _since(before, stack.cpu()).items():
                _note(rows, f"{name}: CPU of a token at one client (us)", took / tokens * _MICRO)
            _note(rows, "a token on its way, median (ms)", median * _MILLI)
            _note(rows, "a token on its way, 99th percentile (ms)", p99 * _MILLI)
            await provider.ask("finish")
            await chatters.ask("answered")
            await chatters.ask("close")
    return rows


async def _idle(stack: _Stack, seconds: float) -> tuple[dict[str, float], float]:
    """The share of a core that each part takes while nothing happens, and the database's transactions in a second."""
    transactions, before = stack.transactions(), stack.cpu()
    await asyncio.sleep(seconds)
    took = _since(before, stack.cpu())
    return {name: each / seconds for name, each in took.items()}, (stack.transactions() - transactions) / seconds


async def _handshakes(callers: Child, *stacks: tuple[_Stack, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """CPU seconds of a handshake in each part of two stacks, whose shares of a core are known while they are idle."""
    found: list[list[dict[str, float]]] = [[] for _ in stacks]
    for turn in range(_TURNS):
        for (stack, idle), turns in zip(stacks, found, strict=True):
            names = [f"turn-{turn}-{number}" for number in range(_OF_A_TURN)]
            began, before = time.monotonic(), stack.cpu()
            await callers.ask("open", port=stack.port, sessions=names, hello=True)
            took, elapsed = _since(before, stack.cpu()), time.monotonic() - began
            await callers.ask("close")
            turns.append({name: (took[name] - elapsed * idle[name]) / _OF_A_TURN for name in _PARTS})
    many, few = found
    return {
        name: (statistics.median(turn[name] for turn in many), statistics.median(turn[name] for turn in few))
        for name in _PARTS
    }


async def _open(people: Crowd, port: int, there: int, size: int) -> None:
    await people.open(port, [f"idle-{number}" for number in range(there, size)])


def _since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def _note(rows: Rows, name: str, value: float) -> None:
    rows.setdefault(name, []).append(value)
