import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator

import pytest

from moorline.gateway.common import logs
from moorline.gateway.common.logs import hashed, info, setup
from moorline.gateway.settings import Settings

MOMENT = r"\d{4}-\d\d-\d\dT[\d:.]+Z"


@pytest.fixture(autouse=True)
def _the_log_of_the_test_run_stays() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("moorline")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def test_a_text_line_has_the_time_the_level_and_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("began %d", 1)
    moment, line = capsys.readouterr().err.rstrip("\n").split(" ", 1)
    assert moment.endswith("Z")
    assert line == "info gateway: began 1"


def test_a_workers_lines_bear_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(), worker=2)
    logging.getLogger("moorline.gateway.ws").info("began")
    assert capsys.readouterr().err.endswith(" info gateway.ws[2]: began\n")
    setup(Settings(log_format="json"), worker=2)
    logging.getLogger("moorline.gateway.ws").info("began")
    assert json.loads(capsys.readouterr().err)["worker"] == 2


def test_a_message_cannot_forge_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("path %s", "/\n2026 error\x1b[31m\x7f\x9b\u2028")
    assert capsys.readouterr().err.endswith("path /\\n2026 error\\x1b[31m\\x7f\\x9b\\u2028\n")


def test_a_message_cannot_turn_around_what_a_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("said %s", "a\u202eb\u00e9")
    assert capsys.readouterr().err.endswith("said a\\u202eb\u00e9\n")


def test_a_json_line_carries_extra_fields(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(log_format="json"))
    logging.getLogger("moorline.gateway").warning("ended", extra={"code": 1001})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"], line["code"]) == (
        "warning",
        "moorline.gateway",
        "ended",
        1001,
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_without_a_record_is_the_one_that_a_record_gives(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    setup(Settings(log_format=log_format), worker=2)
    logger = logging.getLogger("moorline.gateway.access")
    facts = {"status": 200, "client": "192.0.2.1"}
    info(logger, "GET /%d\x1b 200", lambda: facts)
    logger.info("GET /%d\x1b 200", extra=facts)
    without_record, with_record = (re.sub(MOMENT, "", line) for line in capsys.readouterr().err.splitlines())
    assert without_record == with_record
    assert "/%d\\" in without_record


def test_another_handler_has_a_record_of_each_line(caplog: pytest.LogCaptureFixture) -> None:
    setup(Settings())
    info(logging.getLogger("moorline.gateway.access"), "GET / 200", lambda: {"status": 200})
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["status"]) == ("GET / 200", 200)


def test_lines_below_log_level_and_chatter_of_libraries_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(log_level="warning"))
    logging.getLogger("moorline.gateway").info("quiet")
    logging.getLogger("openai").info("quiet")
    assert capsys.readouterr().err == ""


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    setup(Settings())
    logging.getLogger("moorline.gateway").info("once")
    assert capsys.readouterr().err.count("once") == 1


async def test_lines_of_one_iteration_of_the_event_loop_are_written_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("first")
    logging.getLogger("moorline.gateway").info("second")
    assert capsys.readouterr().err == ""
    await asyncio.sleep(0)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["first", "second"]


async def test_between_two_writes_there_is_a_pause(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.5)
    setup(Settings())
    began = time.monotonic()
    for text in ("first", "second"):
        logging.getLogger("moorline.gateway").info(text)
        await asyncio.sleep(0)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["first"]
    while not (written := capsys.readouterr().err):  # noqa: ASYNC110 - nothing tells when the log is written
        await asyncio.sleep(0.005)
    assert "second" in written
    assert time.monotonic() - began >= 0.5


async def test_a_warning_is_written_at_once_behind_the_lines_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("first")
    logging.getLogger("moorline.gateway").warning("second")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["first", "second"]


async def test_a_line_of_another_thread_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("moorline.gateway").info("first")
    await asyncio.sleep(0)
    assert "first" in capsys.readouterr().err
    # Until the pause behind the first one is over.
    logging.getLogger("moorline.gateway").info("waits")
    await asyncio.to_thread(logging.getLogger("moorline.gateway").info, "committed")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["waits", "committed"]


async def test_the_lines_that_wait_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    for number in range(100):
        logging.getLogger("moorline.gateway").info("line %d", number)
    assert capsys.readouterr().err.count("\n") == 64


def test_lines_that_a_loop_left_behind_are_written_by_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.call_soon(logging.getLogger("moorline.gateway").info, "left")
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    logging.shutdown()
    assert capsys.readouterr().err.count("left") == 2


def test_a_line_behind_the_end_of_a_loop_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    loop = asyncio.new_event_loop()
    loop.call_soon(logging.getLogger("moorline.gateway").info, "left")
    loop.call_soon(loop.stop)
    loop.run_forever()
    logging.getLogger("moorline.gateway").info("ended")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["left", "ended"]
    loop.close()


def test_an_id_is_the_same_word_everywhere_under_one_key_and_another_under_another() -> None:
    setup(Settings(log_key="k" * 100))
    first = hashed("patient:demo")
    setup(Settings(log_key="other"))
    second = hashed("patient:demo")
    setup(Settings(log_key="k" * 100))
    assert hashed("patient:demo") == first != second
    setup(Settings(log_key="k" * 100 + "2"))
    assert hashed("patient:demo") != first
    assert "demo" not in first


def test_what_a_client_offers_as_subprotocols_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings())
    logging.getLogger("aiohttp.websocket").warning("Client protocols %r don't overlap", ["bearer.SECRET"])
    assert capsys.readouterr().err == ""
