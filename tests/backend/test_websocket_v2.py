"""Version 2 of the protocol, with a client that is not ours."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.backends import STEP, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import exchange


async def close_code(socket: Any) -> int | None:
    try:
        while True:
            await receive(socket)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


async def test_a_hello_gets_hello_and_a_snapshot_also_of_an_empty_session(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        greeting, snapshot = await hello(socket)
        epoch = greeting.pop("epoch")
        assert epoch
        assert greeting == {
            "type": "hello",
            "v": 2,
            "head": 0,
            "recovered": False,
            "heartbeat": 20.0,
            "max_bytes": 65536,
        }
        assert snapshot.pop("database")
        assert snapshot == {"type": "snapshot", "messages": [], "earlier": False, "through_seq": 0}


@pytest.mark.parametrize(("given", "told"), [("0123456789abcdef", "0123456789abcdef"), ("no id\u00e9", None)])
async def test_a_hello_has_the_id_that_a_gateway_gave_the_handshake(
    tmp_path: Path, given: str, told: str | None
) -> None:
    headers = {"X-Request-ID": given}
    async with backend(tmp_path, Script()) as server, server.socket(additional_headers=headers) as socket:
        assert (await hello(socket))[0].get("request_id") == told


async def test_a_client_that_offers_its_token_gets_the_other_subprotocol_it_offered(tmp_path: Path) -> None:
    async with (
        backend(tmp_path, Script()) as server,
        server.socket(subprotocols=["moorline", "moorline.jwt.a.b.c"]) as socket,
    ):
        assert socket.subprotocol == "moorline"


async def test_a_send_is_acknowledged_before_its_first_delta_and_ends_with_all_of_the_text(tmp_path: Path) -> None:
    script = Script("Hel")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        frames = await receive_until(socket, "delta")
        script.put("lo", None)
        frames += await receive_until(socket, "message")
        kinds = [frame["type"] for frame in frames]
        assert kinds.index("ack") < kinds.index("delta")
        ack = next(frame for frame in frames if frame["type"] == "ack")
        user = next(frame for frame in frames if frame["type"] == "user")
        end = frames[-1]
        assert ack == {"type": "ack", "client_msg_id": "c1", "seq": 1, "run_id": end["run_id"], "duplicate": False}
        assert (user["seq"], user["client_msg_id"], user["content"]) == (1, "c1", "Hi")
        assert (end["content"], end["finish"], end["role"]) == ("Hello", "stop", "assistant")
        assert "".join(frame["text"] for frame in frames if frame["type"] == "delta") in ("Hel", "Hello")
        assert [frame["seq"] for frame in frames if "seq" in frame and frame["type"] != "ack"] == sorted(
            {frame["seq"] for frame in frames if "seq" in frame}
        )


async def test_the_first_delta_comes_while_the_answer_is_being_written(tmp_path: Path) -> None:
    script = Script("first")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert (await receive_until(socket, "delta"))[-1]["text"] == "first"
        script.put("second", None)
        assert (await receive_until(socket, "message"))[-1]["content"] == "firstsecond"


async def test_a_send_that_is_repeated_is_acknowledged_as_a_duplicate_of_one_run(tmp_path: Path) -> None:
    script = Script("hi", None)
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(socket, "message"))[-1]["run_id"]
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert await receive(socket) == {
            "type": "ack",
            "client_msg_id": "c1",
            "seq": 1,
            "run_id": run_id,
            "duplicate": True,
        }
        assert len(script.chats) == 1


async def test_an_id_used_again_for_another_text_is_rejected(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("hi", None)) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "message")
        await say(socket, type="send", message="Ho", client_msg_id="c1")
        refused = await receive(socket)
        assert (refused["code"], refused["retryable"], refused["client_msg_id"]) == ("rejected", False, "c1")


async def test_resume_replays_what_came_after_the_cursor(tmp_path: Path) -> None:
    script = Script("one")
    async with backend(tmp_path, script) as server:
        async with server.socket() as socket:
            epoch = (await hello(socket))[0]["epoch"]
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            last = (await receive_until(socket, "delta"))[-1]["seq"]
        script.put("two", None)
        async with server.socket() as socket:
            (greeting,) = await hello(socket, resume={"epoch": epoch, "seq": last})
            assert greeting["recovered"] is True
            frames = await receive_until(socket, "message")
            assert (frames[0].get("from_seq", frames[0]["seq"])) <= last + 1
            assert frames[-1]["content"] == "onetwo"


@pytest.mark.parametrize(
    "resume", [{"epoch": "lost", "seq": 0}, {"seq": 99}, {"epoch": 1, "seq": "x"}, "nonsense", {"seq": -1}]
)
async def test_a_cursor_that_cannot_be_followed_gets_a_snapshot(tmp_path: Path, resume: Any) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        greeting, snapshot = await hello(socket, resume=resume)
        assert (greeting["recovered"], snapshot["type"]) == (False, "snapshot")


async def test_a_future_cursor_of_the_right_epoch_gets_a_snapshot(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as one, server.socket() as two:
        epoch = (await hello(one))[0]["epoch"]
        assert (await hello(two, resume={"epoch": epoch, "seq": 7}))[0]["recovered"] is False


async def test_a_late_client_gets_the_answer_so_far_and_then_the_rest(tmp_path: Path) -> None:
    script = Script("one")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "delta")
        async with server.socket() as late:
            greeting, snapshot = await hello(late)
            assert greeting["run_id"] == snapshot["run"]["run_id"]
            assert snapshot["run"]["text"] == "one"
            script.put("two", None)
            frames = await receive_until(late, "message")
            assert frames[-1]["content"] == "onetwo"
            assert frames[0].get("from_seq", frames[0]["seq"]) <= snapshot["through_seq"] + 1


async def test_cancel_keeps_what_was_written_and_closes_the_stream(tmp_path: Path) -> None:
    script = Script("partial")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
        await say(socket, type="cancel", run_id=run_id)
        end = (await receive_until(socket, "message"))[-1]
        assert (end["content"], end["finish"]) == ("partial", "cancelled")
        assert script.closed.is_set()


async def test_retry_is_a_new_run_for_the_same_message(tmp_path: Path) -> None:
    script = Script("partial")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
        await say(socket, type="cancel", run_id=run_id)
        await receive_until(socket, "message")
        script.put("whole", None)
        await say(socket, type="retry", run_id=run_id, client_msg_id="c2")
        frames = await receive_until(socket, "message")
        assert next(frame for frame in frames if frame["type"] == "ack")["client_msg_id"] == "c2"
        assert (frames[-1]["content"], frames[-1]["finish"]) == ("whole", "stop")
        assert [prompt.content for prompt in script.chats[-1]] == ["Hi"]


async def test_hello_is_a_bad_request_after_the_first_frame(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="hello", v=2)
        assert (await receive(socket))["code"] == "bad_request"


async def test_the_server_pings_every_heartbeat(tmp_path: Path) -> None:
    # A Pong has half of it to come.
    async with backend(tmp_path, Script(), heartbeat=1.0) as server, server.socket() as socket:
        assert (await hello(socket))[0]["heartbeat"] == 1.0
        assert [await receive(socket), await receive(socket)] == [{"type": "ping"}] * 2


async def test_an_erased_session_says_deleted_and_closes_4504(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await exchange(server.log, "s1")
        await hello(socket)
        async with aiohttp.ClientSession() as http, http.delete(f"{server.http}/api/chat/s1") as answer:
            assert answer.status == 204
        assert await receive(socket) == {"type": "deleted"}
        assert await close_code(socket) == 4504


async def test_a_restart_says_goaway_and_closes_1012(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(backend(tmp_path, Script()))
        socket = await server.socket()
        await hello(socket)
        stopping = asyncio.create_task(stack.aclose())
        assert await receive(socket) == {"type": "goaway", "reconnect_after": 1.0}
        assert await close_code(socket) == 1012
        await asyncio.wait_for(stopping, STEP)


async def test_an_answer_cut_by_a_restart_is_seen_as_interrupted_by_who_resumes(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(backend(tmp_path, Script("half"), drain=0.1))
        socket = await server.socket()
        epoch = (await hello(socket))[0]["epoch"]
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        last = (await receive_until(socket, "delta"))[-1]["seq"]
    await socket.close()
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        (greeting,) = await hello(socket, resume={"epoch": epoch, "seq": last})
        assert greeting["recovered"] is True
        end = (await receive_until(socket, "message"))[-1]
        assert (end["content"], end["finish"]) == ("half", "interrupted")


async def test_a_restart_lets_an_answer_finish_within_the_drain(tmp_path: Path) -> None:
    script = Script("half")
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(backend(tmp_path, script, drain=STEP))
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            await receive_until(socket, "delta")
            stopping = asyncio.create_task(stack.aclose())
            assert await close_code(socket) == 1012
        script.put(" whole", None)
        await asyncio.wait_for(stopping, STEP / 2)
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        _, snapshot = await hello(socket)
        assert [(row["content"], row.get("finish")) for row in snapshot["messages"]] == [
            ("Hi", None),
            ("half whole", "stop"),
        ]


async def test_the_answer_goes_on_when_no_client_is_connected(tmp_path: Path) -> None:
    script = Script("one")
    async with backend(tmp_path, script) as server:
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            await receive_until(socket, "delta")
        script.put("two", None)
        async with server.socket() as socket:
            _, snapshot = await hello(socket)
            if "run" in snapshot:
                assert (await receive_until(socket, "message"))[-1]["content"] == "onetwo"
            else:
                assert snapshot["messages"][-1]["content"] == "onetwo"
