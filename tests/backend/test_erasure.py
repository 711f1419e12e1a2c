"""A session that is erased while a client writes to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish
from moorline.backend.responder import Done, Piece, Text, Turn
from tests.support.backends import Backend, Script, backend, hello, receive_until, say
from tests.support.eventlogs import exchange

OLD, NEW = "the old text", "the new text"
ANOTHER = {"patient_id": "another", "message": NEW, "client_msg_id": "c1"}


class Echo:
    """Answers with the question."""

    name = "echo"
    scripted = False

    def __init__(self) -> None:
        self.chats: list[list[str]] = []

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        self.chats.append([prompt.content for prompt in turn.prompts])
        yield Text(f"{turn.message}, echoed")
        yield Done(Finish.STOP)


async def erase_by_http(server: Backend, session: str) -> None:
    url = f"{server.http}/api/chat/{session}"
    async with aiohttp.ClientSession() as http, http.delete(url) as answer:
        assert answer.status == 204


async def erase_at_once(server: Backend, session: str) -> None:
    """Without the way there: before a message that is sent at the same time."""
    assert await server.log.delete_session(session)


@pytest.mark.parametrize("erase", [erase_by_http, erase_at_once])
async def test_a_message_on_its_way_while_its_session_is_erased_begins_no_other(
    tmp_path: Path, erase: Callable[[Backend, str], Awaitable[None]]
) -> None:
    echo = Echo()
    async with backend(tmp_path, echo) as server:
        for session in map(str, range(10)):
            async with server.socket(session) as socket:
                await hello(socket)
                await say(socket, type="send", message=OLD, client_msg_id="c1")
                await receive_until(socket, "message")
                await asyncio.gather(erase(server, session), say(socket, type="send", message=NEW, client_msg_id="c2"))
                # Whatever became of the message, its sender is told that the session is gone.
                await receive_until(socket, "deleted")
            async with server.socket(session) as socket:
                rows = (await hello(socket))[-1]["messages"]
            assert rows == []
    assert set(map(tuple, echo.chats)) <= {(OLD,), (OLD, f"{OLD}, echoed", NEW)}


async def test_a_message_of_a_polling_client_for_an_erased_session_is_not_found(tmp_path: Path, database: str) -> None:
    async with backend(tmp_path, Echo(), database=database) as server, aiohttp.ClientSession(server.http) as http:
        await exchange(server.log, "s1")
        async with http.get("/api/chat/s1/messages?after=0") as answer:
            epoch = (await answer.json())["epoch"]
        await erase_by_http(server, "s1")
        body = {"patient_id": "patient:demo", "message": NEW, "client_msg_id": "c2", "epoch": epoch}
        async with http.post("/api/chat/s1/messages", json=body) as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "not_found")
        assert await server.log.find_session("s1") is None


async def test_a_message_after_the_erasure_begins_a_new_session_and_is_answered(tmp_path: Path) -> None:
    echo = Echo()
    async with backend(tmp_path, echo) as server, aiohttp.ClientSession() as http:
        async with server.socket() as socket:
            (old, _) = await hello(socket)
            await say(socket, type="send", message=OLD, client_msg_id="c1")
            await receive_until(socket, "message")
            async with http.delete(f"{server.http}/api/chat/s1") as answer:
                assert answer.status == 204
            body = {"patient_id": "patient:demo", "message": NEW, "client_msg_id": "c1"}
            async with http.post(f"{server.http}/api/chat/s1/messages", json=body) as answer:
                assert (answer.status, (await answer.json())["duplicate"]) == (202, False)
            await receive_until(socket, "deleted")
        async with server.socket() as socket:
            (new, snapshot) = await hello(socket)
            assert new["epoch"] != old["epoch"]
            if "run" in snapshot:
                await receive_until(socket, "message")
        assert echo.chats[-1] == [NEW]


async def test_a_session_that_becomes_another_patients_while_it_is_read_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = EventLog.rows

    async def begun_anew(log: EventLog, session_id: str, **options: Any) -> Any:
        monkeypatch.undo()
        await log.delete_session(session_id)
        await exchange(log, session_id, patient_id="another")
        return await rows(log, session_id, **options)

    async with backend(tmp_path, Echo()) as server:
        await exchange(server.log, "s1", patient_id="p1")
        monkeypatch.setattr(EventLog, "rows", begun_anew)
        async with aiohttp.request("GET", f"{server.http}/api/chat/s1/messages?patient_id=p1") as answer:
            assert (answer.status, await answer.json()) == (200, [])
            assert EventLog.rows is rows


async def begin_anew(log: EventLog) -> None:
    await log.delete_session("s1")
    await exchange(log, "s1", patient_id="another")


async def test_a_session_that_becomes_another_patients_behind_the_check_of_an_erasure_stays(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_session = EventLog.find_session

    async def checked(log: EventLog, session_id: str) -> Any:
        monkeypatch.undo()
        found = await find_session(log, session_id)
        await begin_anew(log)
        return found

    async with backend(tmp_path, Echo(), database=database) as server:
        await exchange(server.log, "s1", patient_id="p1")
        monkeypatch.setattr(EventLog, "find_session", checked)
        async with aiohttp.request("DELETE", f"{server.http}/api/chat/s1?patient_id=p1") as answer:
            assert answer.status == 204
        found = await server.log.find_session("s1")
        assert found is not None
        assert found.patient_id == "another"


async def test_an_erasure_cancels_no_answer_of_the_session_that_begins_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_session = EventLog.delete_session
    script = Script()

    async with backend(tmp_path, script) as server, aiohttp.ClientSession() as http:
        url = f"{server.http}/api/chat/s1"

        async def begun_behind(log: EventLog, session_id: str, **options: Any) -> bool:
            monkeypatch.undo()
            erased = await delete_session(log, session_id, **options)
            async with http.post(f"{url}/messages", json=ANOTHER) as answer:
                assert answer.status == 202
            await script.asked.wait()
            return erased

        await exchange(server.log, "s1", patient_id="p1")
        monkeypatch.setattr(EventLog, "delete_session", begun_behind)
        async with http.delete(f"{url}?patient_id=p1") as answer:
            assert answer.status == 204
        async with server.socket("s1", "another") as socket:
            await hello(socket)
            script.put("whole", None)
            assert (await receive_until(socket, "message"))[-1]["finish"] == "stop"
