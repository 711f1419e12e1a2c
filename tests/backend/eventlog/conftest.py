"""The stores that must keep the contract."""

from collections.abc import AsyncIterator

import pytest

from moorline.backend.eventlog.log import EventLog
from tests.support.eventlogs import opened


@pytest.fixture
async def log(database: str) -> AsyncIterator[EventLog]:
    """An open log on an empty database."""
    async with opened(database) as log:
        yield log
