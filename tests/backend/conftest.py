"""The stores on which a chat behaves alike."""

from pathlib import Path

import pytest

from tests.support import needs
from tests.support.eventlogs import database_at


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return database_at(tmp_path)
    url: str = request.getfixturevalue("postgres_database")
    return url
