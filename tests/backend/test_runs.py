"""Runs live apart from sockets, and every one of them ends: with the real client of the provider's, over real HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.client_limits import Client
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish, MessageEnded, RunStarted
from moorline.backend.llm import OpenAIResponder
from moorline.backend.runs import Runs
from moorline.backend.service import as_service
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal
from tests.support.backends import STEP, Backend, Script, backend, hello, receive_until, say
from tests.support.eventlogs import database_at, opened, start
from tests.support.openai_server import DONE, Fault, OpenAIServer, Status, error, finish, openai_server, says

CLIENT = Client("192.0.2.7")
WHOLE = (says("Good "), says("day."), finish("stop"), DONE)


@contextlib.asynccontextmanager
async def with_model(folder: Path, model: OpenAIServer, **options: Any) -> AsyncIterator[Backend]:
    settings = Settings(**{key: value for key, value in options.items() if key.startswith("llm_")})
    responder = OpenAIResponder(settings, api_key="k", base_url=model.base_url)
    async with backend(folder, responder, **{"drain": 0.2, **options}) as server:
        yield server


async def asked(socket: Any, name: str = "c1") -> str:
    """Send a message and wait for the first of its answer; the run."""
    await hello(socket)
    await say(socket, type="send", message="Hi", client_msg_id=name)
    run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
    assert isinstance(run_id, str)
    return run_id


async def ended(log: EventLog) -> MessageEnded:
    """The end of the session's last run, once the log has it."""
    watch = log.watch("s1")
    async with asyncio.timeout(STEP):
        while True:
            found = await events(log)
            if found and isinstance(found[-1], MessageEnded):
                return found[-1]
            await watch.wait()


async def events(log: EventLog) -> Sequence[Event]:
    return await log.read_after("s1", 0, limit=1000)


async def test_a_cancel_from_another_tab_closes_the_providers_connection_and_keeps_the_text(tmp_path: Path) -> None:
    async with openai_server() as model, with_model(tmp_path, model) as server:
        model.reply(says("Good "), Fault.STALL)
        async with server.socket() as one, server.socket() as two:
            run_id = await asked(one)
            await hello(two)
            await say(two, type="cancel", run_id=run_id)
            end = (await receive_until(one, "message"))[-1]
            assert (end["content"], end["finish"]) == ("Good ", "cancelled")
            await asyncio.wait_for(model.gone.wait(), STEP)
            await say(two, type="cancel", run_id=run_id)
            await say(two, type="cancel", run_id="no-run")
            model.reply(*WHOLE)
            await say(two, type="retry", run_id=run_id, client_msg_id="c2")
            again = (await receive_until(one, "message"))[-1]
            assert (again["content"], again["finish"]) == ("Good day.", "stop")
    assert [request["messages"][-1]["content"] for request in model.asked] == ["Hi", "Hi"]


async def test_a_cancel_over_http_closes_the_providers_connection(tmp_path: Path) -> None:
    async with openai_server() as model, with_model(tmp_path, model) as server, aiohttp.ClientSession() as http:
        model.reply(says("Good "), Fault.STALL)
        async with server.socket() as socket:
            run_id = await asked(socket)
            async with http.post(f"{server.http}/api/chat/s1/cancel", json={"run_id": run_id}) as answer:
                assert answer.status == 202
            assert (await receive_until(socket, "message"))[-1]["finish"] == "cancelled"
            await asyncio.wait_for(model.gone.wait(), STEP)


async def test_a_cancel_of_another_sessions_run_does_nothing(tmp_path: Path) -> None:
    script = Script("Good ")
    async with backend(tmp_path, script) as server, server.socket() as one, server.socket("s2") as two:
        run_id = await asked(one)
        await hello(two)
        await say(two, type="cancel", run_id=run_id)
        await say(two, type="ping")
        await receive_until(two, "pong")
        script.put("day.", None)
        assert (await receive_until(one, "message"))[-1]["finish"] == "stop"


async def test_erasing_a_session_closes_the_providers_connection(tmp_path: Path) -> None:
    async with openai_server() as model, with_model(tmp_path, model) as server, aiohttp.ClientSession() as http:
        model.reply(says("Good "), Fault.STALL)
        async with server.socket() as socket:
            await asked(socket)
            async with http.delete(f"{server.http}/api/chat/s1") as answer:
                assert answer.status == 204
            await receive_until(socket, "deleted")
            await asyncio.wait_for(model.gone.wait(), STEP)
        assert await server.log.find_session("s1") is None


async def test_the_answer_goes_on_when_its_only_tab_closes(tmp_path: Path) -> None:
    closed = asyncio.Event()
    async with openai_server() as model, with_model(tmp_path, model) as server:
        model.reply(says("Good "), closed, *WHOLE[1:])
        async with server.socket() as socket:
            await asked(socket)
        closed.set()
        end = await ended(server.log)
        assert (end.content, end.finish) == ("Good day.", Finish.STOP)
        assert not model.gone.is_set()


async def test_a_second_message_while_one_is_answered_is_busy_on_every_tab(tmp_path: Path) -> None:
    script = Script("Good ")
    async with backend(tmp_path, script) as server, server.socket() as one, server.socket() as two:
        await asked(one)
        await hello(two)
        await say(two, type="send", message="Ho", client_msg_id="c2")
        refused = (await receive_until(two, "error"))[-1]
        assert (refused["code"], refused["retryable"], refused["client_msg_id"]) == ("busy", True, "c2")
        script.put("day.", None)
        assert (await receive_until(two, "message"))[-1]["content"] == "Good day."
        script.put("Yes?", None)
        await say(two, type="send", message="Ho", client_msg_id="c2")
        assert (await receive_until(two, "message"))[-1]["content"] == "Yes?"


# Every run ends -------------------------------------------------------------------------------------------------------

FAILURES = {
    "the connection is reset": ((Fault.RESET,), "error", "llm_unavailable", True),
    "nothing more comes": ((Fault.STALL,), "error", "llm_unavailable", True),
    "an error in the stream": ((error("server_error"),), "error", "llm_unavailable", True),
    "a clean end without finish_reason": ((), "interrupted", None, None),
    "only the end marker": ((DONE,), "interrupted", None, None),
    "a filter": ((finish("content_filter"), DONE), "error", "filtered", False),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_whatever_the_provider_does_the_run_ends_with_its_text_and_can_be_retried(
    tmp_path: Path, failure: str
) -> None:
    steps, how, code, retryable = FAILURES[failure]
    async with openai_server() as model, with_model(tmp_path, model, llm_read_timeout=0.8) as server:
        model.reply(says("Good "), *steps)
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            end = (await receive_until(socket, "message"))[-1]
            run_id = end["run_id"]
            assert (end["content"], end["finish"]) == ("Good ", how)
            assert end.get("error", {}).get("code") == code
            assert end.get("error", {}).get("retryable") == retryable
            model.reply(*WHOLE)
            await say(socket, type="retry", run_id=run_id, client_msg_id="c2")
            again = (await receive_until(socket, "message"))[-1]
            assert (again["content"], again["finish"]) == ("Good day.", "stop")
            assert again["run_id"] != run_id


async def test_a_refusal_of_the_providers_ends_the_run_without_text(tmp_path: Path) -> None:
    async with openai_server() as model, with_model(tmp_path, model) as server, server.socket() as socket:
        model.reply(Status(429, error("rate_limit_exceeded"), {"Retry-After": "7"}))
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        end = (await receive_until(socket, "message"))[-1]
        assert (end["content"], end["error"]) == ("", {"code": "llm_busy", "retryable": True, "retry_after": 7.0})


async def test_an_answer_that_takes_longer_than_run_timeout_in_all_ends(tmp_path: Path) -> None:
    async with openai_server() as model, with_model(tmp_path, model, run_timeout=1.5) as server:
        model.reply(says("Good "), *[step for _ in range(200) for step in (0.05, says("."))])
        async with server.socket() as socket:
            await asked(socket)
            end = (await receive_until(socket, "message"))[-1]
            assert (end["finish"], end["error"]["code"]) == ("error", "llm_unavailable")
            assert end["content"].startswith("Good ")
            await asyncio.wait_for(model.gone.wait(), STEP)


# At shutdown ----------------------------------------------------------------------------------------------------------


async def test_what_a_drain_cuts_off_has_its_end_in_the_log_with_its_text(tmp_path: Path) -> None:
    script = Script("Good ")
    async with opened(database_at(tmp_path)) as log:
        runs = Runs(log, as_service(script), Settings())
        await runs.send("s1", "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous"))
        await script.asked.wait()
        await runs.drain(0.0)
        end = (await events(log))[-1]
        assert isinstance(end, MessageEnded)
        assert (end.content, end.finish) == ("Good ", Finish.INTERRUPTED)


async def test_no_run_begins_once_a_drain_has(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        runs = Runs(log, as_service(Script()), Settings())
        await runs.drain(0.0)
        with pytest.raises(Refusal) as refused:
            await runs.send("s1", "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous"))
        assert (refused.value.code, refused.value.retry_after) == (ErrorCode.LLM_BUSY, 5.0)
        assert await log.find_session("s1") is None


async def test_a_run_whose_commit_ends_during_a_drain_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_at(tmp_path)) as log:
        runs = Runs(log, as_service(Script()), Settings())
        start_run, begun, go_on = log.start_run, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **options: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await start_run(*args, **options)

        monkeypatch.setattr(log, "start_run", slow)
        committing = asyncio.create_task(
            runs.send("s1", "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous"))
        )
        await begun.wait()
        draining = asyncio.create_task(runs.drain(0.0))
        await asyncio.sleep(0)
        go_on.set()
        await committing
        await draining
        end = (await events(log))[-1]
        assert isinstance(end, MessageEnded)
        assert end.finish is Finish.INTERRUPTED


# How many at once -----------------------------------------------------------------------------------------------------


async def test_who_waits_for_a_slot_is_answered_when_one_is_free(tmp_path: Path) -> None:
    script = Script("one")
    async with backend(tmp_path, script, max_runs=1) as server, server.socket() as one, server.socket("s2") as two:
        await asked(one)
        await hello(two)
        await say(two, type="send", message="Hi", client_msg_id="c1")
        await receive_until(two, "ack")
        assert len(script.chats) == 1
        script.put(None, "two", None)
        assert (await receive_until(two, "message"))[-1]["content"] == "two"


async def test_who_waits_for_a_slot_can_be_cancelled(tmp_path: Path) -> None:
    async with (
        backend(tmp_path, Script("one"), max_runs=1, drain=0.1) as server,
        server.socket() as one,
        server.socket("s2") as two,
    ):
        await asked(one)
        await hello(two)
        await say(two, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(two, "ack"))[-1]["run_id"]
        await say(two, type="cancel", run_id=run_id)
        end = (await receive_until(two, "message"))[-1]
        assert (end["content"], end["finish"]) == ("", "cancelled")


@pytest.mark.parametrize(("running", "finish"), [(1, Finish.STOP), (2, Finish.INTERRUPTED)])
async def test_a_run_that_another_process_left_behind_is_answered_where_there_is_room(
    tmp_path: Path, running: int, finish: Finish
) -> None:
    script = Script()
    async with opened(database_at(tmp_path)) as log:
        runs = Runs(log, as_service(script), Settings(max_runs=1))
        for number in range(running):
            await runs.send(
                f"other{number}", "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous")
            )
        runs.adopt_run(await start(log, "s1"))
        if finish is Finish.STOP:
            script.put(None, "Good day.", None)
        assert (await ended(log)).finish is finish
        await runs.drain(0.0)


async def test_a_command_whose_commit_is_under_way_has_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(database_at(tmp_path)) as log:
        runs = Runs(log, as_service(Script()), Settings(max_runs=1))
        start_run, begun, go_on = log.start_run, asyncio.Event(), asyncio.Event()

        async def slow(session_id: str, *args: Any, **options: Any) -> Any:
            if session_id == "slow":
                begun.set()
                await go_on.wait()
            return await start_run(session_id, *args, **options)

        def send(session_id: str) -> "asyncio.Task[Any]":
            return asyncio.create_task(
                runs.send(session_id, "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous"))
            )

        monkeypatch.setattr(log, "start_run", slow)
        await send("running")
        committing = send("slow")
        await begun.wait()
        with pytest.raises(Refusal):
            await send("one more")
        runs.adopt_run(await start(log, "s1"))
        assert (await ended(log)).finish is Finish.INTERRUPTED
        go_on.set()
        await committing
        await runs.drain(0.0)


async def test_a_caller_that_goes_away_in_the_middle_of_a_commit_leaves_a_run_that_ends(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/chat.db")
    await log.open()
    try:
        runs = Runs(log, as_service(Script("whole", None)), Settings())
        caller = asyncio.create_task(
            runs.send("s1", "p", client=CLIENT, client_msg_id="c1", content="Hi", by=Principal("anonymous"))
        )
        await asyncio.sleep(0)
        caller.cancel()
        end = await ended(log)
        assert (end.content, end.finish) == ("whole", Finish.STOP)
        assert sum(isinstance(event, RunStarted) for event in await events(log)) == 1
    finally:
        await log.close()


async def test_a_bug_while_the_text_is_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backend(tmp_path, Script("text")) as server, server.socket() as socket:

        async def broken(*_: object) -> int:
            raise ValueError("a bug")

        monkeypatch.setattr(server.log, "add_text", broken)
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        end = (await receive_until(socket, "message"))[-1]
        assert (end["finish"], end["error"]["code"]) == ("error", ErrorCode.INTERNAL)


async def test_commands_that_can_start_nothing_keep_no_place_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(f"sqlite:///{tmp_path}/chat.db")
    await log.open()
    runs, go_on = Runs(log, as_service(Script()), Settings(max_runs=1)), asyncio.Event()
    start_run, held = log.start_run, {"refused 1", "refused 2"}

    async def slow(*args: Any, client_msg_id: str, **options: Any) -> Any:
        if client_msg_id in held:
            await go_on.wait()
        return await start_run(*args, client_msg_id=client_msg_id, **options)

    def send(session: str, name: str) -> "asyncio.Task[Any]":
        return asyncio.create_task(
            runs.send(session, "p", client=CLIENT, client_msg_id=name, content="Hi", by=Principal("anonymous"))
        )

    monkeypatch.setattr(log, "start_run", slow)
    try:
        first, second = await send("s1", "c1"), await send("s2", "c2")
        refused = [send("s3", name) for name in sorted(held)]
        # Both are on their way to the log when the process has room again.
        await runs.cancel("s1", first.run_id)
        await runs.cancel("s2", second.run_id)
        async with asyncio.timeout(STEP):
            while True:
                with contextlib.suppress(Refusal):
                    assert not (await send("s4", "c4")).duplicate
                    break
        go_on.set()
        for task in refused:
            with pytest.raises(Refusal, match="llm_busy"):
                await task
    finally:
        await runs.drain(0.0)
        await log.close()
