"""`--backend-command` and `--frontend-command` as real processes, beside `moorline serve`."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from moorline.gateway.run.command import UserCommand, listens
from moorline.gateway.run.user_commands import free_port
from tests.support.eventlogs import until
from tests.support.process import Program, children, gone, processes, refused, started

# A server that starts a process of its own, as npm does; what it is told in the query of a request, it does.
SERVER = """
import http.server, os, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "crash" in self.path:
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{sys.argv[1]} {self.path}".encode())

    def log_message(self, *args):
        pass

helper = subprocess.Popen([sys.executable, "-c", "import signal; print('helper', flush=True); signal.pause()"])
host, port = "127.0.0.1", int(os.environ["PORT"] if len(sys.argv) < 3 else sys.argv[2])
server = http.server.ThreadingHTTPServer((host, port), Handler)
print(f"helper is {helper.pid}")
print(f"Server \\x1b[32mrunning\\x1b[39m at http://127.0.0.1:\\x1b[1m{server.server_port}\\x1b[22m/")
server.serve_forever()
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    """The command that runs it, without its arguments."""
    (tmp_path / "server.py").write_text(SERVER)
    return f"{sys.executable} server.py"


@contextlib.asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[tuple[Program, str]]:
    """`moorline serve` with a backend of the test's, and the gateway's address."""
    async with started("moorline", "serve", "--port", "0", "--host", "127.0.0.1", *options, cwd=folder) as program:
        page = (await program.line("  page")).split()[1]
        yield program, page.removesuffix("/chat/patient:demo").removesuffix("/")


async def get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def helper_of(program: Program, label: str) -> int:
    return int((await program.line(f"{label} | helper is")).split()[-1])


def with_backend(script: str) -> tuple[str, ...]:
    return ("--backend-port", str(free_port()), "--backend-command", f"{script} backend")


async def test_a_backend_of_the_users_serves_at_the_port_that_it_is_given(script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (_, address):
        assert await get(f"{address}/api/x") == "backend /api/x"
    assert not (tmp_path / "moorline.db").exists()


async def test_an_upstream_gives_the_port(script: str, tmp_path: Path) -> None:
    options = ("--upstream", f"http://127.0.0.1:{free_port()}", "--backend-command", f"{script} backend")
    async with serving(tmp_path, *options) as (_, address):
        assert await get(f"{address}/api/x") == "backend /api/x"


async def test_its_lines_are_labelled_and_lose_colours_that_no_terminal_shows(script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (program, _):
        assert (await program.line("Server")).startswith("backend | Server running at http://127.0.0.1:")
        await program.line("backend | helper")


async def test_a_backend_at_another_port_is_told(script: str, tmp_path: Path) -> None:
    there, expected = free_port(), free_port()
    options = ("--backend-port", str(expected), "--backend-command", f"{script} backend {there}")
    async with started("moorline", "serve", "--port", "0", *options, cwd=tmp_path) as program:
        line = await program.line("warning", "backend_command")
        assert line.endswith(
            f"it serves at http://127.0.0.1:{there}, and moorline expects it at http://127.0.0.1:{expected}"
        )


async def test_requests_wait_for_a_backend_that_starts_slowly(script: str, tmp_path: Path) -> None:
    # It starts when a line is written there.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = f"bash -c 'read x < gate; exec {script} backend'"
    opening = asyncio.create_task(asyncio.to_thread(gate.write_text, "\n"))
    options = ("--backend-port", str(free_port()), "--backend-command", command, "--log-level", "info")
    async with serving(tmp_path, *options) as (program, address):
        await opening
        with contextlib.suppress(aiohttp.ClientError):
            await get(f"{address}/api/crash")
        # Before its end the kernel may still accept connections for it, and resets them.
        await program.line("the backend ended with status 3")
        asking = asyncio.create_task(get(f"{address}/api/x"))
        await program.line("requests wait for up to 10s")
        await asyncio.to_thread(gate.write_text, "\n")
        assert await asking == "backend /api/x"


async def test_none_waits_for_a_backend_that_does_not_start(tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path, "--backend-port", str(port), "--backend-command", "exit 3") as (_, address):
        problem = json.loads(await get(f"{address}/api/x"))
    assert problem["status"] == 502
    assert f'http://127.0.0.1:{port}. moorline runs "exit 3"' in problem["detail"]


async def test_a_backend_that_crashes_is_started_again(script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (program, address):
        helper = await helper_of(program, "backend")
        with contextlib.suppress(aiohttp.ClientError):
            await get(f"{address}/api/crash")
        await program.line("the backend ended with status 3; starting it again in 0.25s")
        await gone(helper)
        await program.line("the backend is up again")
        assert await get(f"{address}/api/x") == "backend /api/x"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_all_that_the_command_started(number: int, script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (program, _):
        helper = await helper_of(program, "backend")
        assert await program.stop(number) == 0
        await gone(helper)
    assert "Traceback" not in program.err


async def test_a_killed_serve_leaves_no_orphan(script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (program, _):
        helper = await helper_of(program, "backend")
        (runner,) = children(program.pid, "-m moorline command")
        (server,) = [pid for child in children(runner) for pid in (child, *children(child)) if pid != helper][:1]
        program.send(signal.SIGKILL)
        for pid in (runner, server, helper):
            await gone(pid)


async def test_a_killed_runner_leaves_no_orphan(script: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *with_backend(script)) as (program, _):
        helper = await helper_of(program, "backend")
        (runner,) = children(program.pid, "-m moorline command")
        os.kill(runner, signal.SIGKILL)
        await gone(helper)
        await program.line("the backend is up again")


async def test_a_command_that_does_not_end_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo ready; while true; do read x < /dev/zero; done"
    options = ("--drain", "50ms", "--backend-command", f'bash -c "{stubborn}"')
    async with started("moorline", "serve", "--port", "0", *options, cwd=tmp_path) as program:
        await program.line("backend | ready")
        (runner,) = children(program.pid, "-m moorline command")
        assert await program.stop(signal.SIGTERM) == 0
        await gone(runner)
    assert not [line for line in processes("args=") if stubborn in line]


async def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    async with started(
        "moorline", "serve", "--port", "0", "--backend-command", "no-such-tool run", cwd=tmp_path
    ) as program:
        assert await program.ended() == 2
    assert (
        'moorline: backend_command: "no-such-tool run" ended with status 127: '
        "a program was not found; install it, or correct the command" in program.err
    )


async def test_with_json_each_line_is_an_object(script: str, tmp_path: Path) -> None:
    options = ("--port", "0", "--log-format", "json", *with_backend(script))
    async with started("moorline", "serve", *options, cwd=tmp_path) as program:
        await program.line("Server running")
        await program.line("started")
        await program.stop()
    lines = [json.loads(line) for line in (program.out + program.err).splitlines()]
    (start,) = (line for line in lines if line["message"] == "started")
    assert start["page"].startswith("http://localhost:")
    assert start["backend"].startswith("http://127.0.0.1:")
    assert "moorline.backend" in {line["logger"] for line in lines}


async def test_reload_is_not_for_a_backend_of_the_users(tmp_path: Path) -> None:
    line = await refused("serve", "--reload", "--backend-command", "x", cwd=tmp_path)
    assert line == "reload: it restarts moorline's own backend; give backend_command an option of its own"


# The front end --------------------------------------------------------------------------------------------------------


async def test_the_front_end_is_found_by_its_output(script: str, tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path, "--backend-port", "0", "--frontend-command", f"{script} front {port}") as (
        program,
        address,
    ):
        assert (await program.line("  frontend")).endswith(f"http://127.0.0.1:{port}")
        assert await get(f"{address}/src/main.ts") == "front /src/main.ts"


async def test_a_front_end_that_names_no_address_is_found_by_its_port(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(SERVER.replace("running", "for"))
    command = f"{sys.executable} quiet.py front"
    async with serving(tmp_path, "--backend-port", "0", "--frontend-command", command) as (program, address):
        assert "http://localhost:" in await program.line("  frontend")
        assert await get(f"{address}/") == "front /"


async def test_both_commands_run_beside_each_other(script: str, tmp_path: Path) -> None:
    front = ("--frontend-command", f"{script} front")
    async with serving(tmp_path, *with_backend(script), *front) as (program, address):
        assert await get(f"{address}/api/x") == "backend /api/x"
        assert await get(f"{address}/x") == "front /x"
        helpers = [await helper_of(program, label) for label in ("frontend", "backend")]
        assert await program.stop(signal.SIGINT) == 0
        for helper in helpers:
            await gone(helper)


async def test_a_front_end_that_crashes_costs_its_requests_a_moment(script: str, tmp_path: Path) -> None:
    front = ("--frontend-command", f"{script} front")
    async with serving(tmp_path, *with_backend(script), *front) as (program, address):
        await program.line("  frontend")
        crashing = asyncio.create_task(get(f"{address}/crash"))
        await program.line("the front end ended with status 3; starting it again in 0.25s")
        crashing.cancel()
        assert await get(f"{address}/x") == "front /x"


async def test_a_folder_contradicts_the_command(tmp_path: Path) -> None:
    assert await refused("serve", "--frontend-command", "x", "--frontend", "dist", cwd=tmp_path) == (
        'frontend_command: frontend is the folder "dist"; leave one of them out, or name the address of the dev server'
    )


async def test_workers_and_those_after_a_reload_follow_a_front_end_that_moves(script: str, tmp_path: Path) -> None:
    front = ("--frontend-command", f"{script} front 0", "--workers", "2", "--log-level", "info")
    async with serving(tmp_path, *with_backend(script), *front) as (program, address):
        await program.line("  frontend")
        assert await get(f"{address}/x") == "front /x"
        program.send(signal.SIGHUP)
        await program.line("the new processes serve")
        assert await get(f"{address}/x") == "front /x"
        crashing = asyncio.create_task(get(f"{address}/crash"))
        await program.lines("Server running at", 2)
        crashing.cancel()
        assert await get(f"{address}/x") == "front /x"


@pytest.mark.parametrize(("option", "remedy"), [("backend_command", "upstream"), ("frontend_command", "frontend")])
async def test_a_command_that_does_not_listen_is_named_once_and_goes_on(
    option: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    command = UserCommand(option, "label", "npm run dev", f"http://127.0.0.1:{port}", False, "text", patience=0.0)
    listening = asyncio.create_task(listens(command, lambda: False))
    await until(lambda: caplog.messages)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        assert await listening
    assert caplog.messages == [
        f"{option}: nothing listens at http://127.0.0.1:{port} after 0s: "
        f'have "npm run dev" listen there, or give its address as {remedy}'
    ]
