"""The audit log: principal, action, session and outcome of each access, one line each, without any chat text.

Every line goes to the logger `moorline.audit`, where a name is hashed as ids are: it may be the patient's. With the
option `audit_log` it goes as JSON to a file as well, where `who` stands as the authorize hook named them. The session
is hashed in both; with its id and `log_key` its lines are found.
"""

import contextlib
import datetime
import errno
import json
import logging
import os
import stat
from collections.abc import Iterator
from typing import Literal

from aiohttp import web

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import LogUnavailable
from moorline.gateway.common.access.principal_names import NO_PRINCIPAL
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.logs import hashed

__all__ = ["Access", "Audit"]

logger = logging.getLogger("moorline.audit")

_OTHERS = 0o007


class Access:
    """An access in progress. The handler sets what it learns; without a session or patient nothing was accessed."""

    __slots__ = ("hidden", "outcome", "patient_id", "session_id", "who")

    def __init__(
        self, session_id: str | None = None, who: str = NO_PRINCIPAL, *, patient_id: str | None = None
    ) -> None:
        self.session_id = session_id
        self.patient_id = patient_id
        """Of an access to all of a patient's sessions."""
        self.who = who
        self.outcome: str | None = "ok"
        """None: nothing was done and nothing was seen."""
        self.hidden = False
        """The session exists, but is refused: `forbidden`, although the request is answered as if it did not."""


class Audit:
    """Writes the lines. Between `open` and `close` also to the file, where one is named."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd: int | None = None
        # A full disk took a part of the last line.
        self._is_torn = False

    def open(self) -> None:
        """Open the file; UsageError where it cannot be written."""
        try:
            self._open()
        except OSError as error:
            raise UsageError(
                f'audit_log: "{self._path}" cannot be written ({error.strerror}); choose another, or off'
            ) from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def access(
        self,
        action: str,
        session_id: str | None = None,
        who: str = NO_PRINCIPAL,
        *,
        patient_id: str | None = None,
    ) -> Iterator[Access]:
        """Record `action` when the block ends, with its outcome: `ok`, what the block sets, or the error's code."""
        access = Access(session_id, who, patient_id=patient_id)
        try:
            yield access
        except Refusal as refusal:
            access.outcome = refusal.code
            raise
        except LogUnavailable:
            access.outcome = ErrorCode.INTERNAL
            raise
        except web.HTTPException as error:
            access.outcome = ErrorCode.FORBIDDEN if error.status in (401, 403) else f"http {error.status}"
            raise
        except BaseException:
            access.outcome = "failed"
            raise
        finally:
            if access.hidden:
                access.outcome = ErrorCode.FORBIDDEN
            if access.session_id is not None and access.outcome is not None:
                self.record(action, access.session_id, access.who, access.outcome)
            elif access.patient_id is not None and access.outcome is not None:
                self.record(action, access.patient_id, access.who, access.outcome, of="patient")

    def record(
        self, action: str, name: str, who: str, outcome: str, *, of: Literal["session", "patient"] = "session"
    ) -> None:
        """Write one line; `name` is the id of the session, or of the patient."""
        fields = {"who": who, "action": action, of: hashed(name), "outcome": outcome}
        # Only the operator reads this file; the log of the process may travel.
        shown = fields if who == NO_PRINCIPAL else {**fields, "who": hashed(who)}
        logger.info(f"%(who)s %(action)s {of} %({of})s: %(outcome)s", shown, extra=shown)
        if self._path is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._append(json.dumps({"time": now, **fields}) + "\n")

    def _append(self, line: str) -> None:
        # In the event loop: it takes about ten microseconds, and keeps the lines in the order of the accesses.
        try:
            if self._moved():
                self.close()
                self._open()
            if self._fd is not None:
                data = b"\n" * self._is_torn + line.encode()
                self._is_torn = os.write(self._fd, data) < len(data)
                if self._is_torn:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # Not fatal: the line is in the log of the process as well.
            logger.error("audit_log: cannot be written: %s", error.strerror)

    def _open(self) -> None:
        if self._path is None:
            return
        # A pipe that is not read must not hold up the event loop; a file on a disk is written as before.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o600)
        self._is_torn = False
        status = os.fstat(self._fd)
        # A device, /dev/null for example, is left as it is.
        if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS and status.st_uid == os.geteuid():
            # A group that was given the file, as logrotate's `create` can, keeps it.
            mode = stat.S_IMODE(status.st_mode) & ~_OTHERS
            os.fchmod(self._fd, mode)
            logger.warning('audit_log: "%s" was open to all users; its permissions are %o now', self._path, mode)

    def _moved(self) -> bool:
        """Whether the file was rotated away, as logrotate does."""
        if self._path is None or self._fd is None:
            return self._path is not None
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
