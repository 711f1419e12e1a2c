"""`moorline backup` and `moorline restore`: whole copies under load, and what was erased since stays erased."""

import asyncio
import contextlib
import errno
import os
import re
import resource
import socket
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO
from unittest.mock import AsyncMock

import pytest

from moorline.backend.backup import backup, restore
from moorline.backend.eventlog.base import LogUnavailable, Ticket
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite import control
from moorline.backend.eventlog.sqlite.committer import Committer
from moorline.backend.eventlog.sqlite.connection import connect
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog
from moorline.backend.eventlog.sqlite.journal import Journal
from moorline.backend.eventlog.sqlite.schema import VERSION
from moorline.gateway.common.errors import UsageError
from tests.support import needs
from tests.support.eventlogs import NOW, database_at, exchange, handle_of, opened, read_view, start
from tests.support.full_disk import largest_file
from tests.support.needs import program
from tests.support.postgres import PostgresServer
from tests.support.process import run_program, started

TICKET = Ticket("p", None, "dr.who", "{}", None, NOW)
Command = Callable[[str, list[str]], int]


async def saved(folder: Path, name: str = "copy.db") -> Path:
    """A backup of the database in `folder`, in a thread as if by another process."""
    file = folder / name
    assert await asyncio.to_thread(backup, database_at(folder), [str(file)]) == 0
    return file


async def restored(folder: Path, file: Path) -> None:
    """The database in `folder` as the backup has it; the erasure log stays."""
    for name in ("chat.db", "chat.db-wal"):
        (folder / name).unlink(missing_ok=True)
    assert await asyncio.to_thread(restore, database_at(folder), [str(file)]) == 0


async def sessions(folder: Path, *names: str) -> list[str]:
    """Which of these sessions the database in `folder` has."""
    async with opened(database_at(folder)) as log:
        return [name for name in names if await log.find_session(name) is not None]


@contextlib.asynccontextmanager
async def writing(log: EventLog) -> AsyncIterator[list[str]]:
    """An answer that grows meanwhile; yields the pieces that were acknowledged."""
    run = handle_of(await start(log, "growing"))
    pieces: list[str] = []

    async def write() -> None:
        while True:
            piece = f"{len(pieces)} "
            await log.add_text(run, piece)
            pieces.append(piece)

    task = asyncio.create_task(write())
    try:
        yield pieces
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Backups --------------------------------------------------------------------------------------------------------------


async def test_a_backup_while_an_answer_is_written_has_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for number in range(5):
            await exchange(log, f"s{number}")
        async with writing(log) as pieces:
            while len(pieces) < 10:
                await log.read_after("growing", 0, limit=1)
            before = "".join(pieces)
            file = await saved(tmp_path)
    await restored(tmp_path, file)
    async with opened(database_at(tmp_path)) as log:
        view = await read_view(log, "growing")
        assert view.rows[-1].content.startswith(before)
        assert await log.find_session("s4") is not None


@contextlib.asynccontextmanager
async def committing(folder: Path) -> AsyncIterator[Committer]:
    """The thread that writes to a database in `folder`."""
    path = str(folder / "chat.db")
    committer = Committer(lambda: connect(path, ErasureLog(path)), lambda commits: None, Journal(path))
    await committer.start()
    try:
        yield committer
    finally:
        await committer.stop()


async def test_commands_are_committed_between_the_steps_of_a_copy(tmp_path: Path) -> None:
    async with committing(tmp_path) as committer:
        enough = threading.Event()

        def work(db: sqlite3.Connection, between: Callable[[], None]) -> str:
            while not enough.is_set():
                between()
            return "done"

        steps = committer.submit_steps(work)
        for _ in range(3):
            await committer.submit(lambda tx: None)
        enough.set()
        assert await steps == "done"


async def test_a_copy_ends_with_the_thread_that_makes_it(tmp_path: Path) -> None:
    def work(db: sqlite3.Connection, between: Callable[[], None]) -> None:
        while True:
            between()

    async with committing(tmp_path) as committer:
        steps = committer.submit_steps(work)
    with pytest.raises(LogUnavailable, match="the log is closed"):
        await steps


async def test_a_client_is_told_that_the_server_ends(tmp_path: Path) -> None:
    copying = asyncio.Event()

    async def never() -> BinaryIO:
        copying.set()
        await asyncio.Event().wait()
        raise AssertionError

    (tmp_path / "chat.db").touch()
    server = control.ControlSocket(str(tmp_path / "chat.db"), never, AsyncMock())
    server.open()
    asking = asyncio.create_task(asyncio.to_thread(control.request_copy, str(tmp_path / "chat.db")))
    await copying.wait()
    await server.close()
    with pytest.raises(control.ControlRefused, match="the backend ended"):
        await asking


async def test_a_backup_is_private_whatever_the_umask(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        before = os.umask(0)
        try:
            file = await saved(tmp_path)
        finally:
            os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_nothing_is_left_beside_a_backup(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        await saved(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["chat.db", "copy.db"]


async def test_a_stopped_database_is_copied_without_a_server(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
    await restored(tmp_path, await saved(tmp_path))
    assert await sessions(tmp_path, "s") == ["s"]


async def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine", encoding="utf-8")
    async with opened(database_at(tmp_path)):
        with pytest.raises(UsageError, match=r'backup: ".*copy\.db" exists; name a new file'):
            await saved(tmp_path)
    assert (tmp_path / "copy.db").read_text(encoding="utf-8") == "mine"


async def test_a_file_system_without_links_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    async with opened(database_at(tmp_path)):
        await saved(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["chat.db", "copy.db"]


async def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; name the one that moorline uses"):
        await saved(tmp_path)
    assert os.listdir(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)):
        with pytest.raises(UsageError, match=r"cannot be written \(No such file or directory\)"):
            await saved(tmp_path, "missing/copy.db")


async def test_a_database_whose_path_is_too_long_for_a_sockets_name_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    async with opened(database_at(folder)) as log:
        await exchange(log, "s")
        assert (await saved(folder)).exists()


async def test_what_a_killed_process_left_of_a_copy_is_removed(tmp_path: Path) -> None:
    (tmp_path / "chat.db-backup-x1y2").write_text("half", encoding="utf-8")
    async with opened(database_at(tmp_path)):
        assert not (tmp_path / "chat.db-backup-x1y2").exists()


async def test_a_server_without_free_descriptors_accepts_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_ACCEPT_AGAIN_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)  # with TMPDIR the path may be too long for a socket's
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        used: list[int] = []
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        asking = socket.socket(socket.AF_UNIX)
        resource.setrlimit(resource.RLIMIT_NOFILE, (asking.fileno() + 1, limits[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    used.append(os.dup(asking.fileno()))
            asking.connect("chat.db-control")
            await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in used:
                os.close(number)
            asking.close()
        assert (await saved(tmp_path)).exists()


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_SILENCE_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.db").touch()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("chat.db-control")
        silent.listen()
        with pytest.raises(UsageError, match="the backend did not answer for"):
            await saved(tmp_path)


async def test_a_client_that_asks_for_something_else_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with opened(database_at(tmp_path)):
        reader, writer = await asyncio.open_unix_connection("chat.db-control")
        writer.write(b"restore\n")
        assert await reader.read() == b"-the backend is of another version"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (backup, "pg_dump --format=custom --schema=moorline --file='f' 'postgresql://host/chats'"),
        (restore, "pg_restore --clean --if-exists --exit-on-error --dbname='postgresql://host/chats' 'f'"),
    ],
)
def test_for_postgresql_the_command_to_run_is_named(command: Command, line: str) -> None:
    with pytest.raises(UsageError, match=re.escape(line)) as refused:
        command("postgresql://me:secret@host/chats", ["f"])
    assert "secret" not in str(refused.value)


async def test_the_commands_save_a_running_backend_and_restore_it(tmp_path: Path) -> None:
    async with started("moorline", "backend", "--port", "0", cwd=tmp_path) as program:
        await program.line("database")
        status, out, _ = await run_program("moorline", "backup", "copy.db", cwd=tmp_path)
        assert (status, out) == (0, "copy.db: 0.1 MB, 0 sessions\n")
        status, _, err = await run_program("moorline", "restore", "copy.db", cwd=tmp_path)
        assert status == 2
        assert err == ('moorline: restore: "moorline.db" exists; stop moorline and move it away, then run this again\n')
        assert await program.stop() == 0
    (tmp_path / "moorline.db").unlink()
    status, out, _ = await run_program("moorline", "restore", "copy.db", cwd=tmp_path)
    assert (status, out) == (0, "moorline.db: 0 sessions, and 0 erased again\n")


# Restoring ------------------------------------------------------------------------------------------------------------


async def test_what_was_erased_after_a_backup_is_erased_from_what_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database_at(tmp_path)) as log:
        for name in ("erased before", "erased", "kept"):
            await exchange(log, name)
        assert await log.delete_session("erased before")
        file = await saved(tmp_path)
        assert await log.delete_session("erased")
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "erased before", "erased", "kept") == ["kept"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    assert b"erased" not in (tmp_path / "chat.db").read_bytes()


async def test_it_is_erased_also_where_the_file_was_put_back_by_hand(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "erased")
        await exchange(log, "kept")
    (tmp_path / "by-hand").write_bytes((tmp_path / "chat.db").read_bytes())
    async with opened(database_at(tmp_path)) as log:
        assert await log.delete_session("erased")
    (tmp_path / "by-hand").replace(tmp_path / "chat.db")
    assert await sessions(tmp_path, "erased", "kept") == ["kept"]


async def test_what_retention_erased_stays_erased(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for name in ("a", "b", "c"):
            await exchange(log, name, at=1.0)
        file = await saved(tmp_path)
        assert sorted(await log.expire(2.0)) == ["a", "b", "c"]
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "a", "b", "c") == []


async def test_a_chat_that_began_under_an_erased_id_is_kept(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        old = await saved(tmp_path, "old.db")
        await log.delete_session("s")
        await exchange(log, "s")
        new = await saved(tmp_path, "new.db")
    await restored(tmp_path, new)
    assert await sessions(tmp_path, "s") == ["s"]
    await restored(tmp_path, old)
    assert await sessions(tmp_path, "s") == []


async def test_an_erasure_holds_for_every_later_restore(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        file = await saved(tmp_path)
    await restored(tmp_path, file)
    async with opened(database_at(tmp_path)) as log:
        # Its epoch is another one by now.
        await log.delete_session("s")
    await restored(tmp_path, file)
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "s") == []


async def test_a_reader_does_not_go_on_behind_what_was_lost(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        file = await saved(tmp_path)
        old = await log.session_for("s", "patient:demo")
        begun = await log.session_for("new", "patient:demo")
        identity = log.identity
    await restored(tmp_path, file)
    async with opened(database_at(tmp_path)) as log:
        assert log.identity != identity
        assert (await log.session_for("s", "patient:demo")).head.epoch != old.head.epoch
        # One that began after the backup, and whose id is used again.
        assert (await log.session_for("new", "patient:demo")).head.epoch != begun.head.epoch


async def test_a_ticket_that_was_redeemed_since_is_not_valid_again(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await log.add_ticket("digest", TICKET, lifetime=30)
        file = await saved(tmp_path)
        assert await log.take_ticket("digest")
    await restored(tmp_path, file)
    async with opened(database_at(tmp_path)) as log:
        assert await log.find_ticket("digest") is None


async def test_an_ordinary_start_keeps_the_epochs(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        await exchange(log, "erased")
        await log.delete_session("erased")
        old = await log.session_for("s", "patient:demo")
    async with opened(database_at(tmp_path)) as log:
        assert await log.session_for("s", "patient:demo") == old


async def test_a_start_after_the_first_one_behind_a_restore_keeps_the_epochs(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        await exchange(log, "erased")
        file = await saved(tmp_path)
        await log.delete_session("erased")
    await restored(tmp_path, file)
    async with opened(database_at(tmp_path)) as log:
        old = await log.session_for("s", "patient:demo")
    async with opened(database_at(tmp_path)) as log:
        assert await log.session_for("s", "patient:demo") == old


async def test_a_restore_without_an_erasure_log_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        file = await saved(tmp_path)
    assert restore(f"sqlite:///{tmp_path / 'elsewhere.db'}", [str(file)]) == 0
    assert f"{tmp_path / 'elsewhere.db'}-erased: there was no erasure log; " in capsys.readouterr().err


async def test_a_restore_writes_where_a_link_leads_and_finds_the_erasure_log_there(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "chat.db").symlink_to(tmp_path / "disk" / "real.db")
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        await exchange(log, "erased")
        file = await saved(tmp_path)
        await log.delete_session("erased")
    with pytest.raises(UsageError, match=r'disk/real\.db" exists; stop moorline and move it away'):
        restore(database_at(tmp_path), [str(file)])
    for name in ("real.db", "real.db-wal"):
        (tmp_path / "disk" / name).unlink(missing_ok=True)
    assert restore(database_at(tmp_path), [str(file)]) == 0
    assert await sessions(tmp_path, "s", "erased") == ["s"]


async def test_a_restore_is_refused_where_the_erasure_log_of_the_backups_time_is_missing(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        await exchange(log, "erased")
        await log.delete_session("erased")
        file = await saved(tmp_path)
    with pytest.raises(UsageError, match=r'erasure log: ".*elsewhere\.db-erased" is missing'):
        restore(f"sqlite:///{tmp_path / 'elsewhere.db'}", [str(file)])
    assert not [name for name in os.listdir(tmp_path) if name.startswith("elsewhere")]
    (tmp_path / "elsewhere.db-erased").touch()
    assert restore(f"sqlite:///{tmp_path / 'elsewhere.db'}", [str(file)]) == 0


@pytest.mark.parametrize("name", ["chat.db", "chat.db-wal"])
async def test_a_restore_overwrites_neither_a_database_nor_its_journal(tmp_path: Path, name: str) -> None:
    async with opened(database_at(tmp_path)):
        file = await saved(tmp_path)
    (tmp_path / "chat.db").unlink()
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match="exists; stop moorline and move it away"):
        restore(database_at(tmp_path), [str(file)])


async def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for number in range(20):
            await exchange(log, f"s{number}")
        file = await saved(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"is damaged|cannot be read as a database"):
        restore(f"sqlite:///{tmp_path / 'new.db'}", [str(file)])
    assert not (tmp_path / "new.db").exists()


async def test_a_backup_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)):
        file = await saved(tmp_path)
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(UsageError, match="is no backup that this version of moorline can read"):
        restore(f"sqlite:///{tmp_path / 'new.db'}", [str(file)])


# The erasure log ------------------------------------------------------------------------------------------------------


def test_the_erasure_log_numbers_its_lines_and_tells_those_behind_a_number(tmp_path: Path) -> None:
    keys = ["a" * 32, "b" * 32, "c" * 32]
    erasures = ErasureLog(str(tmp_path / "chat.db"))
    assert erasures.append(keys[:2]) == 2
    assert erasures.append(keys[2:]) == 3
    assert [line.split()[0] for line in erasures.path.read_text(encoding="ascii").splitlines()] == ["1", "2", "3"]
    assert [list(erasures.after(number)) for number in range(4)] == [keys, keys[1:], keys[2:], []]


def test_a_line_of_the_erasure_log_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[int]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    erasures = ErasureLog(str(tmp_path / "chat.db"))
    erasures.append(["a" * 32])
    file, folder = erasures.path.stat().st_ino, tmp_path.stat().st_ino
    assert synced == [file, folder]
    erasures.append(["b" * 32])
    assert synced == [file, folder, file]


async def test_the_erasure_log_names_no_patient_and_is_private(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "session-7", patient_id="patient-Xy")
        await log.delete_session("session-7")
    path = tmp_path / "chat.db-erased"
    text = path.read_text(encoding="ascii")
    assert text.startswith("1 20")
    assert not any(word in text for word in ("session", "7 ", "patient", "Xy"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_nothing_is_erased_where_that_cannot_be_logged(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "s")
        (tmp_path / "chat.db-erased").mkdir()
        with pytest.raises(LogUnavailable, match="the erasure log cannot be written"):
            await log.delete_session("s")
        assert await log.find_session("s") is not None


async def test_half_a_line_that_a_full_disk_took_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for name in ("a", "b"):
            await exchange(log, name)
        file = await saved(tmp_path)
        await log.delete_session("a")
        size = (tmp_path / "chat.db-erased").stat().st_size
        with largest_file(size + 20), pytest.raises(LogUnavailable, match="the erasure log cannot be written"):
            await log.delete_session("b")
        await log.delete_session("b")
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "a", "b") == []


async def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for name in ("a", "b"):
            await exchange(log, name)
        await log.delete_session("a")
        file = await saved(tmp_path)
    with (tmp_path / "chat.db-erased").open("a", encoding="ascii") as erased:
        erased.write("2 2026-01-31T12:0")
    async with opened(database_at(tmp_path)) as log:
        await log.delete_session("b")
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "a", "b") == []


async def test_an_erasure_log_that_was_lost_is_a_warning_and_the_next_one_goes_on_with_its_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db-erased"
    async with opened(database_at(tmp_path)) as log:
        for name in ("a", "b", "c"):
            await exchange(log, name)
        await log.delete_session("a")
    path.unlink()
    async with opened(database_at(tmp_path)) as log:
        assert "ends at 0, and the database has carried out 1" in caplog.text
        file = await saved(tmp_path)
        await log.delete_session("b")
    assert path.read_text(encoding="ascii").startswith("2 ")
    await restored(tmp_path, file)
    assert await sessions(tmp_path, "a", "b", "c") == ["c"]


async def test_a_file_that_is_no_erasure_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "chat.db-erased").write_text("Dear diary\n", encoding="ascii")
    with pytest.raises(UsageError, match=r'^erasure log: ".*" has a line that is not'):
        async with opened(database_at(tmp_path)):
            pass


# PostgreSQL -----------------------------------------------------------------------------------------------------------


async def postgres(tool: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs, as the commands name it."""
    process = await asyncio.create_subprocess_exec(program(tool), *arguments, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


async def dumped(database: str, folder: Path, schema: str = "moorline") -> str:
    file = str(folder / f"{schema}.dump")
    await postgres("pg_dump", "--format=custom", f"--schema={schema}", f"--file={file}", database)
    return file


async def undumped(database: str, file: str) -> None:
    await postgres("pg_restore", "--clean", "--if-exists", "--exit-on-error", f"--dbname={database}", file)


@needs.postgres
async def test_what_postgresql_restores_lacks_what_was_erased_since(tmp_path: Path, postgres_database: str) -> None:
    async with opened(postgres_database) as log:
        for name in ("erased", "expired", "kept"):
            await exchange(log, name, at=1.0 if name == "expired" else NOW)
        file = await dumped(postgres_database, tmp_path)
        old = await log.session_for("kept", "patient:demo")
        await log.delete_session("erased")
        await log.expire(2.0)
        identity = log.identity
    await undumped(postgres_database, file)
    async with opened(postgres_database) as log:
        assert log.identity != identity
        assert [await log.find_session(name) for name in ("erased", "expired")] == [None, None]
        new = await log.session_for("kept", "patient:demo")
        assert (new.head.seq, new.head.epoch == old.head.epoch) == (old.head.seq, False)
    async with opened(postgres_database) as log:
        assert await log.session_for("kept", "patient:demo") == new


@needs.postgres
async def test_another_server_gets_the_erasures_by_a_dump_of_their_own(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with opened(postgres_database) as log:
        await exchange(log, "erased")
        await exchange(log, "kept")
        chats = await dumped(postgres_database, tmp_path)
        await log.delete_session("erased")
        erasures = await dumped(postgres_database, tmp_path, "moorline_erasures")
    elsewhere = postgres_server.new_database()
    await undumped(elsewhere, chats)
    await undumped(elsewhere, erasures)
    async with opened(elsewhere) as log:
        assert await log.find_session("erased") is None
        assert await log.find_session("kept") is not None
    postgres_server.drop_database(elsewhere)


@needs.postgres
async def test_another_server_without_the_erasures_is_a_warning(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(postgres_database) as log:
        await exchange(log, "kept")
        chats = await dumped(postgres_database, tmp_path)
    assert "moorline_erasures" not in caplog.text
    elsewhere = postgres_server.new_database()
    await undumped(elsewhere, chats)
    async with opened(elsewhere) as log:
        assert await log.find_session("kept") is not None
    assert caplog.text.count("restored without the schema moorline_erasures") == 1
    postgres_server.drop_database(elsewhere)
