"""`moorline check` and what really breaks: proxies of other makes, databases, and networks."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.endtoend.test_check_faults import Check, Found, checked
from tests.endtoend.test_check_healthy import healthy
from tests.support import needs
from tests.support.backends import Script, backend
from tests.support.database_states import filled, locked, read_only, small_disk
from tests.support.namespace import Machine, machine
from tests.support.postgres import PostgresServer
from tests.support.process import started
from tests.support.proxies import haproxy, nginx_location
from tests.support.stack import Stack, stack
from tests.support.version1 import Version1Server, version1

__all__ = ["checked"]

Proxy = Callable[..., AbstractAsyncContextManager[str]]

PROXIES = [
    pytest.param(nginx_location, marks=needs.nginx, id="nginx"),
    pytest.param(haproxy, marks=needs.haproxy, id="haproxy"),
]
# nginx's default is HTTP/1.0 without Upgrade; HAProxy passes it on unless it is told otherwise.
STRIPS: dict[Proxy, tuple[str, ...]] = {
    nginx_location: (),
    haproxy: ("http-request del-header Upgrade", "http-request del-header Connection"),
}
CUTS: dict[Proxy, tuple[str, ...]] = {
    nginx_location: (
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $http_upgrade;",
        'proxy_set_header Connection "upgrade";',
        "proxy_read_timeout 1s;",
    ),
    haproxy: ("timeout tunnel 1s",),
}


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(tmp_path) as both:
        both.script.put("Good.", None, "Good.", None)
        yield both


# Proxies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_proxy_that_strips_upgrade(parts: Stack, checked: Check, tmp_path: Path, proxy: Proxy) -> None:
    async with proxy(tmp_path, parts.gateway, *STRIPS[proxy]) as url:
        found = await checked(url, parts.backend)
    assert found is not None
    assert (found.side, found.hop) == ("through the gateway", "upgrade"), found
    assert found.cause == "a proxy in front strips Upgrade, so that an ordinary request arrived"
    assert "proxy_set_header Upgrade $http_upgrade" in found.next_step


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_proxy_that_cuts_silent_sockets_is_found_with_its_time(
    parts: Stack, checked: Check, tmp_path: Path, proxy: Proxy
) -> None:
    async with proxy(tmp_path, parts.gateway, *CUTS[proxy]) as url:
        found = await checked(url, idle=10.0)
    assert found is not None
    assert found.hop == "idle", found
    seconds = re.search(r"after ([\d.]+) s", found.said)
    assert seconds is not None
    assert float(seconds[1]) == pytest.approx(1.0, abs=1.0)
    assert "proxy_read_timeout" in found.next_step


# Databases ------------------------------------------------------------------------------------------------------------


async def of_database(checked: Check, url: str) -> Found:
    """Once a message could not be kept, or nothing could be read."""
    found = await checked(url, patience=10.0)
    assert found is not None
    return found


@needs.mounts
async def test_a_full_disk(checked: Check, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        async with backend(folder, Script("Good.", None)) as full:
            filled(folder)
            found = await of_database(checked, full.http)
    assert (found.hop, "the database is full" in found.said) == ("first answer", True), found
    assert (found.cause, found.next_step[:16]) == ("the disk of the backend's database is full", "free space there")


@needs.postgres
async def test_a_database_that_is_read_only(checked: Check, postgres_database: str, tmp_path: Path) -> None:
    async with backend(tmp_path, Script("Good.", None), database=postgres_database) as part:
        with read_only(postgres_database):
            found = await of_database(checked, part.http)
    assert "the database is read-only" in found.said, found
    assert "name the primary with --database" in found.next_step


@needs.postgres
async def test_a_database_that_is_locked(checked: Check, postgres_database: str, tmp_path: Path) -> None:
    async with backend(tmp_path, Script("Good.", None), database=postgres_database) as part:
        with locked(postgres_database):
            found = await of_database(checked, part.http)
    assert "the database is locked" in found.said, found
    assert "pg_locks" in found.next_step


@needs.postgres
async def test_a_database_that_is_down(
    checked: Check, postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    async with backend(tmp_path, Script("Good.", None), database=postgres_database) as part:
        postgres_server.stop()
        try:
            found = await of_database(checked, part.http)
        finally:
            postgres_server.start()
    assert "the database is down" in found.said, found
    assert "start the database" in found.next_step


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def far() -> Iterator[Machine]:
    with machine() as there:
        yield there


async def told_there(there: Machine, folder: Path, url: str) -> dict[str, Any]:
    """What `moorline check` says on a machine whose only network is the one to this machine."""
    async with started("moorline", "check", url, "--json", cwd=folder, under=there.run) as program:
        assert await program.ended() == 1
        broken: dict[str, Any] = json.loads(program.out)["broken"]
        return broken


@needs.namespaces
@pytest.mark.parametrize(
    ("url", "hop", "said", "next_step"),
    [
        ("http://203.0.113.1:4321", "TCP", "this machine has no network", "connect this machine"),
        ("wss://chat.example.com", "name", "no DNS server answers", "check this machine's connection"),
    ],
)
async def test_a_client_that_is_offline(
    far: Machine, tmp_path: Path, url: str, hop: str, said: str, next_step: str
) -> None:
    broken = await told_there(far, tmp_path, url)
    assert (broken["hop"], broken["said"]) == (hop, said), broken
    assert next_step in broken["next_step"]


@needs.namespaces
async def test_a_server_whose_packets_are_lost(far: Machine, checked: Check, tmp_path: Path) -> None:
    peer = "tests.support.websocket_peer"
    async with started(peer, "serve", far.its, cwd=tmp_path, under=far.run) as echo:
        port = int((await echo.line("serving")).split()[1])
        assert await checked(f"ws://{far.its}:{port}/") is None
        # As a firewall that forgets a silent connection.
        asyncio.get_running_loop().call_later(0.3, far.vanish)
        silent = await checked(f"ws://{far.its}:{port}/", idle=0.6)
        # Before the kernel asks who has the address, and tells that no machine has.
        found = await checked(f"ws://{far.its}:{port}/", patience=1.0)
    assert silent is not None
    assert (silent.hop, "forgot the connection" in silent.cause) == ("idle", True), silent
    assert "client_heartbeat" in silent.next_step
    assert found is not None
    assert (found.hop, found.said) == ("TCP", "no answer in time"), found
    assert "a firewall drops the packets" in found.cause


# Versions -------------------------------------------------------------------------------------------------------------


async def test_a_backend_of_version_1_is_distinguished_from_one_that_a_page_of_version_2_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with version1(Version1Server()) as behind:
        behind.answers.put_nowait("Good morning.")
        settings = Settings(host="127.0.0.1", port=0, upstream=(behind.url,), drain=0.2)
        async with server.running(settings) as gateway:
            assert await healthy(gateway.addresses[0])
    assert "13 characters; version 1 of the protocol alone: no resume, and a page that needs" in capsys.readouterr().out
