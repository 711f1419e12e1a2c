"""Each code has its sentence and its next step, and `moorline explain` prints them."""

import re

import pytest

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.explain import codes, explain
from moorline.gateway.run.cli import main
from moorline.gateway.site.docs import DOCS


def test_every_code_is_one_of_a_cause() -> None:
    possible = {Cause(who, reason, moment).code for who in Who for reason in Reason for moment in Moment}
    assert set(codes()) <= possible


@pytest.mark.parametrize("code", codes())
def test_every_code_has_a_cause_and_a_next_step(code: str) -> None:
    found = explain(code)
    assert found is not None
    assert all(len(text) > 4 for text in (found.what, found.when, found.usual_cause, found.next_step))


def test_every_reason_stands_for_some_code() -> None:
    letters = {Cause(Who.GATEWAY, reason, Moment.IDLE).code[1] for reason in Reason}
    assert {code[1] for code in codes()} == letters


def test_the_page_of_documentation_has_every_code() -> None:
    rows = [
        line
        for line in (DOCS / "socket-died.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `\w\w-", line)
    ]
    shown: dict[str, list[str]] = {}
    for row in rows:
        _, named, *texts, _ = (cell.strip() for cell in row.split("|"))
        shown |= dict.fromkeys(re.findall(r"`(.*?)`", named), texts)
    expected = {code: explain(code) for code in codes()}
    assert shown == {code: [e.what, e.usual_cause, e.next_step] for code, e in expected.items() if e is not None}


def test_each_code_that_a_symptom_leads_to_is_one() -> None:
    symptoms, _, _ = (DOCS / "socket-died.md").read_text(encoding="utf-8").partition("## The inspector")
    # `UR-mid-frame`, `UR-…` for all of its moments, and `CF` alone.
    named = re.findall(r"(?:cause=|`|,)(\w\w(?:-…|-[a-z-]+)?)`", symptoms)
    assert len(named) > 15
    for name in named:
        letters, _, moment = name.partition("-")
        assert name in codes() if moment not in ("", "…") else codes(letters), name


def test_a_code_of_small_letters_is_the_same() -> None:
    assert explain("ur-IDLE") == explain("UR-idle") is not None


def test_the_command_prints_one_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "UR-idle"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("UR-idle: the upstream reset the connection (ECONNRESET)\n")
    assert re.findall(r"^  ([a-z ]+):", printed, re.MULTILINE) == ["when", "usual cause", "next step"]


def test_the_letters_alone_stand_for_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "um"]) == 2
    assert main(["explain", "cm"]) == 0
    found = re.findall(r"^(\S+-[a-z-]+):", capsys.readouterr().out, re.MULTILINE)
    assert found == ["CM-idle", "CM-mid-frame", "CM-stalled"]


def test_the_command_prints_all_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert re.findall(r"^(\S+-[a-z-]+):", capsys.readouterr().out, re.MULTILINE) == codes()


def test_another_code_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "UR-ide"]) == 2
    assert "UR-ide: there is no such code; did you mean UR-idle?" in capsys.readouterr().err
