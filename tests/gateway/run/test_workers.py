"""`--workers 2` as real processes: the port served by both, each replaced when it dies, all ended together."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from moorline.gateway.common.web.listen import listen
from moorline.gateway.run.acceptor import Acceptor, WorkerChannel
from moorline.gateway.run.workers import MetricsSockets, Workers
from moorline.gateway.settings import Settings
from tests.gateway.run.test_serve import ask, serving
from tests.support.faulty_upstream import HANDSHAKE, Upstream, accepted, dial, held_handshakes
from tests.support.gateway_process import echoing
from tests.support.process import PATIENCE, Program, children, gone, run_program, started
from tests.support.websocket_frames import close_frame

WORKERS = ("--workers", "2", "--log-format", "json")
GOODBYE = close_frame(1001, "gateway restarting")


async def opened(address: str, stack: contextlib.AsyncExitStack, count: int) -> list[ClientConnection]:
    return [await stack.enter_async_context(connect(address, proxy=None)) for _ in range(count)]


async def served(program: Program, count: int) -> Counter[str]:
    """How many sockets each worker has opened of so many, by its log, which a process may write a moment later."""
    await program.lines('"WebSocket opened', count)
    lines = [line for line in program.err.splitlines() if '"WebSocket opened' in line]
    return Counter(line.partition('"worker": ')[2].partition(",")[0] for line in lines)


async def alive(sockets: Sequence[ClientConnection]) -> list[bool]:
    """Which of them still echo."""
    found = []
    for each in sockets:
        try:
            await each.send("x")
            found.append(await each.recv() == "x")
        except ConnectionClosedError:
            found.append(False)
    return found


def port_of(address: str) -> int:
    return int(address.split(":")[2].partition("/")[0])


async def test_connections_go_to_the_worker_with_the_fewest_and_its_lines_say_which(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS) as (program, address), contextlib.AsyncExitStack() as stack:
        assert len(children(program.pid, "-m moorline gateway")) == 2
        sockets = await opened(address, stack, 8)
        assert await alive(sockets) == [True] * 8
        assert await served(program, 8) == {"1": 4, "2": 4}
        # Every other one leaves, which were all of one worker's; the next go there.
        for each in sockets[::2]:
            await each.close()
        assert await alive(await opened(address, stack, 4)) == [True] * 4
        assert sorted((await served(program, 12)).values()) == [4, 8]


async def test_a_killed_worker_is_replaced_while_the_others_sockets_stay(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS) as (program, address), contextlib.AsyncExitStack() as stack:
        sockets = await opened(address, stack, 4)
        # A process that is killed loses what it has logged in the last 50 ms.
        await program.lines('"WebSocket opened', 4)
        os.kill(children(program.pid)[0], signal.SIGKILL)
        await program.line("worker", "ended with status -9; starting it again in 0.25s")
        assert sorted(await alive(sockets)) == [False, False, True, True]
        await program.line("worker", "is up again")
        assert await alive(await opened(address, stack, 2)) == [True] * 2
        assert sorted((await served(program, 6)).values()) == [2, 4]


async def test_what_a_hung_worker_had_not_taken_is_served_by_another_when_it_dies(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS) as (program, address), aiohttp.ClientSession() as client:
        hung = children(program.pid)[0]
        os.kill(hung, signal.SIGSTOP)
        asked = [asyncio.create_task(client.get(f"http://127.0.0.1:{port_of(address)}/healthz")) for _ in range(4)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        os.kill(hung, signal.SIGKILL)
        assert [response.status for response in await asyncio.gather(*asked)] == [200] * 4


async def test_a_worker_that_is_told_to_end_tells_its_sockets_and_gets_no_new_ones(tmp_path: Path) -> None:
    options = (*WORKERS, "--drain", "5m", "--close-timeout", "5m")
    async with echoing(tmp_path, *options) as (program, address), contextlib.AsyncExitStack() as stack:
        raw = [await stack.enter_async_context(dial(port_of(address))) for _ in range(2)]
        for client in raw:
            await client.send(HANDSHAKE)
            await client.head()
        (first,) = children(program.pid)[:1]
        os.kill(first, signal.SIGTERM)
        # The one that is told does not go, so that the worker lives on; the other is not told.
        told = [asyncio.create_task(client.exactly(len(GOODBYE))) for client in raw]
        done, others = await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [GOODBYE]
        for task in others:
            task.cancel()
        assert await alive(await opened(address, stack, 4)) == [True] * 4
        assert children(program.pid)[0] == first


async def test_the_inspector_shows_the_sockets_of_all_workers_whichever_answers(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS) as (program, address), contextlib.AsyncExitStack() as stack:
        sockets = await opened(address, stack, 4)
        assert await alive(sockets) == [True] * 4
        assert await served(program, 4) == {"1": 2, "2": 2}
        ids = set(ids_of(sockets))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(address)}") as client:
            for _ in WORKERS[:2]:
                # Of two workers with equally many connections they have turns.
                event = await first_event(client)
                assert ({row["id"] for row in event["open"]}, event["silent"]) == (ids, 0)
                assert [row["connections"] for row in event["upstreams"]] == [4]
            sockets[0].transport.abort()
            for _ in WORKERS[:2]:
                async with client.get(f"/-/ended/{ids_of(sockets)[0]}") as response:
                    assert (await response.json())["who"] == "client"


async def test_a_worker_that_hangs_is_said_to_be_missing(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS) as (program, address), contextlib.AsyncExitStack() as stack:
        await opened(address, stack, 2)
        hung = children(program.pid)[0]
        os.kill(hung, signal.SIGSTOP)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(address)}") as client:
                asked = [asyncio.create_task(first_event(client)) for _ in range(2)]
                done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                (event,) = [task.result() for task in done]
                assert (len(event["open"]), event["silent"]) == (1, 1)
                for task in others:
                    task.cancel()
        finally:
            os.kill(hung, signal.SIGCONT)


async def test_a_fault_is_armed_and_ended_in_all_workers(tmp_path: Path) -> None:
    async with echoing(tmp_path, *WORKERS, "--faults") as (_, address), contextlib.AsyncExitStack() as stack:
        sockets = await opened(address, stack, 4)
        assert await alive(sockets) == [True] * 4
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(address)}") as client:
            async with client.post("/-/faults", json={"fault": "reset"}) as response:
                assert response.status == 201
            for each in sockets:
                await each.wait_closed()
            async with client.get("/-/faults") as response:
                assert [each["met"] for each in (await response.json())["armed"]] == [4]
            assert (await client.delete("/-/faults")).status == 204
        assert await alive(await opened(address, stack, 4)) == [True] * 4


def ids_of(sockets: Sequence[ClientConnection]) -> list[str]:
    return [each.response.headers["X-Request-ID"] for each in sockets if each.response is not None]


async def first_event(client: aiohttp.ClientSession) -> dict[str, Any]:
    """What the inspector shows at first."""
    async with client.get("/-/moorline/events", headers={"Connection": "close"}) as response:
        event: dict[str, Any] = json.loads((await response.content.readline()).removeprefix(b"data: "))
        return event


async def test_handshakes_under_way_at_a_worker_that_is_told_to_end_are_accepted(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        address = f"http://127.0.0.1:{upstream.port}"
        options = ("--port", "0", "--host", "127.0.0.1", "--upstream", address, "--drain", "2s", *WORKERS)
        async with (
            started("moorline", "gateway", *options, cwd=tmp_path) as program,
            held_handshakes(port_of(await program.page() + "/"), upstream, 6) as held,
        ):
            os.kill(children(program.pid)[0], signal.SIGTERM)
            await program.line("draining for at most")
            # The worker gives them a second.
            assert await accepted(held)


async def test_handshakes_that_come_while_all_workers_end_are_accepted_by_the_next(tmp_path: Path) -> None:
    options = (*WORKERS, "--drain", "3s", "--close-timeout", "5m")
    async with echoing(tmp_path, *options) as (program, address), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dial(port_of(address))) for _ in range(4)]
        for client in clients:
            await client.send(HANDSHAKE)
            await client.head()
        signal_each(children(program.pid), signal.SIGTERM)
        for client in clients:
            # They do not go, so that the workers use all of their time.
            assert await client.exactly(len(GOODBYE)) == GOODBYE
        assert await alive(await opened(address, stack, 4)) == [True] * 4


@pytest.mark.parametrize(("number", "is_for_all"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
async def test_all_drain_together_and_say_goodbye(number: int, tmp_path: Path, *, is_for_all: bool) -> None:
    async with (
        echoing(tmp_path, *WORKERS, "--drain", "5m") as (program, address),
        contextlib.AsyncExitStack() as stack,
    ):
        sockets, workers = await opened(address, stack, 6), children(program.pid)
        program.send(number)
        signal_each(workers if is_for_all else (), number, number)
        for each in sockets:
            await each.wait_closed()
            assert (each.close_code, each.close_reason) == (1001, "gateway restarting")
        async with asyncio.timeout(15):
            assert await program.ended() == 0
        for worker in workers:
            await gone(worker)
        assert "Traceback" not in program.err
        assert "at once" not in program.err


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    options = (*WORKERS, "--drain", "5m", "--close-timeout", "5m")
    async with echoing(tmp_path, *options) as (program, address), dial(port_of(address)) as client:
        workers = children(program.pid)
        await client.send(HANDSHAKE)
        await client.head()
        program.send(signal.SIGTERM)
        # It is told, and neither answers nor goes.
        assert await client.exactly(len(GOODBYE)) == GOODBYE
        assert await program.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        for worker in workers:
            await gone(worker)


async def test_a_killed_parent_leaves_no_worker_and_a_free_port(tmp_path: Path) -> None:
    async with (
        echoing(tmp_path, *WORKERS, "--drain", "5m") as (program, address),
        contextlib.AsyncExitStack() as stack,
    ):
        sockets, workers = await opened(address, stack, 2), children(program.pid)
        program.send(signal.SIGKILL)
        for worker in workers:
            await gone(worker)
        for each in sockets:
            await each.wait_closed()
        for sock in listen("127.0.0.1", port_of(address)):
            sock.close()


async def test_max_connections_is_the_sum_over_the_workers(tmp_path: Path) -> None:
    async with (
        echoing(tmp_path, *WORKERS, "--max-connections", "4") as (_, address),
        contextlib.AsyncExitStack() as stack,
    ):
        assert await alive(await opened(address, stack, 4)) == [True] * 4
        with pytest.raises(InvalidStatus, match="503"):
            await opened(address, stack, 1)


async def test_each_worker_has_a_metrics_port_of_its_own(tmp_path: Path) -> None:
    first = two_free_ports()
    async with (
        echoing(tmp_path, *WORKERS, "--metrics-port", str(first)) as (_, address),
        contextlib.AsyncExitStack() as stack,
        aiohttp.ClientSession() as client,
    ):
        await alive(await opened(address, stack, 6))
        for port in (first, first + 1):
            async with client.get(f"http://127.0.0.1:{port}/metrics") as response:
                assert "moorline_sockets_open 3.0" in await response.text()


def two_free_ports() -> int:
    """The first of two neighbours that are free now, below those that the system gives to connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + 1)),
        ):
            return port


async def test_a_worker_that_refuses_its_options_ends_all_with_its_line(tmp_path: Path) -> None:
    first = two_free_ports()
    (holder,) = listen("127.0.0.1", first + 1)
    with holder:
        options = ("--port", "0", *WORKERS, "--log-level", "error", "--metrics-port", str(first))
        status, out, err = await run_program("moorline", "gateway", *options, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"moorline: metrics_port: {first + 1} is in use on 127.0.0.1; ")
    assert err.count("\n") == 1


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    (holder,) = listen("127.0.0.1", 0)
    port = holder.getsockname()[1]
    with holder:
        status, out, err = await run_program("moorline", "gateway", "--port", str(port), *WORKERS, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"moorline: port: {port} is in use on localhost; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--workers", "0"], "moorline: workers: 0 is too little; write a larger one\n"),
        (["--workers", "x"], 'moorline: --workers: "x" is not a whole number\n'),
        (["--workers", "9", "--metrics-port", "65530"], "moorline: metrics_port: 65530 leaves no port for 9 workers\n"),
        ([*WORKERS, "--frontend", "nowhere"], "moorline: frontend: "),
    ],
    ids=["0", "x", "ports", "frontend"],
)
async def test_a_value_that_cannot_work_is_one_line(options: list[str], line: str, tmp_path: Path) -> None:
    status, out, err = await run_program("moorline", "gateway", "--port", "0", *options, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


async def test_serve_keeps_one_backend_behind_all_workers(tmp_path: Path) -> None:
    async with serving(tmp_path, *WORKERS) as (program, address):
        processes = children(program.pid)
        assert len(processes) == 3
        assert len(children(program.pid, "-m moorline backend")) == 1
        signal_each(processes, signal.SIGHUP, signal.SIGUSR2)
        for _ in range(2):
            assert await ask(address)
        assert await served(program, 2) == {"1": 1, "2": 1}
        assert program.out.count("page") == 1
        assert children(program.pid) == processes, "the parent alone reloads"
        assert await program.stop() == 0
        for process in processes:
            await gone(process)
    assert "Traceback" not in program.err


def signal_each(processes: Iterable[int], *numbers: int) -> None:
    """As a service manager signals all processes of a service."""
    for process, number in itertools.product(processes, numbers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


async def test_a_worker_that_was_replaced_and_says_nothing_is_waited_for_as_long_as_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moorline.gateway.run.workers._REPLACED_SECONDS", 0.01)
    monkeypatch.setattr("moorline.gateway.run.workers._FINISH_SECONDS", 60.0)
    workers, channel = Workers(Settings(), {}, Acceptor([]), MetricsSockets()), WorkerChannel()
    workers._channels[1] = channel
    workers._left.add(1)
    channel.open()
    async with asyncio.timeout(PATIENCE):
        await workers.finish_requests()
    channel.close()
