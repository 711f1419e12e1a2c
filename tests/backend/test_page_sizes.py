"""What one request or one socket can make a process hold at once: pages in bytes, which go on where they end."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from moorline.backend.eventlog.base import SNAPSHOT_BYTES
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish, Position, event_size
from moorline.backend.history import next_events
from moorline.backend.rights import RIGHTS
from moorline.gateway.common.access.authorize import Principal
from tests.support import needs
from tests.support.backends import Backend, Script, backend, receive_until, say
from tests.support.eventlogs import database_at, opened, until

MESSAGE = "ü" * 10_000
MESSAGES = 20


async def exchanged(log: EventLog, name: str, content: str, answer: str) -> None:
    """A message of this name, and its answer."""
    started = await log.start_run("s1", "p1", client_msg_id=name, content=content, now=1.0)
    assert started.handle is not None
    await log.end_run(started.handle, finish=Finish.STOP, now=1.0, text=answer)


async def written(log: EventLog) -> str:
    """A session whose text is much larger than a page; its epoch."""
    for number in range(MESSAGES):
        await exchanged(log, f"c{number}", MESSAGE, "Yes.")
    info = await log.find_session("s1")
    assert info is not None
    return info.head.epoch


async def read_through(log: EventLog, epoch: str) -> list[list[Event]]:
    """All events, in the pages in which they are read."""
    pages: list[list[Event]] = []
    seq, more = 0, True
    while more:
        events, more = await next_events(log, "s1", Position(epoch, seq))
        pages.append(list(events))
        seq = events[-1].seq if events else seq
    return pages


@pytest.mark.parametrize("read", ["from memory", "from the database"])
async def test_events_are_read_in_pages_of_bounded_size_and_none_is_missing(tmp_path: Path, read: str) -> None:
    async with opened(database_at(tmp_path)) as log:
        epoch = await written(log)
        pages = await read_through(log, epoch)
    if read == "from the database":
        async with opened(database_at(tmp_path)) as log:
            pages = await read_through(log, epoch)
    assert all(sum(map(event_size, page[:-1])) < SNAPSHOT_BYTES for page in pages)
    seqs = [event.seq for page in pages for event in page]
    assert seqs == sorted(set(seqs))
    assert sum(getattr(event, "content", "") == MESSAGE for page in pages for event in page) == MESSAGES


@needs.postgres
async def test_postgresql_reads_events_in_the_same_pages(postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        epoch = await written(log)
    async with opened(postgres_database) as log:
        pages = await read_through(log, epoch)
    assert all(sum(map(event_size, page[:-1])) < SNAPSHOT_BYTES for page in pages)
    assert sum(getattr(event, "content", "") == MESSAGE for page in pages for event in page) == MESSAGES


async def get(server: Backend, query: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{server.http}/api/chat/s1/messages{query}") as answer:
        return await answer.json()


async def test_a_page_of_history_has_64_kib_at_most(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        await written(server.log)
        rows = await get(server, "")
        assert 0 < sum(len(row["content"].encode()) for row in rows) <= 64 << 10


async def test_a_poll_far_behind_comes_to_the_end_page_by_page(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        epoch = await written(server.log)
        seq, found = 0, []
        while page := (await get(server, f"?after={seq}&epoch={epoch}"))["events"]:
            assert sum(len(event.get("content", "").encode()) for event in page[:-1]) <= 64 << 10
            found += [event["seq"] for event in page if event["type"] == "user"]
            seq = page[-1]["seq"]
        assert len(found) == MESSAGES


async def test_a_socket_far_behind_gets_all_of_it(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        epoch = await written(server.log)
        async with server.socket(patient="p1") as socket:
            await say(socket, type="hello", v=2, resume={"epoch": epoch, "seq": 0})
            await receive_until(socket, "hello")
            messages = [frame for _ in range(MESSAGES) for frame in await receive_until(socket, "user")]
        assert sum(frame["type"] == "user" for frame in messages) == MESSAGES


async def test_a_response_that_is_not_read_keeps_its_place_and_another_address_is_served(
    tmp_path: Path, small_send_buffers: None
) -> None:
    from tests.support.faulty_upstream import dial

    async with backend(tmp_path, Script(), max_requests_per_address=1) as server:
        await exchanged(server.log, "c1", "Hi", "x" * (1 << 20))
        request = b"GET /api/chat/s1/messages HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with dial(server.port, receive_buffer=4096) as client, aiohttp.ClientSession(server.http) as http:
            await client.send(request)
            await client.head()
            async with http.get("/api/chat/s1/messages") as answer:
                problem = await answer.json()
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                assert "max_requests_per_address" in problem["title"]
            async with http.get("/api/chat/s1/messages", headers={"X-Forwarded-For": "192.0.2.1"}) as answer:
                assert answer.status == 200
            async with http.get("/healthz") as answer:
                assert answer.status == 200


async def test_a_response_that_is_not_read_keeps_a_place_of_its_principal_at_whatever_address(
    tmp_path: Path, small_send_buffers: None
) -> None:
    from tests.support.faulty_upstream import dial

    async def by_header(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal(request.headers["X-User"])

    async with backend(tmp_path, Script(), authorize=by_header, max_connections_per_principal=1) as server:
        await exchanged(server.log, "c1", "Hi", "x" * (1 << 20))
        request = b"GET /api/chat/s1/messages HTTP/1.1\r\nHost: localhost\r\nX-User: alice\r\n\r\n"
        async with dial(server.port, receive_buffer=4096) as client, aiohttp.ClientSession(server.http) as http:
            await client.send(request)
            await client.head()
            for who, status in (("alice", 429), ("bob", 200)):
                headers = {"X-User": who, "X-Forwarded-For": "192.0.2.1"}
                async with http.get("/api/chat/s1/messages", headers=headers) as answer:
                    assert answer.status == status
        await until(lambda: not server.app[RIGHTS]._held)
