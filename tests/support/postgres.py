"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, without flushes to disk."""

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support.needs import program
from tests.support.socket_folder import socket_folder

__all__ = ["PASSWORD", "PostgresServer", "Relay", "holds", "postgres", "relayed", "running_postgres"]

# Two busy cores; nothing waits for this long where it works.
PATIENCE = 60.0
#: Part of every address; the server accepts any password.
PASSWORD = "sesame-opens"


class PostgresServer:
    """A running server; `restart` and `kill` leave its address as it is."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._shared: str | None = None
        # PostgreSQL refuses to run as root.
        self._user = (
            "postgres" if os.geteuid() == 0 and _exists("postgres") else "nobody" if os.geteuid() == 0 else None
        )
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run(
            "initdb", "--no-sync", "--encoding=UTF8", "--no-locale", "--auth=trust", "--username=postgres",
            f"--pgdata={folder}/data",
        )  # fmt: skip

    @property
    def url(self) -> str:
        """The address of the database that is there from the start."""
        return self._url("postgres")

    @property
    def pid(self) -> int:
        """Of the process that all others of the server descend from."""
        assert self._process is not None
        return self._process.pid

    def new_database(self, encoding: str = "UTF8") -> str:
        """The address of an empty database."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}").format(sql.Identifier(name), encoding)
            )
        return self._url(name)

    def empty_database(self) -> str:
        """The address of a database that is empty until this is called again; making new ones takes long."""
        if self._shared is None:
            self._shared = self.new_database()
        with psycopg.connect(self._shared, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA IF EXISTS moorline, moorline_erasures CASCADE")
        return self._shared

    def drop_database(self, url: str) -> None:
        """Free the disk space of a database."""
        name = url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program("postgres"),
                    "-D",
                    f"{self.folder}/data",
                    *(f"-c{name}={value}" for name, value in settings.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                start_new_session=True,
            )
        # If the process that runs the tests is killed, the end of its pipe ends the server.
        end = f"read _; kill -QUIT {self._process.pid}"
        self._guard = subprocess.Popen(["sh", "-c", end], stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8")
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT closes all connections and shuts down in order, SIGQUIT is a crash."""
        if self._process is not None and self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    async def restart(self, number: int = signal.SIGQUIT) -> None:
        """As after a crash."""
        await asyncio.to_thread(self.stop, number)
        await asyncio.to_thread(self.start)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections and sends nothing."""
        self._signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        assert self._process is not None
        for child in _children(self._process.pid):
            os.kill(child, number)
        self._process.send_signal(number)

    def _url(self, name: str) -> str:
        return f"postgresql://postgres:{PASSWORD}@/{name}?host={str(self.folder).replace('/', '%2F')}"

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [program(name), *arguments],
            cwd=self.folder,
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def running_postgres(log: Path) -> Iterator[PostgresServer]:
    """A server; `log` is the file that gets what it prints."""
    # Not in a folder of pytest's: those are closed to the user that the server runs as.
    with socket_folder("postgres-") as folder:
        server = PostgresServer(Path(folder), log)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class Relay:
    """Relays connections to a server, and can lose a result: then it is unknown whether a statement was committed."""

    def __init__(self, url: str, socket: Path) -> None:
        self.url = url
        self._socket = socket
        self._open: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._losing: str | None = None
        self._then_refuse = False
        self._refusing = False
        self.lost = asyncio.Event()

    def lose_result_of(self, words: str, *, then_refuse: bool = False) -> None:
        """Abort the connection that next sends a statement with these words, once the server has answered.

        `then_refuse`: from then on connections are refused until `accept`.
        """
        self.lost.clear()
        self._losing = words
        self._then_refuse = then_refuse

    def refuse(self) -> None:
        """Abort all connections and refuse new ones."""
        self._refusing = True
        for writer in self._open:
            writer.transport.abort()

    def accept(self) -> None:
        """Accept connections again."""
        self._refusing = False

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(str(self._socket))
        losing = asyncio.Event()
        ways = {
            asyncio.create_task(self._requests(reader, back, losing)),
            asyncio.create_task(self._answers(there, writer, losing)),
        }
        self._open |= {writer, back}
        self._relays |= ways
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self._open -= {writer, back}
        writer.transport.abort()
        back.transport.abort()
        await asyncio.wait(ways)
        self._relays -= ways

    async def ended(self) -> None:
        """Return when nothing is relayed any more."""
        if self._relays:
            await asyncio.wait(self._relays)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self._losing is not None and self._losing.encode() in data:
                    self._losing = None
                    losing.set()
                writer.write(data)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if losing.is_set():
                    self.lost.set()
                    if self._then_refuse:
                        self.refuse()
                    return
                writer.write(data)


@contextlib.asynccontextmanager
async def relayed(server: PostgresServer, url: str) -> AsyncIterator[Relay]:
    """A relay before `server`; its `url` is that of the database at `url`."""
    with socket_folder("wire-") as folder:
        name = ".s.PGSQL.5432"
        there = Relay(url.partition("?")[0] + "?host=" + folder.replace("/", "%2F"), server.folder / name)
        relay = await asyncio.start_unix_server(there.relay, f"{folder}/{name}")
        try:
            yield there
        finally:
            relay.close()
            there.refuse()
            await there.ended()


@contextlib.asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[PostgresServer]:
    """As `running_postgres`, with its log in `folder`."""
    with running_postgres(folder / "postgres.log") as server:
        yield server


async def holds(url: str, query: str, *parameters: object) -> None:
    """Return once the result of `query` is true; for changes that no process announces."""
    async with asyncio.timeout(PATIENCE), await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        while await (await db.execute(query, parameters)).fetchone() != (True,):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def _children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    return [int(line) for line in found.stdout.split()]
