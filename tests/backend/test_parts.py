"""Parts of an answer as JSON, and which of them can be made at all."""

import json
import math
from typing import Any

import pytest

from moorline.backend.parts import STATUS_PREFIX, Data, Part, Source, Status, decode_part, encode_part, kept

PARTS: list[Part] = [Source("Title", "https://example.com/"), Source("Title"), Status("…"), Data("a", [1, {"b": None}])]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_read_as_it_was_written(part: Part) -> None:
    assert decode_part(encode_part(part)) == part


def test_the_json_of_a_status_and_of_nothing_else_begins_as_a_database_expects() -> None:
    assert [encode_part(part).startswith(STATUS_PREFIX) for part in PARTS] == [False, False, True, False]


def test_what_no_database_can_hold_is_replaced() -> None:
    assert decode_part(encode_part(Status("\ud83d\ude00 \ud83d"))) == Status("😀 \ufffd")
    assert "\0" not in encode_part(Data("a", "\0"))


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "JavaScript:alert(1)", " java\nscript:alert(1)", "data:text/html,x", "file:///etc"]
)
def test_a_source_with_an_address_that_could_run_in_a_page_cannot_be_made(url: str) -> None:
    with pytest.raises(ValueError, match="must be http, https or a path"):
        Source("Title", url)


@pytest.mark.parametrize("url", ["", "/guidelines/1.pdf", "//example.com/a:b", "HTTPS://example.com"])
def test_a_source_may_have_a_path_or_nothing_to_open(url: str) -> None:
    assert Source("Title", url).url == url


@pytest.mark.parametrize("value", [math.nan, {1, 2}, object()])
def test_data_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_part(Data("a", value))


def test_the_json_of_data_is_that_of_its_value() -> None:
    assert json.loads(encode_part(Data("a", {"b": 1}))) == {"kind": "data", "name": "a", "value": {"b": 1}}


def test_all_parts_stay_with_an_answer_but_its_status() -> None:
    assert kept([*PARTS, None]) == (PARTS[0], PARTS[1], PARTS[3])
