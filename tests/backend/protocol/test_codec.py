"""JSON in, messages out; events in, JSON out."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import (
    MAX_SEQ,
    Event,
    Finish,
    MessageEnded,
    PartAdded,
    PartialAnswer,
    Position,
    Row,
    RunError,
    RunStarted,
    Snapshot,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.parts import Data, Source, Status
from moorline.backend.protocol.codec import Json, decode_object, encode, encode_delta, parse_frame
from moorline.backend.protocol.models import (
    ID,
    Cancel,
    ClientPing,
    DeltaEvent,
    Hello,
    Retry,
    Send,
    ServerHello,
    ServerPing,
    ServerPong,
    V1Send,
)
from moorline.backend.protocol.v1 import Version1
from moorline.backend.protocol.v2 import Version2, event_model, row_model, snapshot_model
from moorline.backend.session import row_of

ENDED = MessageEnded(5, 3, "r1", "m2", "Hello", Finish.STOP, at=0.0)


def parse(frame: Json, *, version: int = 2, first: bool = False) -> object:
    return parse_frame(frame, version=version, first=first, max_bytes=10)


def refusal(frame: Json, *, version: int = 2, first: bool = False) -> ErrorCode:
    with pytest.raises(Refusal) as refused:
        parse(frame, version=version, first=first)
    return refused.value.code


def test_each_command_is_read() -> None:
    assert parse({"message": "Hi"}, version=1) == V1Send(message="Hi")
    assert parse({"type": "send", "message": "Hi", "client_msg_id": "c"}) == Send(message="Hi", client_msg_id="c")
    assert parse({"type": "retry", "run_id": "r", "client_msg_id": "c"}) == Retry(run_id="r", client_msg_id="c")
    assert parse({"type": "cancel", "run_id": "r"}) == Cancel(run_id="r")
    assert parse({"type": "ping"}, version=1) == ClientPing()


@pytest.mark.parametrize("seq", [0, 4, MAX_SEQ])
def test_a_hello_carries_where_to_resume(seq: int) -> None:
    frame = {"type": "hello", "v": 2, "resume": {"epoch": "e", "seq": seq}}
    assert parse(frame, version=1, first=True) == Hello(v=2, resume=Position("e", seq))


@pytest.mark.parametrize(
    "resume",
    [None, 1, {}, {"epoch": "e"}, *({"epoch": "e", "seq": seq} for seq in (True, "1", -1, MAX_SEQ + 1))],
)
def test_a_malformed_cursor_is_none_and_no_error(resume: object) -> None:
    assert parse({"type": "hello", "v": 2, "resume": resume}, version=1, first=True) == Hello(v=2)


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": None},
        {"type": []},
        {"type": "send"},
        {"type": "send", "message": "Hi"},
        {"type": "send", "message": "Hi", "client_msg_id": "a b"},
        {"type": "send", "message": "a\0b", "client_msg_id": "c"},
        {"type": "send", "message": "\ud800", "client_msg_id": "c"},
        {"type": "cancel", "run_id": 1},
        {"type": "hello", "v": 2},
        {"message": "Hi"},
    ],
)
def test_the_unknown_is_a_bad_request(frame: Json) -> None:
    assert refusal(frame) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("v", [1, 3, "2", True, None])
def test_only_version_2_can_be_greeted(v: object) -> None:
    assert refusal({"type": "hello", "v": v}, version=1, first=True) is ErrorCode.BAD_REQUEST


def test_length_is_counted_in_bytes_of_utf_8() -> None:
    assert parse({"message": "ü" * 5}, version=1) == V1Send(message="ü" * 5)
    assert refusal({"message": "ü" * 6}, version=1) is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "1", "[" * 100_000, '{"message":' + "9" * 5000 + "}"])
def test_what_is_no_json_object_is_a_bad_request(text: str) -> None:
    with pytest.raises(Refusal):
        decode_object(text)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"type": "send", "message": "Hi"}, "client_msg_id: is missing."),
        ({"type": "send", "message": 1, "client_msg_id": "c"}, "message: must be of type string."),
        ({"type": "send", "message": " ", "client_msg_id": "c"}, "message: is empty."),
        ({"type": "send", "message": "\0", "client_msg_id": "c"}, "message: holds NUL or half of a surrogate pair."),
        ({"type": "send", "message": "x" * 11, "client_msg_id": "c"}, "The message is too long: at most 10 bytes"),
        ({"type": "cancel", "run_id": "a b"}, f"run_id: must be a string that matches {ID}."),
        ({"type": "cancel", "run_id": "a\n"}, f"run_id: must be a string that matches {ID}."),
        ({"type": "cancel", "run_id": "\ud800"}, f"run_id: must be a string that matches {ID}."),
        ({"type": "hello", "v": 3}, "v: must be 2."),
        ({"type": "shout"}, "There is no such message in version 2 of the protocol."),
    ],
)
def test_a_bad_request_names_the_member_and_what_it_must_be(frame: Json, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(frame, first=True)
    assert refused.value.message.startswith(words)


def test_an_id_is_no_path_segment_that_clients_resolve() -> None:
    assert [refusal({"type": "cancel", "run_id": name}) for name in (".", "..")] == [ErrorCode.BAD_REQUEST] * 2
    assert parse({"type": "cancel", "run_id": "..."}) == Cancel(run_id="...")


# What the server sends, byte for byte ---------------------------------------------------------------------------------

STARTED = RunStarted(2, "r1", "m2", 0.0)
CUT_OFF = MessageEnded(5, 3, "r1", "m2", "Hel", Finish.INTERRUPTED, at=0.0)
EMPTY = MessageEnded(5, 5, "r1", "m2", "", Finish.CANCELLED, at=0.0)
FAILED = MessageEnded(
    5, 5, "r1", "m2", "", Finish.ERROR, at=0.0, error=RunError(ErrorCode.LLM_BUSY, True, 3.0), usage=Usage(1, 2)
)


def in_version_1(*events: Event) -> list[bytes | None]:
    version = Version1()
    return [version.event(event) for event in events]


def test_version_1_is_byte_for_byte_the_documented_one() -> None:
    assert in_version_1(STARTED, ENDED) == [
        b'{"type":"status","status":"thinking"}',
        b'{"type":"message","role":"assistant","content":"Hello"}',
    ]
    refused = Version1().refusal(Refusal(ErrorCode.BUSY), "c1")
    assert refused == b'{"type":"error","code":"busy","message":"An answer is still being written."}'
    assert (encode(ServerPing()), encode(ServerPong())) == (b'{"type":"ping"}', b'{"type":"pong"}')


def test_version_1_gets_the_text_of_an_answer_that_was_cut_off_or_an_error_without_one() -> None:
    ends = [in_version_1(STARTED, event)[1] or b"" for event in (CUT_OFF, EMPTY, FAILED)]
    assert [json.loads(end)["type"] for end in ends] == ["message", "error", "error"]


def test_version_1_is_told_about_the_runs_that_began_after_it_connected() -> None:
    assert in_version_1(ENDED) == [None]


def test_version_1_has_no_frames_for_what_came_with_version_2() -> None:
    version = Version1()
    user, text = UserMessage(1, "m1", "c1", "r1", "Hi", 0.0), TextAdded(3, "r1", "m2", "Hel")
    assert in_version_1(user, text) == [None, None]
    assert version.ack("c1", seq=1, run_id="r1", duplicate=False) is None
    assert (version.deleted(), version.goaway(1.0)) == (None, None)


FRAMES = {
    Version2().event(UserMessage(1, "m1", "c1", "r1", 'ü "', 0.0)): (
        '{"type":"user","seq":1,"message_id":"m1","client_msg_id":"c1","content":"ü \\"",'
        '"at":"1970-01-01T00:00:00.000Z"}'
    ),
    Version2().event(STARTED): '{"type":"status","seq":2,"run_id":"r1","status":"thinking"}',
    Version2().event(TextAdded(3, "r1", "m2", "Hel\n")): (
        '{"type":"delta","seq":3,"run_id":"r1","message_id":"m2","text":"Hel\\n"}'
    ),
    Version2().event(ENDED): (
        '{"type":"message","seq":5,"from_seq":3,"run_id":"r1","message_id":"m2","role":"assistant","content":"Hello",'
        '"finish":"stop","at":"1970-01-01T00:00:00.000Z"}'
    ),
    Version2().event(FAILED): (
        '{"type":"message","seq":5,"from_seq":5,"run_id":"r1","message_id":"m2","role":"assistant","content":"",'
        '"finish":"error","error":{"code":"llm_busy","retryable":true,"retry_after":3.0},'
        '"usage":{"input_tokens":1,"output_tokens":2},"at":"1970-01-01T00:00:00.000Z"}'
    ),
    Version2().event(PartAdded(4, "r1", "m2", Source("Guideline", "https://example.com/1"))): (
        '{"type":"part","seq":4,"run_id":"r1","message_id":"m2",'
        '"part":{"kind":"source","title":"Guideline","url":"https://example.com/1"}}'
    ),
    Version2().event(PartAdded(4, "r1", "m2", Status("looking up"))): (
        '{"type":"part","seq":4,"run_id":"r1","message_id":"m2","part":{"kind":"status","text":"looking up"}}'
    ),
    Version2().event(replace(ENDED, parts=(Data("vitals", {"pulse": None}),))): (
        '{"type":"message","seq":5,"from_seq":3,"run_id":"r1","message_id":"m2","role":"assistant","content":"Hello",'
        '"parts":[{"kind":"data","name":"vitals","value":{"pulse":null}}],'
        '"finish":"stop","at":"1970-01-01T00:00:00.000Z"}'
    ),
    encode(
        ServerHello(
            epoch="e", head=1, recovered=True, run_id="r1", heartbeat=20.0, max_bytes=10, scripted=True, request_id="a1"
        )
    ): (
        '{"type":"hello","v":2,"epoch":"e","head":1,"recovered":true,"run_id":"r1","heartbeat":20.0,"max_bytes":10,'
        '"scripted":true,"request_id":"a1"}'
    ),
    Version2().ack("c1", seq=1, run_id="r1", duplicate=False): (
        '{"type":"ack","client_msg_id":"c1","seq":1,"run_id":"r1","duplicate":false}'
    ),
    Version2().refusal(Refusal(ErrorCode.BUSY, retry_after=2.5), "c1"): (
        '{"type":"error","code":"busy","message":"An answer is still being written.","retryable":true,'
        '"retry_after":2.5,"client_msg_id":"c1"}'
    ),
    Version2().refusal(Refusal(ErrorCode.BUSY), "no id"): (
        '{"type":"error","code":"busy","message":"An answer is still being written.","retryable":true}'
    ),
    Version2().deleted(): '{"type":"deleted"}',
    Version2().goaway(1.0): '{"type":"goaway","reconnect_after":1.0}',
    encode(
        snapshot_model(
            Snapshot(Position("e", 2), (row_of(ENDED),), earlier=True, run=PartialAnswer("r2", "m3", "Hel")), "d"
        )
    ): (
        '{"type":"snapshot","messages":[{"message_id":"m2","role":"assistant","content":"Hello","seq":5,'
        '"at":"1970-01-01T00:00:00.000Z","run_id":"r1","finish":"stop"}],"earlier":true,'
        '"run":{"run_id":"r2","message_id":"m3","text":"Hel"},"database":"d","through_seq":2}'
    ),
}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: json.loads(frame)["type"])
def test_version_2_is_byte_for_byte_what_clients_read_today(frame: bytes) -> None:
    assert frame.decode() == FRAMES[frame]


@given(seq=st.integers(1, MAX_SEQ), run_id=st.from_regex(ID, fullmatch=True), text=st.text())
def test_a_delta_is_written_as_its_definition_says(seq: int, run_id: str, text: str) -> None:
    event = TextAdded(seq, run_id, run_id, text)
    assert encode_delta(event) == encode(DeltaEvent(seq=seq, run_id=run_id, message_id=run_id, text=text))


def test_rows_of_each_kind_are_encoded_as_in_a_snapshot() -> None:
    user = row_model(Row("m1", "user", "Hi", 1, 0.0, run_id="r1", client_msg_id="c1"))
    failed = row_model(row_of(FAILED))
    assert json.loads(encode(user))["client_msg_id"] == "c1"
    assert json.loads(encode(failed))["error"] == {"code": "llm_busy", "retryable": True, "retry_after": 3.0}


def test_times_are_rfc_3339_in_utc() -> None:
    assert json.loads(encode(event_model(ENDED)))["at"] == "1970-01-01T00:00:00.000Z"
