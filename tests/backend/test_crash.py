"""What a killed process leaves behind, and what its clients find after its restart."""

import json
import signal
from pathlib import Path

from tests.support.backend_process import BackendProcess, backend_process
from tests.support.backends import hello, receive_until, say
from tests.support.openai_server import DONE, Fault, finish, openai_server, says


async def kill(server: BackendProcess) -> None:
    await server.program.stop(signal.SIGKILL)


async def test_after_a_kill_in_the_middle_of_an_answer_nothing_is_lost_doubled_or_left_open(tmp_path: Path) -> None:
    async with openai_server() as model:
        model.reply(says("Good "), Fault.STALL)
        async with backend_process(tmp_path, model, "--drain", "0.1") as server, server.socket() as socket:
            epoch = (await hello(socket))[0]["epoch"]
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            frames = await receive_until(socket, "delta")
            run_id, last = frames[-1]["run_id"], frames[-1]["seq"]
            await kill(server)
        async with backend_process(tmp_path, model, "--drain", "0.1") as server, server.socket() as socket:
            (greeting,) = await hello(socket, resume={"epoch": epoch, "seq": last})
            assert greeting["recovered"] is True
            assert "run_id" not in greeting
            end = (await receive_until(socket, "message"))[-1]
            assert (end["run_id"], end["content"], end["finish"]) == (run_id, "Good ", "interrupted")
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            ack = (await receive_until(socket, "ack"))[-1]
            assert (ack["run_id"], ack["seq"], ack["duplicate"]) == (run_id, 1, True)
            await say(socket, type="send", message="Ho", client_msg_id="c1")
            assert (await receive_until(socket, "error"))[-1]["code"] == "rejected"
            model.reply(says("Good "), says("day."), finish("stop"), DONE)
            await say(socket, type="retry", run_id=run_id, client_msg_id="c2")
            again = (await receive_until(socket, "message"))[-1]
            assert (again["content"], again["finish"]) == ("Good day.", "stop")
    assert len(model.asked) == 2


RESPONDER = """\
import asyncio
from moorline.backend.responder import Source, Status

async def answer(turn):
    yield Status("looking up")
    yield Source("Guideline", "https://example.com/")
    yield f"{turn.patient_id}: "
    if not turn.message.startswith("whole"):
        await asyncio.Event().wait()
    yield Status("writing")
    yield turn.message
    yield Source("Record", "/record/1")
"""
GUIDELINE = {"kind": "source", "title": "Guideline", "url": "https://example.com/"}
RECORD = {"kind": "source", "title": "Record", "url": "/record/1"}


async def test_parts_of_a_responder_survive_a_kill_once_and_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(RESPONDER, encoding="utf-8")
    arguments = ("--responder", "chat:answer", "--drain", "0.1")
    async with openai_server() as unused:
        async with backend_process(tmp_path, unused, *arguments) as server, server.socket() as socket:
            epoch = (await hello(socket))[0]["epoch"]
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            frames = await receive_until(socket, "delta")
            parts = [frame for frame in frames if frame["type"] == "part"]
            assert [frame["part"]["kind"] for frame in parts] == ["status", "source"]
            run_id = frames[-1]["run_id"]
            await kill(server)
        async with backend_process(tmp_path, unused, *arguments) as server, server.socket() as socket:
            (greeting,) = await hello(socket, resume={"epoch": epoch, "seq": parts[0]["seq"]})
            assert greeting["recovered"] is True
            end = (await receive_until(socket, "message"))[-1]
            assert (end["content"], end["finish"], end["parts"]) == ("patient:demo: ", "interrupted", [GUIDELINE])
            assert end["run_id"] == run_id
            await say(socket, type="send", message="whole", client_msg_id="c2")
            again = (await receive_until(socket, "message"))[-1]
            assert (again["content"], again["parts"]) == ("patient:demo: whole", [GUIDELINE, RECORD])


async def test_a_message_that_was_sent_as_the_process_was_killed_is_kept_once_however_it_went(tmp_path: Path) -> None:
    async with openai_server() as model:
        for _ in range(2):
            model.reply(says("Good "), Fault.STALL)
        async with backend_process(tmp_path, model, "--drain", "0.1") as server, server.socket() as socket:
            await hello(socket)
            await socket.send(json.dumps({"type": "send", "message": "Hi", "client_msg_id": "c1"}))
            await kill(server)
        async with backend_process(tmp_path, model, "--drain", "0.1") as server, server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            run_id = (await receive_until(socket, "ack"))[-1]["run_id"]
            async with server.socket() as other:
                _, snapshot = await hello(other)
                users = [row for row in snapshot["messages"] if row["role"] == "user"]
                assert [(row["content"], row["run_id"]) for row in users] == [("Hi", run_id)]
