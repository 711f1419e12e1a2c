"""`moorline revoke PRINCIPAL`: what ends, what is refused afterwards, and what a mistake says."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus

from moorline.backend.revoke import revoke
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.errors import UsageError
from tests.support import needs
from tests.support.backends import STEP, Backend, Script, backend, hello, say
from tests.support.eventlogs import database_at

WITHIN = 2.0


class Hook:
    """Names whom the header names; `issued` as it is set."""

    def __init__(self) -> None:
        self.issued: float | None = time.time() - 60

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal(request.headers["X-User"], issued=self.issued)


@pytest.fixture
def hook() -> Hook:
    return Hook()


@contextlib.asynccontextmanager
async def served(database: str, tmp_path: Path, hook: Hook) -> AsyncIterator[Backend]:
    async with backend(tmp_path, Script(), authorize=hook, database=database, authorize_again=None) as server:
        yield server


def socket(server: Backend, name: str = "alice") -> Any:
    return server.socket("s1", "p1", additional_headers={"X-User": name})


async def handshake(server: Backend) -> int:
    """The status of alice's next socket."""
    try:
        async with socket(server):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def poll(server: Backend) -> int:
    """The status of a poll that waits 30 s if nothing ends it."""
    url = f"{server.http}/api/chat/s1/messages?patient_id=p1&after=0&wait=30&epoch="
    async with aiohttp.ClientSession(headers={"X-User": "alice"}) as http:
        async with http.get(url) as snapshot:
            epoch = (await snapshot.json())["epoch"]
        async with http.get(url + epoch) as answer:
            return answer.status


async def run(database: str, *arguments: str) -> tuple[int | None, str, str]:
    """Status, output and errors of the command."""
    command, pipe = [sys.executable, "-m", "moorline", "revoke", *arguments], asyncio.subprocess.PIPE
    environ = {**os.environ, "MOORLINE_DATABASE": database}
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environ)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_command_ends_what_is_open_and_says_so_in_one_line(database: str, tmp_path: Path, hook: Hook) -> None:
    async with served(database, tmp_path, hook) as server, socket(server, "bob") as other, socket(server) as opened:
        await hello(other)
        await hello(opened)
        polling = asyncio.create_task(poll(server))
        status, output, errors = await run(database, "alice")
        async with asyncio.timeout(WITHIN):
            await opened.wait_closed()
            assert (opened.close_code, await polling) == (4401, 401)
        await say(other, type="ping")
        assert "pong" in str(await other.recv())
    assert (status, errors) == (0, "")
    assert output.startswith("alice: sockets and polls end now, and what was issued until 20")
    assert output.count("\n") == 1


@needs.postgres
async def test_every_backend_of_the_database_ends_it_in_time(
    postgres_database: str, tmp_path: Path, hook: Hook
) -> None:
    one, other = (served(postgres_database, tmp_path, hook) for _ in range(2))
    async with one as first, other as second, socket(first) as here, socket(second) as there:
        await hello(here)
        await hello(there)
        await first.log.revoke("alice")
        async with asyncio.timeout(WITHIN):
            await here.wait_closed()
            await there.wait_closed()
    assert (here.close_code, there.close_code) == (4401, 4401)


async def test_what_was_issued_before_is_refused_and_what_is_issued_later_counts(
    database: str, tmp_path: Path, hook: Hook
) -> None:
    async with served(database, tmp_path, hook) as server:
        at = await server.log.revoke("alice")
        assert await handshake(server) == 401
        hook.issued = at + 1
        assert await handshake(server) == 101


async def test_a_revocation_outlives_the_backend(database: str, tmp_path: Path, hook: Hook) -> None:
    async with served(database, tmp_path, hook) as server:
        await server.log.revoke("alice")
    async with served(database, tmp_path, hook) as server:
        assert await handshake(server) == 401


async def test_a_hook_that_does_not_say_when_decides_by_itself(database: str, tmp_path: Path, hook: Hook) -> None:
    hook.issued = None
    async with asyncio.timeout(STEP), served(database, tmp_path, hook) as server, socket(server) as opened:
        await hello(opened)
        await server.log.revoke("alice")
        await opened.wait_closed()
        assert (opened.close_code, await handshake(server)) == (4401, 101)


async def test_a_ticket_from_before_is_refused(tmp_path: Path, hook: Hook) -> None:
    hook.issued = None
    async with served(database_at(tmp_path), tmp_path, hook) as server:
        body, headers = {"patient_id": "p1"}, {"X-User": "alice"}
        async with aiohttp.request("POST", f"{server.http}/api/ticket", json=body, headers=headers) as answer:
            ticket = (await answer.json())["ticket"]
        await server.log.revoke("alice")
        with pytest.raises(InvalidStatus) as refused:
            await server.socket("s1", "p1", subprotocols=["moorline", f"moorline.ticket.{ticket}"])
    assert refused.value.response.status_code == 401


async def test_without_a_running_backend_it_is_noted_for_the_next(database: str, tmp_path: Path, hook: Hook) -> None:
    async with served(database, tmp_path, hook):
        pass
    assert await asyncio.to_thread(revoke, database, ["alice"]) == 0
    async with served(database, tmp_path, hook) as server:
        assert await handshake(server) == 401


async def test_a_mistake_is_one_line_with_status_2(tmp_path: Path) -> None:
    status, output, errors = await run(f"sqlite:///{tmp_path}/none.db", "alice")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "none.db" in errors
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("arguments", [[], [""], ["a\nb"], ["\udcff"], ["x" * 2000]])
def test_a_name_that_is_none_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="revoke: "):
        revoke(database_at(tmp_path), arguments)


@needs.postgres
def test_a_database_that_no_backend_has_opened_is_one_line(postgres_database: str) -> None:
    with pytest.raises(UsageError, match="start the backend first"):
        revoke(postgres_database, ["alice"])
