"""What tests of all parts share: how they run, and one PostgreSQL server, started by the first test that needs it."""

import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moorline.gateway.common.web.idle import raise_limit
from tests.support.postgres import PostgresServer, running_postgres

pytest_plugins = ["tests.support.time_limit", "moorline.testing"]


def pytest_configure() -> None:
    # Programs inherit which signals are ignored, but no handlers. `nohup`, many CI runners and `&` in scripts ignore
    # some.
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    # As every program of moorline begins: with a shell's 1,024 descriptors servers in this process would warn of it.
    raise_limit()


def pytest_collection_finish() -> None:
    # What was collected stays. Each search for cycles through it held the event loop of a test up for a second of CPU,
    # five on a busy machine: peers had given it up by then.
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No further process where single files are asked for: they would run before it has started. Otherwise one for
    each core: half as many again save a tenth of the time, and have tests of timers and restarts meet limits that a
    busy machine exceeds.
    """
    single = all(Path(argument.partition("::")[0]).is_file() for argument in config.args)
    return 0 if single else os.cpu_count() or 1


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """For tests with the mark `needs.postgres`."""
    with running_postgres(tmp_path_factory.mktemp("postgres") / "log") as server:
        yield server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> str:
    """The address of an empty database."""
    return postgres_server.empty_database()


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Call it to have the time of day go on by so many seconds: the rights that end within them end at once. A right
    that lasts for part of a second may be over before a busy machine has come to what it is for.
    """
    clock = time.time
    monkeypatch.setattr("moorline.gateway.common.access.rights._LONGEST_SECONDS", 0.02)
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: clock() + seconds)


@pytest.fixture
def small_send_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to the servers of this process take 64 KiB that is not read, whatever this machine's buffers are."""
    listen = socket.socket.listen

    def listen_with_small_buffers(sock: socket.socket, *backlog: int) -> None:
        # Accepted sockets inherit it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        listen(sock, *backlog)

    monkeypatch.setattr(socket.socket, "listen", listen_with_small_buffers)
