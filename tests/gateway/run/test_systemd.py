"""The gateway under a service manager that holds the listening socket between two lives of it."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.run.generations import Gateway
from moorline.gateway.settings import Settings
from tests.gateway.run.test_reload import echoed, reloaded
from tests.support.faulty_upstream import HANDSHAKE, Upstream, dial
from tests.support.gateway_process import echo_server
from tests.support.service_manager import Manager


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    with contextlib.closing(Manager(tmp_path)) as played:
        yield played


async def test_the_manager_is_told_of_start_reload_life_and_end(manager: Manager) -> None:
    async with echo_server() as upstream, manager.service(upstream) as program:
        said = await manager.told_that("READY=1")
        assert f"MAINPID={program.pid}" in said
        await manager.told_that("WATCHDOG=1")
        await reloaded(program)
        said = await manager.told_that("RELOADING=1")
        assert "MONOTONIC_USEC=" in said
        await manager.told_that("READY=1")
        assert await program.stop() == 0
        await manager.told_that("STOPPING=1")


async def test_connections_wait_in_the_managers_socket_while_the_service_restarts(manager: Manager) -> None:
    address = f"ws://127.0.0.1:{manager.port}/ws/x"
    async with echo_server() as upstream:
        async with manager.service(upstream) as program:
            await manager.told_that("READY=1")
            async with connect(address, proxy=None):
                assert await program.stop() == 0
        early = asyncio.create_task(connect(address, proxy=None, open_timeout=None).__aenter__())
        await asyncio.sleep(0)
        async with manager.service(upstream), await early as socket:
            await echoed(socket, "served by the next life")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_serve_has_accepted_is_answered_before_its_backend_ends(workers: str, manager: Manager) -> None:
    async with manager.life("serve", "--backend-port", "0", "--workers", workers) as program:
        await manager.told_that("READY=1")
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(dial(manager.port)) for _ in range(11)]
            await program.line("database")
            # Those that came before it are accepted, too.
            last = clients.pop()
            await last.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await last.head()
            program.send(signal.SIGTERM)
            await program.line("serve: SIGTERM: draining")
            # They have a second.
            for client in clients:
                await client.send(HANDSHAKE)
            for client in clients:
                assert (await client.head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_outlasts_the_drain_of_serve_is_cut_and_logged_though_its_upstream_had_a_second_before(
    manager: Manager, workers: str
) -> None:
    async with Upstream() as held:
        options = ("--workers", workers, "--route", f"/held=http://127.0.0.1:{held.port}", "--drain", "2s")
        async with manager.life("serve", "--backend-port", "0", *options) as program, dial(manager.port) as client:
            await manager.told_that("READY=1")
            await client.send(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await held.accept()
            assert await program.stop() == 0
            assert " cause=GD-response " in program.err


async def test_streams_that_are_closed_at_the_start_do_not_become_connections(manager: Manager) -> None:
    async with echo_server() as upstream, manager.service(upstream, streams="<&- >&- 2>&-") as program:
        await manager.told_that("READY=1")
        async with connect(f"ws://127.0.0.1:{manager.port}/ws/x", proxy=None) as socket:
            await echoed(socket, "and nothing else")
        opened = [os.readlink(f"/proc/{program.pid}/fd/{number}") for number in range(3)]
        assert opened == [os.devnull] * 3
        assert await program.stop() == 0


class OfAllAddresses(socket.socket):
    """Says of itself what a unit's `ListenStream=4321` makes of a socket."""

    def getsockname(self) -> tuple[str, int, int, int]:
        return "::", 4321, 0, 0


@pytest.mark.parametrize(("authorize", "warned"), [("", True), ("tests.gateway.run.test_systemd:hook", False)])
def test_a_socket_of_all_addresses_without_a_hook_is_warned_of(
    caplog: pytest.LogCaptureFixture, authorize: str, *, warned: bool
) -> None:
    systemd = Systemd()
    with OfAllAddresses() as sock:
        systemd.sockets = [sock]
        Gateway(Settings(host="127.0.0.1", authorize=authorize), {}, systemd=systemd)
    assert ("every chat is open to any client that reaches ::" in caplog.text) is warned


async def hook(request: web.Request, patient_id: str | None, session_id: str | None) -> str:
    return "dr.who"


def test_a_descriptor_that_does_not_listen_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.gateway.common.systemd._FIRST_DESCRIPTOR", os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(UsageError, match="LISTEN_FDS: descriptor"):
        Systemd.of({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})


def test_metrics_on_an_address_that_others_reach_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        monkeypatch.setattr("moorline.gateway.common.systemd._FIRST_DESCRIPTOR", os.dup(sock.fileno()))
        with pytest.raises(UsageError, match=r'the socket "metrics" listens on 0\.0\.0\.0'):
            Systemd.of({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "metrics", "LISTEN_PID": str(os.getpid())})


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "HOME": "/"}
    assert not Systemd.of(environ).sockets
    assert environ == {"HOME": "/"}
