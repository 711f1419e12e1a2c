"""`moorline serve` as real processes: one that is asked for, and the backend that it keeps alive."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from moorline.gateway.common.web.listen import listen
from tests.support.faulty_upstream import HANDSHAKE, Upstream, dial
from tests.support.process import PATIENCE, ROOT, Program, children, gone, processes, run_program, started

ARGUMENTS = ("serve", "--port", "0", "--backend-port", "0")


@asynccontextmanager
async def serving(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[tuple[Program, str]]:
    """A started `moorline serve` and the gateway's address."""
    async with started("moorline", *ARGUMENTS, *arguments, cwd=cwd, env=env) as program:
        await program.line("database")
        yield program, await program.page()


def copy_the_sources(to: Path) -> None:
    """Sources that a test may change; `PYTHONPATH` puts them before those that are installed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / ".package" / "moorline", to / "moorline", ignore=ignored)


def backend_of(program: Program) -> int:
    """The id of the backend's process."""
    (child,) = children(program.pid, "-m moorline backend")
    return child


async def ask(
    address: str, message: str = "Hello", session: str = "s1", headers: Mapping[str, str] | None = None
) -> str:
    """The answer to a message, through the gateway, in protocol version 1."""
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.ws_connect(f"{address}/ws/chat/patient:demo/{session}") as chat,
    ):
        await chat.send_json({"message": message})
        while True:
            frame = json.loads(await chat.receive_str())
            if frame["type"] == "message":
                return str(frame["content"])


ENDLESS = """
import asyncio

async def answer(turn):
    yield "Hello"
    await asyncio.Event().wait()
"""


async def test_a_worker_is_told_what_the_end_of_the_backend_has_left_of_the_drain(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(ENDLESS, encoding="utf-8")
    async with Upstream() as held:
        route = f"/held=http://127.0.0.1:{held.port}"
        options = ("--workers", "2", "--drain", "4s", "--responder", "chat:answer", "--route", route)
        async with serving(tmp_path, *options) as (program, address), aiohttp.ClientSession(address) as http:
            body = {"patient_id": "p", "message": "Hi", "client_msg_id": "c1"}
            async with http.post("/api/chat/s1/messages", json=body) as response:
                assert response.status == 202
            asking = asyncio.create_task(http.get("/held").__aenter__())
            await held.accept()
            # The backend has the whole time for its answer. A worker that knew no better would be killed in its own.
            assert await program.stop() == 0
            assert " cause=GD-response " in program.err
            assert (await asking).status == 503


async def test_one_command_starts_everything_and_says_where(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, address):
        assert str(tmp_path / "moorline.db") in await program.line("database")
        assert "http://127.0.0.1:" in await program.line("backend")
        assert await program.line("model")
        assert await ask(address)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_both_cleanly(number: int, tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, _):
        backend = backend_of(program)
        assert await program.stop(number) == 0
        await gone(backend)
    assert "Traceback" not in program.err
    assert f"serve: {signal.Signals(number).name}: draining for at most 10s" in program.err
    for part in ("serve", "backend"):
        assert f"{part}: ended after" in program.err


async def test_open_sockets_end_within_the_drain(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "--drain", "30s") as (program, address),
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{address}/ws/chat/patient:demo/s1") as socket,
    ):
        async with asyncio.timeout(20):
            program.send(signal.SIGTERM)
            while not socket.closed:
                await socket.receive()
            assert socket.close_code in (1001, 1012)
            assert await program.ended() == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
async def test_the_backend_closes_its_sockets_before_the_gateway_drains(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    async with (
        serving(tmp_path, *options) as (program, address),
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{address}/ws/chat/patient:demo/s1") as socket,
    ):
        async with asyncio.timeout(PATIENCE):
            program.send(signal.SIGTERM)
            while not socket.closed:
                await socket.receive()
            assert socket.close_code == 1012
            assert await program.ended() == 0


async def test_both_drains_together_take_no_longer_than_drain_and_a_second(tmp_path: Path) -> None:
    options = ("--drain", "8s", "--close-timeout", "5m")
    async with serving(tmp_path, *options) as (program, address), dial(int(address.rpartition(":")[2])) as client:
        await client.send(HANDSHAKE)
        await client.head()
        # It does not answer the Close frame, so that each part waits for as long as it may.
        assert await program.stop(signal.SIGTERM) == 0
    line = await program.line("serve: ended after")
    assert float(line.rpartition(" ")[2].removesuffix("s")) < 14


async def test_a_backend_that_dies_is_started_again_and_the_gateway_serves_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, address), aiohttp.ClientSession() as client:
        await ask(address)
        os.kill(backend_of(program), signal.SIGKILL)
        await program.line("the backend ended with status -9; starting it again in 0.25s")
        async with client.get(f"{address}/healthz") as response:
            assert response.status == 200
        await program.line("the backend is up again")
        assert await ask(address)
        async with client.get(f"{address}/api/chat/s1/messages") as response:
            assert len(await response.json()) == 4


async def test_a_message_sent_while_the_backend_restarts_reaches_it_and_no_program_beside(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, address):
        port = int((await program.line("  backend", "http://")).rpartition(":")[2])
        assert binds_beside(port) == []
        os.kill(backend_of(program), signal.SIGKILL)
        await program.line("the backend ended with status -9; starting it again in 0.25s")
        asking = asyncio.create_task(ask(address))
        assert binds_beside(port) == []
        assert await asking
        assert binds_beside(port) == []


def binds_beside(port: int) -> list[str]:
    """The addresses at which another program could take connections to the port of the backend."""
    taken = []
    for host, option in itertools.product(
        ("127.0.0.1", "0.0.0.0", "::"), ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT))
    ):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as attacker:
            for each in option:
                attacker.setsockopt(socket.SOL_SOCKET, each, 1)
            with contextlib.suppress(OSError):
                attacker.bind((host, port))
                attacker.listen()
                taken.append(host)
    return taken


async def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, _):
        backend = backend_of(program)
        program.send(signal.SIGKILL)
        await gone(backend)


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, "--drain", "5m", "--client-body-timeout", "5m") as (program, address):
        backend = backend_of(program)
        port = int(address.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        # An upload that does not go on keeps the drain waiting.
        writer.write(
            b"POST /api/chat/s1/messages HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        await writer.drain()
        async with aiohttp.ClientSession() as client:
            async with client.get(f"{address}/healthz"):
                pass
            program.send(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with client.get(f"{address}/readyz") as response:
                        if response.status == 503:
                            break
        assert await program.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        await gone(backend)
        writer.close()


async def test_reload_starts_the_backend_again_when_its_sources_change(tmp_path: Path) -> None:
    sources, folder = tmp_path / "sources", tmp_path / "folder"
    folder.mkdir()
    copy_the_sources(sources)
    async with serving(folder, "--reload", env={"PYTHONPATH": str(sources)}) as (program, address):
        first = backend_of(program)
        source = sources / "moorline" / "backend" / "settings.py"
        source.write_text(source.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        await program.line("backend/settings.py changed; starting the backend again")
        await program.line("the backend is up again")
        assert backend_of(program) != first
        assert await ask(address)


async def test_a_broken_source_waits_for_the_next_change(tmp_path: Path) -> None:
    sources, folder = tmp_path / "sources", tmp_path / "folder"
    folder.mkdir()
    copy_the_sources(sources)
    async with serving(folder, "--reload", env={"PYTHONPATH": str(sources)}) as (program, _):
        source = sources / "moorline" / "backend" / "settings.py"
        whole = source.read_text(encoding="utf-8")
        source.write_text("this is not Python\n", encoding="utf-8")
        await program.line("the backend ended with status 1 at its start; waiting for the next change")
        source.write_text(whole, encoding="utf-8")
        await program.line("the backend is up again")
        assert program.err.count("Traceback") == 1


async def test_a_start_with_a_broken_source_says_where_the_page_is_and_waits_for_the_next_change(
    tmp_path: Path,
) -> None:
    sources, folder = tmp_path / "sources", tmp_path / "folder"
    folder.mkdir()
    copy_the_sources(sources)
    source = sources / "moorline" / "backend" / "app.py"
    whole = source.read_text(encoding="utf-8")
    source.write_text("this is not Python\n", encoding="utf-8")
    async with started("moorline", *ARGUMENTS, "--reload", cwd=folder, env={"PYTHONPATH": str(sources)}) as program:
        assert (await program.line("page")).endswith("/chat/patient:demo")
        await program.line("waiting for the next change")
        source.write_text(whole, encoding="utf-8")
        await program.line("database")
        assert program.err.count("Traceback") == 1


async def test_a_secret_is_in_no_environment_that_does_not_need_it(tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-1", "PGPASSWORD": "p-1", "MOORLINE_LOG_KEY": "l-1", "ANY_TOKEN": "t-1"}
    async with serving(tmp_path, "--workers", "2", env=env) as (program, _):
        for worker in children(program.pid, "-m moorline gateway"):
            assert environment_of(worker) & env.keys() == set()
        assert environment_of(backend_of(program)) & env.keys() == env.keys() - {"MOORLINE_LOG_KEY"}


def environment_of(pid: int) -> set[str]:
    """The names of a process's variables."""
    text = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8")
    return {variable.partition("=")[0] for variable in text.split("\0")}


async def test_a_backend_port_that_is_taken_and_asked_for_is_one_line(tmp_path: Path) -> None:
    (holder,) = listen("127.0.0.1", 0)
    port = holder.getsockname()[1]
    with holder:
        status, out, err = await run_program(
            "moorline", "serve", "--port", "0", "--backend-port", str(port), cwd=tmp_path
        )
    assert (status, out) == (2, "")
    assert err.startswith(f"moorline: backend_port: {port} is in use on 127.0.0.1; ")


async def test_options_reach_the_backend_unseen_by_the_list_of_processes(tmp_path: Path) -> None:
    (tmp_path / "moorline.toml").write_text(
        '[backend]\nport = 1\nmax_bytes = 10\ndatabase = "sqlite:///chats.db"\n', encoding="utf-8"
    )
    async with serving(tmp_path, "--system-prompt", "a, secret") as (program, address):
        (arguments,) = [line for line in processes("pid=,args=") if line.split()[0] == str(backend_of(program))]
        assert "-m moorline backend" in arguments
        assert "secret" not in arguments
        assert "chats.db" in await program.line("database")
        async with aiohttp.ClientSession() as client:
            body = {"patient_id": "p", "message": "x" * 11, "client_msg_id": "00000000-0000-4000-8000-000000000000"}
            async with client.post(f"{address}/api/chat/s1/messages", json=body) as response:
                assert response.status == 413


async def test_what_both_parts_have_reaches_the_backend_from_the_gateways_table(tmp_path: Path) -> None:
    (tmp_path / "moorline.toml").write_text(
        '[gateway]\nallowed_origins = "http://app.example"\nallowed_hosts = "a.example"\n'
        '[backend]\nallowed_hosts = ["b.example"]\n',
        encoding="utf-8",
    )
    async with serving(tmp_path) as (program, address), aiohttp.ClientSession() as client:
        backend = (await program.line("backend", "http://")).split()[1]
        for host, accepted in (("b.example", 200), ("a.example", 421)):
            async with client.get(f"{backend}/healthz", headers={"Host": host}) as response:
                assert response.status == accepted
        socket = f"{address}/ws/chat/patient:demo/s1"
        async with client.ws_connect(socket, origin="http://app.example"):
            pass


async def test_a_backend_package_in_the_current_folder_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text(
        "raise RuntimeError('the backend of the user')\n", encoding="utf-8"
    )
    # `-P` stands for the installed command, which does not look into the current folder.
    async with serving(tmp_path, env={"PYTHONSAFEPATH": "1"}) as (program, _):
        assert await program.stop() == 0
    assert "the backend of the user" not in program.err
