"""What only a file can do: be in use, full, foreign, newer, or left behind by a killed process."""

import asyncio
import contextlib
import errno
import functools
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moorline.backend.eventlog.base import Commit, ListCursor, LogUnavailable
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite import committer, read, write
from moorline.backend.eventlog.sqlite.committer import Transaction, run_batch
from moorline.backend.eventlog.sqlite.connection import connect
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog
from moorline.backend.eventlog.sqlite.journal import Journal
from moorline.backend.eventlog.sqlite.recent import Recent
from moorline.backend.eventlog.sqlite.schema import FIRST, VERSION
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from moorline.backend.events import Finish
from moorline.gateway.common.errors import UsageError
from tests.bench.growth_fill import fill
from tests.support.backends import STEP
from tests.support.eventlogs import NOW, database_at, handle_of, opened, read_view, start

WRITER = """
import asyncio, sys
from tests.support.eventlogs import handle_of, opened, start

async def main():
    async with opened(sys.argv[1]) as log:
        run = handle_of(await start(log, "s"))
        for number in range(1_000_000):
            await log.add_text(run, f"{number} ")
            print(number, flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def writer(database: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that writes an answer and prints what was acknowledged to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, database, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_all_that_was_acknowledged_survives_a_kill_during_an_answer(tmp_path: Path) -> None:
    database = database_at(tmp_path)
    async with writer(database) as process:
        assert process.stdout is not None
        for _ in range(50):
            await process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest, _ = await process.communicate()
    acknowledged = 50 + rest.count(b"\n")
    async with opened(database) as log:
        view = await read_view(log, "s")
    answer = view.rows[-1]
    assert answer.finish is Finish.INTERRUPTED
    assert view.run is None
    assert answer.content.startswith("".join(f"{number} " for number in range(acknowledged)))


async def test_a_second_process_on_the_same_file_gets_one_clear_line(tmp_path: Path) -> None:
    database = database_at(tmp_path)
    async with writer(database) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        with pytest.raises(
            UsageError, match=r'^database: ".*chat\.db" is in use by another process; stop it or choose'
        ):
            await open_log(database).open()


@pytest.mark.parametrize(("path", "words"), [("missing/chat.db", "cannot be written"), (".", "is not a file")])
async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        await open_log(f"sqlite:///{tmp_path / path}").open()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("Dear diary, " * 100, encoding="utf-8")
    with pytest.raises(UsageError, match="is not a database"):
        await open_log(database_at(tmp_path)).open()


async def test_a_file_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(UsageError, match="newer moorline"):
        await open_log(database_at(tmp_path)).open()


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        db.executescript(f"{FIRST}; PRAGMA user_version = 1")
        db.execute("INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES ('s', 'p', 'e', 1.0)")
        db.commit()
    async with opened(database_at(tmp_path)) as log:
        await log.add_text(handle_of(await start(log, "s")), "x", at=0)
        assert (await read_view(log, "s")).seq == 3


def test_a_page_of_a_patients_sessions_reads_no_other_row_and_sorts_none(tmp_path: Path) -> None:
    with contextlib.closing(connect(str(tmp_path / "chat.db"), ErasureLog(str(tmp_path / "chat.db")))) as db:
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        read.sessions(Transaction(db), "p", ListCursor(1.0, "s"), 50)
        db.set_trace_callback(None)
        plan = [row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]
    assert any("INDEX sessions_patient (patient_id=? AND (touched_at,session_id)<" in step for step in plan), plan
    assert not any("TEMP" in step for step in plan), plan


def steps_of_parts(folder: Path, turns: int) -> list[int]:
    """How many instructions of SQLite's each transaction of an erasure takes that fails behind each part."""
    path = str(folder / f"{turns}.db")
    erasures = ErasureLog(path)
    connect(path, erasures).close()
    fill(f"sqlite:///{path}", prefix="s", sessions=1, turns=turns)
    steps = [0]

    def step() -> None:
        steps[-1] += 1

    with contextlib.closing(connect(path, erasures)) as db:
        db.set_progress_handler(step, 1)
        while (erased := write.delete_session(Transaction(db), "s0", None, erasures)) is None:
            steps.append(0)
            write.thin_out(Transaction(db), "s0", None, 1)
            steps.append(0)
        db.set_progress_handler(None, 1)
        assert erased
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    return steps


def test_a_part_of_a_longer_session_takes_no_more_to_erase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ERASED_AT_ONCE", 60)
    short, long = steps_of_parts(tmp_path, turns=60), steps_of_parts(tmp_path, turns=600)
    assert len(long) > 8 * len(short)
    # Some rows are passed over once more, those of the newest part, whose random ids lie anywhere.
    assert max(long) < 2 * max(short)


async def test_the_commands_of_retries_are_erased_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ERASED_AT_ONCE", 4)
    async with opened(database_at(tmp_path)) as log:
        first = run = handle_of(await start(log, "s"))
        for number in range(12):
            await log.end_run(run, finish=Finish.ERROR, now=NOW)
            run = handle_of(await log.retry_run("s", run_id=first.run_id, client_msg_id=f"r{number}", now=NOW))
        await log.end_run(run, finish=Finish.ERROR, now=NOW)
        while await log._store.thin_out("s", None, 1) is not None:
            pass
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        assert db.execute("SELECT client_msg_id FROM commands").fetchall() == [("m1",)]


def test_only_sqlite_urls_are_taken() -> None:
    with pytest.raises(UsageError, match="is not a database"):
        open_log("mysql://x")
    assert isinstance(open_log("sqlite:///moorline.db")._store, SQLiteStore)


async def test_a_full_disk_loses_nothing_and_the_log_works_again_when_there_is_room(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "chat.db"))
    log = EventLog(store)
    await log.open()
    run = handle_of(await start(log, "s"))

    async def limit(pages: int) -> None:
        await store.committer.submit(lambda tx: tx.db.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    await limit(40)
    piece, written = "x" * 5000, 0
    with contextlib.suppress(LogUnavailable):
        while written < 1000:
            await log.add_text(run, piece)
            written += 1
    assert 0 < written < 1000
    # Reads in the same batch as a write that fails are answered.
    read, failed = await asyncio.gather(log.snapshot("s"), log.add_text(run, piece * 9), return_exceptions=True)
    assert not isinstance(read, BaseException)
    assert isinstance(failed, LogUnavailable)
    await limit(10_000)
    await log.end_run(run, finish=Finish.STOP, now=1.0, text="end")
    assert (await read_view(log, "s")).rows[-1].content == piece * written + "end"
    await log.close()


async def test_a_file_that_turns_read_only_refuses_what_is_new_and_shows_what_it_has(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "chat.db"))
    log = EventLog(store)
    await log.open()
    run = handle_of(await start(log, "s"))
    await log.add_text(run, "kept ", at=0)
    # What SQLite says on a file system that was mounted anew, read-only, after an error.
    await store.committer.submit(lambda tx: tx.db.execute("PRAGMA query_only = ON").fetchone())
    for attempt in (log.add_text(run, "new", at=5), start(log, "t"), log.delete_session("s")):
        with pytest.raises(LogUnavailable, match="readonly"):
            await attempt
    assert (await read_view(log, "s")).run is not None
    await store.committer.submit(lambda tx: tx.db.execute("PRAGMA query_only = OFF").fetchone())
    await log.end_run(run, finish=Finish.STOP, now=1.0, text="new", at=5)
    assert (await read_view(log, "s")).rows[-1].content == "kept new"
    await log.close()


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """Root may write everywhere, so not as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in `folder` may be written."""
    files = list(folder.iterdir())
    for path in files:
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        with powerless():
            yield
    finally:
        folder.chmod(0o755)
        for path in files:
            path.chmod(0o600)


async def test_a_file_that_may_only_be_read_is_one_line_and_left_alone() -> None:
    # pytest's folders are closed to others than root.
    with tempfile.TemporaryDirectory() as folder:
        database = database_at(Path(folder))
        async with opened(database) as log:
            await start(log, "s")
        with read_only(Path(folder)), pytest.raises(UsageError, match="cannot be locked for writing; check its perm"):
            await open_log(database).open()
        async with opened(database) as log:
            assert (await read_view(log, "s")).rows[-1].finish is Finish.INTERRUPTED


# Permissions ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lax_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user may create files; pytest's folders are closed to others than root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("who", [contextlib.nullcontext, powerless], ids=["as the user of the tests", "not as root"])
async def test_the_files_are_private_from_the_first_byte_whatever_the_umask(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, who: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    at_first: list[dict[str, int]] = []
    connect = sqlite3.connect

    def noted(*args: Any, **options: Any) -> sqlite3.Connection:
        at_first.append(modes(open_folder))
        connection: sqlite3.Connection = connect(*args, **options)
        return connection

    monkeypatch.setattr(sqlite3, "connect", noted)
    with lax_umask(), who():
        async with opened(database_at(open_folder)) as log:
            await start(log, "s")
            assert modes(open_folder) == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-control": 0o600}
    assert at_first == [{"chat.db": 0o600}]


async def test_files_that_other_users_can_read_are_taken_from_them_with_one_line(
    open_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database_at(open_folder)) as log:
        await start(log, "s")
        # As a killed process of an earlier version has left them.
        for name in ("chat.db", "chat.db-wal"):
            shutil.copy(open_folder / name, open_folder / f"old{name[4:]}")
            (open_folder / f"old{name[4:]}").chmod(0o644)
    (open_folder / "link.db").symlink_to(open_folder / "old.db")
    async with opened(f"sqlite:///{open_folder}/link.db") as log:
        await start(log, "t")
        assert set(modes(open_folder).values()) == {0o600}
    assert caplog.text.count("could be read by other users; its permissions are 600 now") == 2


@pytest.mark.parametrize(("mode", "warnings"), [(0o777, 1), (0o1777, 0), (0o755, 0)], ids=["open", "sticky", "usual"])
async def test_a_folder_in_which_all_users_may_replace_the_file_is_said(
    open_folder: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    os.chmod(open_folder, mode)
    async with opened(database_at(open_folder)):
        pass
    assert caplog.text.count(f'all users can write to its folder "{open_folder}"') == warnings


@pytest.mark.skipif(os.geteuid() != 0, reason="the file of another user needs root")
async def test_a_file_of_another_user_that_others_can_read_is_refused(open_folder: Path) -> None:
    async with opened(database_at(open_folder)) as log:
        await start(log, "s")
    (open_folder / "chat.db").chmod(0o666)
    with powerless(), pytest.raises(UsageError, match=r"can be read by other users and belongs to another one .*chmod"):
        await open_log(database_at(open_folder)).open()


async def test_the_file_of_another_program_keeps_its_permissions(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        db.executescript("CREATE TABLE theirs (x)")
    (tmp_path / "chat.db").chmod(0o644)
    with pytest.raises(UsageError, match="belongs to another program"):
        await open_log(database_at(tmp_path)).open()
    assert modes(tmp_path) == {"chat.db": 0o644}


# Batches --------------------------------------------------------------------------------------------------------------


def insert_session(tx: Transaction, session_id: str) -> int:
    return tx.db.execute(
        "INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES (?, 'p', 'e', 0)", (session_id,)
    ).rowcount


def test_a_command_that_fails_undoes_no_other(tmp_path: Path) -> None:
    db = connect(str(tmp_path / "chat.db"), ErasureLog(str(tmp_path / "chat.db")))
    outcomes, _ = run_batch(
        db, [functools.partial(insert_session, session_id=name) for name in ("a", "a", "b")], Recent()
    )
    assert [value for value, _ in outcomes] == [1, None, 1]
    assert isinstance(outcomes[1][1], LogUnavailable)
    assert db.execute("SELECT count(*) FROM sessions").fetchone() == (2,)
    db.close()


def roll_back_and_fail(tx: Transaction) -> None:
    """As SQLite does by itself on some errors, a full disk among them."""
    tx.db.execute("ROLLBACK")
    raise sqlite3.OperationalError("disk full")


def test_a_command_that_undoes_the_whole_batch_fails_alone(tmp_path: Path) -> None:
    db = connect(str(tmp_path / "chat.db"), ErasureLog(str(tmp_path / "chat.db")))
    outcomes, _ = run_batch(db, [functools.partial(insert_session, session_id="a"), roll_back_and_fail], Recent())
    assert [value for value, _ in outcomes] == [1, None]
    assert isinstance(outcomes[1][1], LogUnavailable)
    assert not db.in_transaction
    assert db.execute("SELECT session_id FROM sessions").fetchall() == [("a",)]
    db.close()


def test_readers_are_not_told_of_what_a_failed_command_has_written(tmp_path: Path) -> None:
    def write(tx: Transaction, session_id: str, *, fail: bool) -> None:
        tx.commits.append(Commit(session_id, "e", None))
        if fail:
            raise ValueError(session_id)

    db = connect(str(tmp_path / "chat.db"), ErasureLog(str(tmp_path / "chat.db")))
    commands = [functools.partial(write, session_id=name, fail=name == "b") for name in "abc"]
    _, commits = run_batch(db, commands, Recent())
    assert [commit.session_id for commit in commits] == ["a", "c"]
    db.close()


async def test_commands_beyond_the_bound_of_the_queue_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "MAX_QUEUED", 2)
    store = SQLiteStore(str(tmp_path / "chat.db"))
    log = EventLog(store)
    await log.open()
    going_on = threading.Event()
    queued = [store.committer.submit(lambda tx: going_on.wait(STEP)), store.committer.submit(lambda tx: True)]
    with pytest.raises(LogUnavailable, match="too many"):
        await log.check()
    going_on.set()
    assert await asyncio.gather(*queued) == [True, True]
    await log.check()
    await log.close()


# Durability and privacy -----------------------------------------------------------------------------------------------


def test_what_is_acknowledged_is_flushed_and_what_is_erased_is_overwritten(tmp_path: Path) -> None:
    db = connect(str(tmp_path / "chat.db"), ErasureLog(str(tmp_path / "chat.db")))
    found = {
        name: db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "secure_delete", "journal_mode", "locking_mode")
    }
    assert found == {"synchronous": 2, "secure_delete": 1, "journal_mode": "wal", "locking_mode": "exclusive"}
    db.close()


async def test_an_erasure_and_nothing_else_empties_the_write_ahead_file(tmp_path: Path) -> None:
    journal = tmp_path / "chat.db-wal"
    async with opened(database_at(tmp_path)) as log:
        await start(log, "s", content="secret")
        assert b"secret" in journal.read_bytes()
        await log.delete_session("s")
        assert journal.stat().st_size == 0
        assert b"secret" not in (tmp_path / "chat.db").read_bytes()


async def test_the_write_ahead_file_is_lengthened_by_zeros_which_a_crash_leaves_unread(tmp_path: Path) -> None:
    journal, crashed = tmp_path / "chat.db-wal", tmp_path / "crashed"
    crashed.mkdir()
    async with opened(database_at(tmp_path)) as log:
        run = handle_of(await start(log, "s"))
        said = 0
        # Some steps are left out, where the next commit waits already. SQLite begins the file anew after 1,000 frames.
        while not journal.read_bytes().endswith(bytes(1 << 20)) and said < 300:
            await log.add_text(run, "x")
            said += 1
        assert said < 300
        shutil.copy(tmp_path / "chat.db", crashed)
        shutil.copy(journal, crashed)
    async with opened(database_at(crashed)) as log:
        assert (await read_view(log, "s")).rows[-1].content == "x" * said


async def test_a_write_ahead_file_that_cannot_be_lengthened_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("moorline.backend.eventlog.sqlite.journal._COMMITS_BEFORE", 0)
    (tmp_path / "chat.db-wal").write_bytes(b"frames")
    journal = Journal(str(tmp_path / "chat.db"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        journal.lengthen()
    journal.lengthen()
    assert (tmp_path / "chat.db-wal").read_bytes() == b"frames"


async def test_a_text_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        run = handle_of(await start(log, "s"))
        bad, good = await asyncio.gather(
            log.add_text(run, "half a pair: \ud83d"), log.add_text(run, "fine"), return_exceptions=True
        )
        assert isinstance(bad, UnicodeEncodeError)
        assert good == 3
