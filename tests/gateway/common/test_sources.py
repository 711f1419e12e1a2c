"""Sources that are watched for changes, and a system that cannot watch them for some time."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import watchfiles

from moorline.gateway.common import sources

log = logging.getLogger("moorline.test")


async def test_an_error_of_the_watch_is_logged_once_and_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter([OSError("OS file watch limit reached"), RuntimeError("and again"), None])

    async def awatch(*_: object, **__: object) -> AsyncIterator[set[tuple[watchfiles.Change, str]]]:
        if (error := next(errors)) is not None:
            raise error
        yield {(watchfiles.Change.modified, "chat.py")}

    monkeypatch.setattr(watchfiles, "awatch", awatch)
    monkeypatch.setattr(sources, "_RETRY_SECONDS", 0)
    assert [paths async for paths in sources.changed_sources(log, Path())] == [[Path("chat.py")]]
    assert [record.message for record in caplog.records] == [
        "changes of the sources are not seen: OS file watch limit reached; trying again every 0s"
    ]
