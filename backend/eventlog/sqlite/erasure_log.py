"""The erasure log: a file beside the SQLite database that names what was erased, so that no backup brings it back.

A line is `NUMBER TIME KEY`. The key is a hash of the id of the session's first message: that is random, stays with the
session through every copy, and another one when the session's id is used again, so the line tells nothing about a
patient and never means a later chat. The line is on disk before the erasure is committed, and so before it is answered.

The database holds the number of the last line that it has carried out; see `erasure.py`. Lines are only ever appended.
An operator may remove the first ones, once every older backup is deleted: numbers go on.
"""

import datetime
import hashlib
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

from moorline.backend.eventlog.base import LogUnavailable
from moorline.gateway.common.errors import UsageError

__all__ = ["ErasureLog", "erasure_key", "sync_folder"]

#: Permissions of the file: how many chats were erased, and when, is the owner's alone.
PRIVATE = 0o600
#: Characters of the hash: as many bits as the id has, all of them random.
_KEY_CHARACTERS = 32
#: Longer than any line; the end of the file is read, never all of it.
_TAIL_BYTES = 4096


def erasure_key(message_id: str) -> str:
    """What stands for the session whose first message has this id."""
    return hashlib.sha256(message_id.encode()).hexdigest()[:_KEY_CHARACTERS]


class ErasureLog:
    """The file beside the database at `database`. One process at a time appends: the one that has locked that."""

    def __init__(self, database: str) -> None:
        self.path = Path(f"{os.path.realpath(database)}-erased")
        self.last = 0
        """The number of the last line, or what `continue_after` said."""

    def open(self) -> None:
        """Find the last line.

        Raises:
            UsageError: the file cannot be read, or is not an erasure log.
        """
        try:
            with self.path.open("r+b", buffering=0) as file:
                whole = _whole_lines(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f'erasure log: "{self.path}" cannot be read ({error.strerror})') from error
        if whole:
            self.last = self._parse(whole.splitlines()[-1])[0]

    def continue_after(self, number: int) -> None:
        """Give the next line a number above `number`: the database has carried out lines that are not here any more."""
        self.last = max(self.last, number)

    def append(self, keys: Sequence[str]) -> int:
        """Write a line for each of `keys`, to the disk; returns the number of the last one.

        Raises:
            LogUnavailable: that failed. Some of the lines may be there: repeated ones do no harm.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        lines = "".join(f"{number} {now} {key}\n" for number, key in enumerate(keys, self.last + 1))
        try:
            begins = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            # Unbuffered: what a full disk has not taken must not follow when the file is closed.
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                _whole_lines(file)
                data = lines.encode()
                while data:
                    data = data[file.write(data) :]
                os.fsync(descriptor)
            if begins:
                sync_folder(self.path.parent)
        except OSError as error:
            raise LogUnavailable(f"the erasure log cannot be written ({error.strerror})") from error
        self.last += len(keys)
        return self.last

    def after(self, number: int) -> Iterator[str]:
        """The keys of the lines above `number`.

        Raises:
            UsageError: the file is not an erasure log.
        """
        try:
            with self.path.open("rb") as file:
                for line in file:
                    found, key = self._parse(line)
                    if found > number:
                        yield key
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f'erasure log: "{self.path}" cannot be read ({error.strerror})') from error

    def _parse(self, line: bytes) -> tuple[int, str]:
        fields = line.decode("ascii", "replace").split()
        if len(fields) != 3 or not fields[0].isdecimal() or len(fields[2]) != _KEY_CHARACTERS:
            raise UsageError(
                f'erasure log: "{self.path}" has a line that is not `NUMBER TIME KEY`; '
                "put the file back as moorline wrote it: without it, restored chats may include erased ones"
            )
        return int(fields[0]), fields[2]


def _whole_lines(file: FileIO) -> bytes:
    """The last whole lines of the file. What follows them was never acknowledged, and is cut off: a process was killed,
    or the disk was full, and the next line would not be one behind it."""
    start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
    file.seek(start)
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    if whole != tail:
        file.truncate(start + len(whole))
    return whole


def sync_folder(folder: Path) -> None:
    """Write the folder itself to disk: a new name in it would not survive a power failure otherwise."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
