"""What tests of all parts share: one PostgreSQL server, started by the first test that needs it."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """For tests with the mark `needs.postgres`."""
    with running_postgres(tmp_path_factory.mktemp("postgres") / "log") as server:
        yield server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> str:
    """The address of an empty database."""
    return postgres_server.empty_database()
