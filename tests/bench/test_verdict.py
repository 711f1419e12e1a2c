"""The verdict on a chaos run sees each thing that may go wrong."""

import copy
from typing import Any

import pytest

from tests.bench.verdict import Verdict, judge
from tests.support.transcript import Row, Transcript

ROWS: list[dict[str, Any]] = [
    {"message_id": "m1", "role": "user", "content": "Hi", "client_msg_id": "c1"},
    {"message_id": "m2", "role": "assistant", "content": "Hello", "run_id": "r1", "finish": "stop"},
]


class Tab:
    def __init__(self) -> None:
        self.transcript = Transcript()
        self.transcript.rows = {"m1": Row("m1", "user", "Hi"), "m2": Row("m2", "assistant", "Hello")}
        self.sent = {"c1": "Hi"}
        self.acknowledged = {"c1": "r1"}
        self.outages = [1.0]


def judged(rows: list[dict[str, Any]], tab: Tab) -> Verdict:
    verdict = Verdict()
    judge(verdict, rows, [tab])
    return verdict


def test_all_is_well() -> None:
    verdict = judged(ROWS, Tab())
    assert verdict.held
    assert (verdict.acknowledged, verdict.finishes["stop"], verdict.outages) == (1, 1, [1.0])
    assert "lost                   0" in str(verdict)


def test_nothing_acknowledged_shows_nothing() -> None:
    assert not Verdict().held


@pytest.mark.parametrize("content", [None, "Hj"])
def test_a_message_that_is_gone_or_changed_is_lost(content: str | None) -> None:
    rows = copy.deepcopy(ROWS)
    if content is None:
        del rows[0]
    else:
        rows[0]["content"] = content
    assert judged(rows, Tab()).lost == 1


@pytest.mark.parametrize("place", [0, 1])
def test_a_message_or_an_answer_that_is_there_twice_is_doubled(place: int) -> None:
    assert judged([*ROWS, ROWS[place]], Tab()).doubled == 1


def test_a_run_that_has_no_end_is_endless() -> None:
    assert judged([ROWS[0], {**ROWS[1], "finish": None}], Tab()).endless == 1
    assert judged(ROWS[:1], Tab()).endless == 1


def test_a_tab_that_shows_something_else_is_out_of_order() -> None:
    for content, ids in (("Hell", "m1 m2"), ("Hello", "m2 m1"), ("Hello", "m1"), ("Hello", "")):
        tab = Tab()
        tab.transcript.rows["m2"].content = content
        tab.transcript.rows = {name: tab.transcript.rows[name] for name in ids.split()}
        assert judged(ROWS, tab).out_of_order == 1
