"""JSON in, commands out; events in, JSON out."""

import json

import pytest
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import (
    Event,
    Finish,
    MessageEnded,
    Position,
    RunError,
    RunStarted,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.protocol.commands import Cancel, Hello, Ping, Retry, Send, decode_object, parse_frame
from moorline.backend.protocol.messages import SERVER
from moorline.backend.protocol.wire import Json, ack_frame, encode, error_frame, event_object, hello_frame, v1_frame

ENDED = MessageEnded(5, 3, "r1", "m2", "Hello", Finish.STOP, at=0.0)


def parse(frame: Json, *, version: int = 2, first: bool = False) -> object:
    return parse_frame(frame, version=version, first=first, max_bytes=10)


def refusal(frame: Json, *, version: int = 2, first: bool = False) -> ErrorCode:
    with pytest.raises(Refusal) as refused:
        parse(frame, version=version, first=first)
    return refused.value.code


def test_each_command_is_read() -> None:
    assert parse({"message": "Hi"}, version=1) == Send("Hi", None)
    assert parse({"type": "send", "message": "Hi", "client_msg_id": "c"}) == Send("Hi", "c")
    assert parse({"type": "retry", "run_id": "r", "client_msg_id": "c"}) == Retry("r", "c")
    assert parse({"type": "cancel", "run_id": "r"}) == Cancel("r")
    assert parse({"type": "ping"}, version=1) == Ping()


def test_a_hello_carries_where_to_resume() -> None:
    frame = {"type": "hello", "v": 2, "resume": {"epoch": "e", "seq": 4}}
    assert parse(frame, version=1, first=True) == Hello(Position("e", 4))


@pytest.mark.parametrize(
    "resume", [None, 1, {}, {"epoch": "e"}, {"epoch": "e", "seq": True}, {"epoch": "e", "seq": -1}]
)
def test_a_malformed_cursor_is_none_and_no_error(resume: object) -> None:
    assert parse({"type": "hello", "v": 2, "resume": resume}, version=1, first=True) == Hello(None)


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
    assert parse({"message": "ü" * 5}, version=1) == Send("ü" * 5, None)
    assert refusal({"message": "ü" * 6}, version=1) is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "1", "[" * 100_000, '{"message":' + "9" * 5000 + "}"])
def test_what_is_no_json_object_is_a_bad_request(text: str) -> None:
    with pytest.raises(Refusal):
        decode_object(text)


def test_version_1_is_byte_for_byte_the_documented_one() -> None:
    assert encode(v1_frame(RunStarted(2, "r1", "m2", 0.0))) == '{"type":"status","status":"thinking"}'
    assert encode(v1_frame(ENDED)) == '{"type":"message","role":"assistant","content":"Hello"}'


def test_version_1_gets_the_text_of_an_answer_that_was_cut_off_or_an_error_without_one() -> None:
    cut = MessageEnded(5, 3, "r1", "m2", "Hel", Finish.INTERRUPTED, at=0.0)
    empty = MessageEnded(5, 5, "r1", "m2", "", Finish.CANCELLED, at=0.0)
    assert [(v1_frame(event) or {})["type"] for event in (cut, empty)] == ["message", "error"]


EVENTS: tuple[Event, ...] = (
    UserMessage(1, "m1", "c1", "r1", "Hi", 0.0),
    RunStarted(2, "r1", "m2", 0.0),
    TextAdded(3, "r1", "m2", "Hel"),
    ENDED,
    MessageEnded(
        5, 5, "r1", "m2", "", Finish.ERROR, at=0.0, error=RunError(ErrorCode.LLM_BUSY, True, 3.0), usage=Usage(1, 2)
    ),
)
FRAMES = [
    *map(event_object, EVENTS),
    hello_frame(Position("e", 1), recovered=True, run_id="r1", heartbeat=20.0, max_bytes=10, scripted=True),
    ack_frame("c1", seq=1, run_id="r1", duplicate=False),
    error_frame(Refusal(ErrorCode.BUSY), version=2, client_msg_id="c1"),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_what_version_2_says_is_what_the_documentation_names(frame: Json) -> None:
    (message,) = [message for message in SERVER if message.type == frame["type"] and 2 in message.versions]
    documented = {field.name for field in message.fields}
    required = {field.name for field in message.fields if field.required}
    assert required <= set(frame) - {"type"} <= documented


def test_times_are_rfc_3339_in_utc() -> None:
    assert event_object(ENDED)["at"] == "1970-01-01T00:00:00.000Z"


def test_frames_are_compact_and_not_escaped() -> None:
    assert encode({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    assert json.loads(encode({"finish": Finish.STOP})) == {"finish": "stop"}
