"""Lines to a reader that does not read, or to a disk that is full: nothing waits for them."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import pytest

from moorline.gateway.common import logs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.output import Output

LINES = [f"{number} {'x' * 200}\n" for number in range(10_000)]


def test_what_a_pipe_has_no_room_for_waits_and_the_rest_is_counted() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as stream:
        output = Output(stream)
        assert not output.write(LINES)
        assert 0 < output.dropped < len(LINES)
        kept, received = len(LINES) - output.dropped, b""
        while output.waits:
            received += os.read(pipe.fileno(), 1 << 16)
            output.write([])
        stream.close()
        received += pipe.read()
    assert received == "".join(LINES[:kept]).encode()


def test_a_full_disk_drops_and_counts() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        output = Output(stream)
        assert not output.write(LINES[:3])
        assert (output.dropped, output.waits) == (3, False)


def test_a_line_longer_than_a_pipes_unit_is_written_whole(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as stream:
        assert Output(stream).write(["é" * 5000 + "\n"])
        stream.close()
        assert pipe.read().decode() == "é" * 5000 + "\n"


async def test_the_log_says_how_many_lines_were_dropped_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        logs.setup(CommonSettings())
        log = logging.getLogger("moorline.gateway")
        for line in LINES:
            log.warning("%s", line)
        received = b""
        while b"lines of the log" not in received:
            received += await asyncio.to_thread(os.read, pipe.fileno(), 1 << 16)
        monkeypatch.undo()
        logs.setup(CommonSettings())
    assert received.count(b"\n") < len(LINES)
