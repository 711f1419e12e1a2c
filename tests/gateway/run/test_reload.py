"""SIGHUP and SIGUSR2 to real processes: the next ones serve with what they read, and no open socket notices."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.app import create_app
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import ReloadRequests
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.common.web.listen import listen
from moorline.gateway.run import generations
from moorline.gateway.run.commands import ServeSettings
from moorline.gateway.run.configuration import Configuration
from moorline.gateway.run.generations import Gateway, Generation, keep_reloading
from moorline.gateway.run.serve import _Serve
from moorline.gateway.run.supervisor import Child, Supervisor
from moorline.gateway.run.workers import Workers
from moorline.gateway.settings import Settings
from tests.gateway.run.test_serve import ask, backend_of, serving
from tests.gateway.run.test_workers import alive, opened
from tests.gateway.websocket.test_metrics import scrape, until
from tests.support.faulty_upstream import Upstream, accepted, held_handshakes
from tests.support.gateway_process import echoing
from tests.support.process import PATIENCE, Program, children, gone, started

COUNT = 'moorline_http_request_seconds_count{{method="GET",route="{}",status="200"}}'
BOTH = pytest.mark.parametrize("workers", ["1", "2"])


async def reloaded(program: Program, number: int = signal.SIGHUP) -> None:
    program.send(number)
    await program.line("gateway: the new processes serve")


async def echoed(socket: ClientConnection, text: str) -> None:
    async with asyncio.timeout(10):
        await socket.send(text)
        assert await socket.recv() == text


@BOTH
async def test_open_sockets_are_served_on_by_the_next_processes(workers: str, tmp_path: Path) -> None:
    async with (
        echoing(tmp_path, "--workers", workers) as (program, address),
        connect(address, proxy=None) as one,
        connect(address, proxy=None) as other,
    ):
        before = children(program.pid, "-m moorline gateway")
        await reloaded(program)
        for socket in (one, other):
            await echoed(socket, "still here")
        async with connect(address, proxy=None) as late:
            await echoed(late, "and new ones")
        for pid in before:
            await gone(pid)
        assert await program.stop() == 0
    assert " error " not in program.err


@BOTH
async def test_handshakes_that_a_replaced_process_has_are_accepted_where_the_program_ends(
    workers: str, tmp_path: Path
) -> None:
    async with Upstream() as upstream:
        address = f"http://127.0.0.1:{upstream.port}"
        options = ("--port", "0", "--host", "127.0.0.1", "--upstream", address, "--workers", workers)
        async with (
            started("moorline", "gateway", *options, cwd=tmp_path) as program,
            held_handshakes(int((await program.page()).rpartition(":")[2]), upstream, 6) as held,
        ):
            await reloaded(program)
            program.send(signal.SIGTERM)
            await program.line("draining for at most")
            # They have a second.
            assert await accepted(held)


GATEWAY = ("gateway", "--port", "0", "--host", "127.0.0.1", "--authorize", "slow:authorize")
#: A hook whose import takes until the test lets it go on. It says which process is there.
_SLOW = """
import os, pathlib, time
pathlib.Path(f"importing-{os.getpid()}").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.02)
async def authorize(request, patient_id, session_id):
    return "someone"
"""


async def importing(folder: Path, pid: int) -> None:
    """Return when this process imports the hook."""
    async with asyncio.timeout(PATIENCE):
        while not (folder / f"importing-{pid}").exists():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
async def test_a_reload_that_is_asked_for_during_the_start_is_done_after_it(number: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW, encoding="utf-8")
    async with started("moorline", *GATEWAY, cwd=tmp_path) as program:
        await importing(tmp_path, program.pid)
        program.send(number)
        (tmp_path / "go").touch()
        await program.page()
        await program.line("the new processes serve")


async def test_a_worker_that_starts_leaves_a_reload_to_its_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW, encoding="utf-8")
    (tmp_path / "go").touch()
    async with echoing(tmp_path, "--workers", "2", "--authorize", "slow:authorize") as (program, _):
        (tmp_path / "go").unlink()
        before = children(program.pid)
        os.kill(before[0], signal.SIGKILL)
        await program.line("starting it again")
        async with asyncio.timeout(PATIENCE):
            while not (new := set(children(program.pid, "-m moorline gateway")) - set(before)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        (worker,) = new
        await importing(tmp_path, worker)
        os.kill(worker, signal.SIGHUP)
        (tmp_path / "go").touch()
        await program.line("is up again")
    assert program.err.count("starting it again") == 1


async def test_a_program_that_ignores_sighup_ignores_it_during_its_start_as_well(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW, encoding="utf-8")
    nohup = ("bash", "-c", "trap '' HUP; exec \"$@\"", "bash")
    async with started("moorline", *GATEWAY, cwd=tmp_path, under=nohup) as program:
        await importing(tmp_path, program.pid)
        program.send(signal.SIGHUP)
        (tmp_path / "go").touch()
        await program.page()
        assert await program.stop() == 0
    assert "reading the configuration again" not in program.err


async def test_a_program_whose_terminal_closes_during_its_start_ends(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW, encoding="utf-8")
    screen, terminal = os.openpty()
    script = "import os, sys; os.setsid(); os.open(sys.argv[1], os.O_RDWR); os.execvp(sys.argv[2], sys.argv[2:])"
    under = (sys.executable, "-c", script, os.ttyname(terminal))
    async with started("moorline", *GATEWAY, cwd=tmp_path, under=under) as program:
        await importing(tmp_path, program.pid)
        os.close(screen)
        assert await program.ended() == -signal.SIGHUP
    os.close(terminal)


async def test_a_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "moorline.toml"
    async with serving(tmp_path) as (program, address):
        backend = backend_of(program)
        for text, reason in (
            ("[gateway]\nmax_connections = 0", "max_connections: 0"),
            ('[backend]\nresponder = "nowhere:answer"', 'there is no module "nowhere"'),
        ):
            file.write_text(text, encoding="utf-8")
            program.send(signal.SIGHUP)
            await program.line("nothing is changed", reason)
        assert children(program.pid) == [backend]
        # What shows at its start alone costs a restart.
        file.write_text('[backend]\ndatabase = "sqlite:////dev/null/chat.db"', encoding="utf-8")
        program.send(signal.SIGHUP)
        await program.line("nothing is changed", "the backend does not start with it")
        assert await ask(address)


async def reloaded_twice(error: Exception) -> None:
    """Two reloads are asked for; each of them fails with `error`."""
    requests, reloads = ReloadRequests(), asyncio.Queue[bool]()

    async def reload(upgrade: bool) -> None:  # noqa: FBT001 - the only one there is
        reloads.put_nowait(upgrade)
        raise error

    reloading = asyncio.create_task(keep_reloading(requests, reload, Systemd()))
    for upgrade in (False, True):
        requests.add(upgrade=upgrade)
        assert await reloads.get() is upgrade
    reloading.cancel()
    await asyncio.wait({reloading})
    assert reloading.cancelled()


async def test_a_reload_without_a_free_descriptor_prevents_no_later_one() -> None:
    await reloaded_twice(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))


async def test_an_error_that_is_not_expected_prevents_no_later_reload(caplog: pytest.LogCaptureFixture) -> None:
    await reloaded_twice(RuntimeError("a mistake"))
    assert caplog.text.count("RuntimeError: a mistake") == 2


class Replaced:
    """In the place of the backend's supervisor: with which database it was started."""

    def __init__(self) -> None:
        self.databases: list[str] = []

    async def replace(self, child: Child) -> bool:
        self.databases.append(cast("dict[str, str]", child.message["settings"])["database"])
        return True


class Reloading:
    """In the place of the gateway and of its configuration."""

    def __init__(self, database: str) -> None:
        self.error: Exception | None = UsageError("port: 80 is in use")
        self._sections = {
            Settings: Settings(),
            BackendSettings: BackendSettings(database=database),
            ServeSettings: ServeSettings(),
        }

    async def read(self) -> dict[type[Any], Any]:
        return self._sections

    async def reload(self, _: Settings) -> None:
        if self.error is not None:
            raise self.error


async def test_where_the_gateway_cannot_be_replaced_the_backend_has_its_old_options_again() -> None:
    reloading, backend = Reloading("sqlite:///new.db"), Replaced()
    (sock,) = listen("127.0.0.1", 0)
    with sock:
        before = BackendSettings(database="sqlite:///old.db")
        given = cast("Configuration", reloading)
        serve = _Serve(Settings(), ServeSettings(), before, sock, {}, given, Systemd(), follows_output=False)
        serve._backend, serve._gateway = cast("Supervisor", backend), cast("Gateway", reloading)
        with pytest.raises(UsageError, match="in use"):
            await serve._reload_all(upgrade=False)
        assert backend.databases == ["sqlite:///new.db", "sqlite:///old.db"]
        reloading.error = None
        await serve._reload_all(upgrade=False)
        assert backend.databases[2:] == ["sqlite:///new.db"], "a later reload begins anew"


class Kept:
    """In the place of both generations: no tunnel can go."""

    size = 1

    def __init__(self) -> None:
        self.only_counts: list[bool] = []

    async def take_over(self, _: int, sock: socket.socket, *, is_same_place: bool) -> bool:
        assert is_same_place
        sock.close()
        return True

    async def hand_over(self, _: int, sock: socket.socket, *, only_counts: bool) -> bool:
        sock.close()
        self.only_counts.append(only_counts)
        return only_counts

    def has_taken_over(self, _: int) -> None:
        pass


async def test_after_the_last_attempt_to_hand_over_the_counts_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "_RETRY_SECONDS", 0.0)
    kept = Kept()
    await generations._hand_over(cast("Generation", kept), 0, cast("Workers", kept))
    assert kept.only_counts == [False, False, False, True]


async def test_a_drain_behind_requests_that_were_finished_begins_at_once(tmp_path: Path) -> None:
    """It has the time that the end of the backend has left."""
    settings = Settings(host="127.0.0.1", port=0)
    app = create_app(settings)
    local = generations._Local(settings, app)
    (sock,) = listen("127.0.0.1", 0)
    with sock:
        await local.start([sock])
        local.stop_accepting()
        local.drain(5.0)
        assert not app[DRAINING].is_set(), "what was accepted is to be answered first"
        await local.finish_requests()
        local.drain(5.0)
        assert app[DRAINING].is_set()
        await local.end()


class Replacing:
    """In the place of a generation that was replaced."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def stop_accepting(self) -> None:
        self.calls.append("stop_accepting")

    async def finish_requests(self) -> None:
        self.calls.append("finish_requests")


async def test_what_replaced_processes_have_is_finished_before_the_backend_ends() -> None:
    gateway, replaced = Gateway(Settings(host="127.0.0.1", port=0), {}), Replacing()
    ending = asyncio.create_task(asyncio.Event().wait())
    gateway._ending[cast("asyncio.Task[None]", ending)] = cast("Generation", replaced)
    await gateway.finish_requests()
    assert replaced.calls == ["stop_accepting", "finish_requests"]
    ending.cancel()
    for sock in gateway._sockets:
        sock.close()


async def faults(program: Program, *wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Arm these; all that are armed."""
    async with aiohttp.ClientSession(await program.page()) as client:
        for each in wanted:
            async with client.post("/-/faults", json=each) as response:
                assert response.status == 201
        async with client.get("/-/faults") as response:
            armed: list[dict[str, Any]] = (await response.json())["armed"]
            return armed


async def test_processes_that_were_replaced_end_with_the_program(tmp_path: Path) -> None:
    # Longer than the program is waited for.
    options = ("--faults", "--drain", "5m")
    async with echoing(tmp_path, *options) as (program, address), connect(address, proxy=None) as one:
        armed = await faults(program, {"fault": "reset", "path": "/ws/none"})
        await reloaded(program)
        async with connect(address, proxy=None) as other:
            program.send(signal.SIGHUP)
            await program.lines("the new processes serve", 2)
            assert await faults(program) == armed
            # With faults no socket is handed over: each stays in the process that it began in.
            program.send(signal.SIGTERM)
            for socket in (one, other):
                with pytest.raises(ConnectionClosedOK):
                    await socket.recv()
            assert await program.ended() == 0


async def test_what_was_read_again_counts(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (program, address):
        (tmp_path / "moorline.toml").write_text("[gateway]\nmax_connections = 1\n", encoding="utf-8")
        await reloaded(program, signal.SIGUSR2)
        async with connect(address, proxy=None) as socket:
            await echoed(socket, "the only one")
            with pytest.raises(InvalidStatus, match="503"):
                await connect(address, proxy=None)


async def test_a_new_process_that_is_killed_takes_only_what_it_had(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (program, address), connect(address, proxy=None) as socket:
        await reloaded(program)
        (worker,) = children(program.pid, "-m moorline gateway")
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionClosedError):
            await echoed(socket, "gone with it")
        async with connect(address, proxy=None, open_timeout=None) as late:
            await echoed(late, "and served by the next")


async def test_a_process_that_is_killed_in_the_middle_of_a_hand_over_ends_only_what_it_held(tmp_path: Path) -> None:
    async with echoing(tmp_path) as (program, address), contextlib.AsyncExitStack() as stack:
        sockets = await opened(address, stack, 150)
        program.send(signal.SIGHUP)
        worker = await started_worker(program)
        async with asyncio.timeout(PATIENCE):
            while (held := descriptors(worker)) < 100:  # noqa: ASYNC110 - the kernel alone knows
                await asyncio.sleep(0.001)
        # The old one, this program, does not see more of it: what is under way stays so.
        program.send(signal.SIGSTOP)
        held = descriptors(worker)
        os.kill(worker, signal.SIGKILL)
        program.send(signal.SIGCONT)
        await program.line("gateway: the new processes serve")
        closed = (await alive(sockets)).count(False)
        # Each has two descriptors.
        assert 0 < closed <= held // 2


async def started_worker(program: Program) -> int:
    async with asyncio.timeout(PATIENCE):
        while not (found := children(program.pid, "-m moorline gateway")):  # noqa: ASYNC110 - the system alone knows
            await asyncio.sleep(0.02)
    return found[0]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_a_request_that_is_under_way_is_answered_by_the_old_process_and_counted_by_the_new_one(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with Upstream() as upstream:
        address = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", str(unused_tcp_port))
        options = (*address, "--upstream", f"http://127.0.0.1:{upstream.port}")
        async with started("moorline", "gateway", *options, cwd=tmp_path) as program, aiohttp.ClientSession() as http:
            asking = asyncio.create_task(http.get(await program.page() + "/api/slow"))
            backend = await upstream.accept()
            async with http.get(await program.page() + "/healthz"):
                pass
            before = await until(unused_tcp_port, COUNT.format("/healthz"))
            await reloaded(program)
            after = await scrape(unused_tcp_port)
            assert all(after[name] >= value for name, value in before.items() if name.endswith(("_count", "_total")))
            assert after[COUNT.format("/healthz")] == 1
            await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            async with await asking as response:
                assert await response.text() == "done"
            await until(unused_tcp_port, COUNT.format("/api/{path}"))
