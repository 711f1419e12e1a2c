"""The start block on a stream that does not take it."""

import asyncio
import os
import sys

import pytest

from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.start import print_start

FACTS = {"page": "http://localhost:4321"}


async def test_a_reader_that_does_not_read_holds_up_the_start_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as stream:
        filled = os.write(writer, bytes(1 << 20))
        os.set_blocking(writer, True)
        monkeypatch.setattr(sys, "stdout", stream)
        printing = asyncio.create_task(print_start(CommonSettings(), FACTS))
        await asyncio.sleep(0)
        assert not printing.done()
        pipe.read(filled)
        await printing
        assert b"page  http://localhost:4321" in os.read(reader, 1 << 16)


def test_a_full_disk_ends_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        asyncio.run(print_start(CommonSettings(), FACTS))
