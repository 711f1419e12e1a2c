"""What a log says of a conversation, what an audit says, and what an erased session leaves."""

import json
import logging
import os
import socket as sockets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus

from moorline.backend.audit import Audit
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.logs import hashed
from tests.support.backend_process import BackendProcess, backend_process
from tests.support.backends import STEP, Script, backend, hello, receive, receive_until, say
from tests.support.full_disk import largest_file
from tests.support.openai_server import DONE, Status, error, finish, openai_server, says

PATIENT, SESSION = "patient:4711-Xy", "session:0815-Qz"
QUESTION, ANSWER, RETRY = "my-secret-question", "her-secret-answer", "client-msg-77"
# Not their digits: hashes in hexadecimal may have them by chance.
PRIVATE = (PATIENT, SESSION, QUESTION, ANSWER, RETRY, "sk-secret", "-Xy", "-Qz")


async def converse(server: BackendProcess) -> None:
    """Everything that a client can do, right and wrong."""
    async with server.socket(SESSION, PATIENT) as socket:
        epoch = (await hello(socket))[0]["epoch"]
        await say(socket, type="send", message=QUESTION, client_msg_id="c1")
        await receive_until(socket, "message")
        await say(socket, type="send", message=QUESTION, client_msg_id=RETRY)
        failed = (await receive_until(socket, "message"))[-1]
        assert failed["finish"] == "error"
        await say(socket, type="retry", run_id=failed["run_id"], client_msg_id="c3")
        await receive_until(socket, "message")
        await say(socket, type="cancel", run_id=failed["run_id"])
        await say(socket, type="send", message="another text", client_msg_id="c1")
        await socket.send(f"not JSON: {QUESTION}")
        await socket.send(json.dumps({"type": QUESTION}))
    with pytest.raises(InvalidStatus):
        await server.socket(SESSION, "another-patient")
    async with server.socket(SESSION, PATIENT) as socket:
        await hello(socket, resume={"epoch": epoch, "seq": 1})
        async with aiohttp.ClientSession() as http:
            url = f"{server.http}/api/chat/{SESSION}"
            for query in ("", "?after=0&epoch=", f"?after=1&epoch={epoch}", "?limit=x", f"?patient_id={QUESTION}"):
                async with http.get(f"{url}/messages{query}") as answer:
                    await answer.read()
            async with http.post(f"{url}/messages", json={"message": QUESTION}) as answer:
                assert answer.status == 400
            async with http.delete(url, params={"patient_id": PATIENT}) as answer:
                assert answer.status == 204
        await receive_until(socket, "deleted")


def malformed(server: BackendProcess) -> None:
    """A request that is none, with ids in it."""
    port = int(server.http.rpartition(":")[2])
    with sockets.create_connection(("127.0.0.1", port), STEP) as raw:
        raw.sendall(f"GET /api/chat/{SESSION}/messages HTTP/9 {QUESTION}\r\n\r\n".encode())
        raw.settimeout(STEP)
        while raw.recv(1 << 16):
            pass


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_whole_conversation_leaves_no_id_and_no_text_in_the_log_at_info(tmp_path: Path, form: str) -> None:
    async with openai_server() as model:
        for _ in range(2):
            model.reply(says(ANSWER), finish("stop"), DONE)
        model.reply(Status(400, error("context_length_exceeded", f"{QUESTION} {ANSWER}")))
        model.reply(says(ANSWER), finish("stop"), DONE)
        async with backend_process(tmp_path, model, "--log-level", "info", "--log-format", form) as server:
            # The first answer goes to a client of version 1.
            async with server.socket(SESSION, PATIENT) as socket:
                await say(socket, message=QUESTION)
                assert (await receive_until(socket, "message"))[-1]["content"] == ANSWER
            await converse(server)
            malformed(server)
            await server.program.line("erase")
            assert await server.program.stop() == 0
        log = server.program.err
    assert len(model.asked) == 4
    assert "socket opened" in log
    assert "context_length_exceeded" in log
    assert [word for word in PRIVATE if word in log + server.program.out] == []


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_an_erased_session_leaves_no_text_in_the_file_and_its_journal(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(ANSWER, None)) as server, aiohttp.ClientSession() as http:
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message=QUESTION, client_msg_id="c1")
            await receive_until(socket, "message")
        assert QUESTION.encode() in all_bytes(tmp_path)
        async with http.delete(f"{server.http}/api/chat/s1") as answer:
            assert answer.status == 204
        assert [word for word in (QUESTION, ANSWER, "patient:demo") if word.encode() in all_bytes(tmp_path)] == []


# The audit ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def audit_path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def sign_in(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    if request.query.get("who") is None:
        raise web.HTTPForbidden
    return Principal(request.query["who"])


def test_a_file_that_all_users_can_read_is_taken_from_them_and_said(
    audit_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit_path.touch()
    audit_path.chmod(0o644)
    audit = Audit(str(audit_path))
    audit.open()
    audit.close()
    assert stat.S_IMODE(audit_path.stat().st_mode) == 0o640
    assert caplog.messages == [f'audit_log: "{audit_path}" was open to all users; its permissions are 640 now']
    device = Audit(os.devnull)
    device.open()
    device.close()
    assert stat.S_IMODE(os.stat(os.devnull).st_mode) & 0o007


async def test_every_access_is_a_line_with_who_what_and_how_it_went(tmp_path: Path, audit_path: Path) -> None:
    script = Script("partial")
    started = backend(tmp_path, script, authorize=sign_in, audit_log=str(audit_path))
    async with started as server, aiohttp.ClientSession() as http:
        with pytest.raises(InvalidStatus):
            await server.socket()
        async with server.socket("s1?who=nurse") as socket:
            await hello(socket)
            await say(socket, type="send", message=QUESTION, client_msg_id="c1")
            run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
            await say(socket, type="send", message=QUESTION, client_msg_id="c1")
            await receive_until(socket, "ack")
            await say(socket, type="send", message="other", client_msg_id="c2")
            assert (await receive(socket))["code"] == "busy"
            await say(socket, type="cancel", run_id=run_id)
            await receive_until(socket, "message")
        url = f"{server.http}/api/chat/s1"
        for method, path, body in (
            ("GET", "/messages", None),
            ("POST", "/retry", {"run_id": "unknown", "client_msg_id": "c3"}),
            ("DELETE", "", None),
        ):
            async with http.request(method, f"{url}{path}?who=doctor", json=body):
                pass
        async with http.get(f"{url}/messages?after=0&epoch=&who=doctor"):
            pass
    found = lines(audit_path)
    assert [(line["who"], line["action"], line["outcome"]) for line in found] == [
        ("-", "open", "forbidden"),
        ("nurse", "open", "ok"),
        ("nurse", "send", "ok"),
        ("nurse", "send", "duplicate"),
        ("nurse", "send", "busy"),
        ("nurse", "cancel", "ok"),
        ("doctor", "read", "ok"),
        ("doctor", "retry", "not_found"),
        ("doctor", "erase", "ok"),
    ]
    assert {line["session"] for line in found} == {hashed("s1")}
    assert QUESTION not in str(found)
    assert os.stat(audit_path).st_mode & 0o077 == 0


async def test_an_access_that_a_limit_of_its_principal_refuses_has_the_name(tmp_path: Path, audit_path: Path) -> None:
    options: dict[str, Any] = {"max_connections_per_principal": 1, "audit_log": str(audit_path)}
    started = backend(tmp_path, Script(), authorize=sign_in, **options)
    async with started as server, aiohttp.ClientSession() as http, server.socket("s1?who=nurse") as socket:
        await hello(socket)
        with pytest.raises(InvalidStatus):
            await server.socket("s2?who=nurse")
        for method, path, body in (
            ("GET", "/api/chat/s3/messages?who=nurse", None),
            ("GET", "/api/patients/patient:demo/sessions?who=nurse", None),
            ("POST", "/api/ticket?who=nurse", {"patient_id": "patient:demo"}),
        ):
            async with http.request(method, server.http + path, json=body) as answer:
                assert answer.status == 429
    refused = [(line["who"], line["action"]) for line in lines(audit_path) if line["outcome"] == "rate_limited"]
    assert refused == [("nurse", action) for action in ("open", "read", "list", "ticket")]


class Captured(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    logger, captured = logging.getLogger("moorline.audit"), Captured()
    logger.setLevel(logging.INFO)
    logger.addHandler(captured)
    yield captured.lines
    logger.removeHandler(captured)
    logger.setLevel(logging.NOTSET)


def test_the_log_of_the_process_has_the_line_without_the_name(log_lines: list[str]) -> None:
    Audit(None).record("read", "s1", "patient:demo", "ok")
    assert log_lines == [f"{hashed('patient:demo')} read session {hashed('s1')}: ok"]


def test_the_file_is_only_appended_to_and_opened_again_after_it_was_rotated(audit_path: Path) -> None:
    audit_path.write_text('{"who": "earlier"}\n', encoding="utf-8")
    audit = Audit(str(audit_path))
    audit.open()
    audit.record("read", "s1", "one", "ok")
    os.rename(audit_path, audit_path.with_suffix(".1"))
    audit.record("read", "s1", "two", "ok")
    audit.close()
    assert [line["who"] for line in lines(audit_path.with_suffix(".1"))] == ["earlier", "one"]
    assert [line["who"] for line in lines(audit_path)] == ["two"]


def test_a_line_that_a_full_disk_took_in_part_spoils_no_other(audit_path: Path, log_lines: list[str]) -> None:
    audit = Audit(str(audit_path))
    audit.open()
    audit.record("send", "s", "dr.who", "ok")
    with largest_file(audit_path.stat().st_size + 20):
        audit.record("cancel", "s", "dr.who", "ok")
    audit.record("erase", "s", "dr.who", "ok")
    audit.close()
    first, torn, last = audit_path.read_text(encoding="utf-8").splitlines()
    assert (json.loads(first)["action"], json.loads(last)["action"], len(torn)) == ("send", "erase", 20)
    assert "audit_log: cannot be written: No space left on device" in "".join(log_lines)


def test_a_pipe_that_is_not_read_holds_up_nothing_and_goes_on_when_it_is(
    audit_path: Path, log_lines: list[str]
) -> None:
    os.mkfifo(audit_path)
    reader = os.open(audit_path, os.O_RDONLY | os.O_NONBLOCK)
    audit = Audit(str(audit_path))
    audit.open()
    while not any(line.startswith("audit_log: cannot be written: ") for line in log_lines):
        audit.record("read", "s1", "one", "ok")
    waiting = os.read(reader, 1 << 20)
    audit.record("read", "s1", "two", "ok")
    found = [json.loads(line)["who"] for line in (waiting + os.read(reader, 1 << 20)).splitlines()]
    audit.close()
    os.close(reader)
    assert (set(found[:-1]), found[-1]) == ({"one"}, "two")


def test_a_pipe_that_nothing_reads_refuses_the_start(audit_path: Path) -> None:
    os.mkfifo(audit_path)
    with pytest.raises(UsageError, match="audit_log"):
        Audit(str(audit_path)).open()


async def test_a_file_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="audit_log"):
        async with backend(tmp_path, Script(), audit_log=str(tmp_path / "missing" / "audit.jsonl")):
            pass


def test_a_file_that_is_removed_fails_no_request(audit_path: Path) -> None:
    audit = Audit(str(audit_path / "audit.jsonl"))
    audit_path.mkdir()
    audit.open()
    (audit_path / "audit.jsonl").unlink()
    audit_path.rmdir()
    audit.record("read", "s1", "one", "ok")
    audit_path.mkdir()
    audit.record("read", "s1", "two", "ok")
    audit.close()
    assert [line["who"] for line in lines(audit_path / "audit.jsonl")] == ["two"]
