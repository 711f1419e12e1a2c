"""The stores that must keep the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from moorline.backend.eventlog.base import EventLog

from tests.support import needs
from tests.support.eventlogs import database_at, opened


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return database_at(tmp_path)
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture
async def log(database: str) -> AsyncIterator[EventLog]:
    """An open log on an empty database."""
    async with opened(database) as log:
        yield log
