"""Log lines on stderr, as text for people or as JSON for machines, and ids made unreadable in them.

A patient's or a session's id is not for a log. `hashed` gives a short keyed hash instead: the same id has the same hash
throughout one log, and without the key it cannot be found by trying ids.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.output import Output

__all__ = ["hashed", "info", "json_line", "setup"]

# 48 bits: two of a million ids have the same hash with a probability of 1/500, which is acceptable in a log.
_HASH_BYTES = 6
# Bytes of a peer that end up in a message must not be able to forge a line or control the terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What every record has; anything else was handed in with `extra=` and is a field of the JSON line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Of lines that wait for the end of an iteration of the event loop.
_MOST_WAITING = 64
# Until a reader that had no room is asked again, and how long it is waited for at the end of the process.
_RETRY_SECONDS = 0.1
_LAST_SECONDS = 1.0


class _Key:
    value = secrets.token_bytes(32)


def setup(settings: CommonSettings, *, worker: int | None = None) -> None:
    """Send the log to stderr as `settings` say, each line with the number of the `worker` that wrote it, if several do.
    A second call replaces the first.
    """
    if settings.log_key:
        # blake2b takes at most 64 bytes of key; a longer secret counts in full.
        _Key.value = hashlib.sha256(settings.log_key.encode()).digest()
    handler = _Lines(sys.stderr)
    handler.set_name("moorline")
    handler.setFormatter(_Json(worker) if settings.log_format == "json" else _Text(worker))
    root = logging.getLogger()
    for previous in [each for each in root.handlers if each.get_name() == "moorline"]:
        root.removeHandler(previous)
    root.addHandler(handler)
    # No format names thread or process, which cost a record a third of its time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Libraries log warnings and errors only: their informational lines may quote what users wrote.
    root.setLevel(logging.WARNING)
    # It warns with what a client offers as subprotocols, and some clients send their token there.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    logging.getLogger("moorline").setLevel(settings.log_level.upper())


def info(logger: logging.Logger, message: str, *values: object, extra: Mapping[str, object] | None = None) -> None:
    """`logger.info` without the search for the caller's file and line, which no format names: a fifth of the cost of a
    line. For those that each request and each socket has; ask `isEnabledFor` before the values are computed.
    """
    logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, message, values, None, extra=extra))


def hashed(identifier: str) -> str:
    """The short hash that stands for `identifier` in log lines."""
    return hashlib.blake2b(identifier.encode(), key=_Key.value, digest_size=_HASH_BYTES).hexdigest()


def json_line(message: str, facts: Mapping[str, str]) -> str:
    """What is printed beside the log, in the form of its lines with `log_format=json`."""
    record = logging.LogRecord("moorline", logging.INFO, "", 0, message, None, None)
    vars(record).update(facts)
    return _Json(None).format(record)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes the lines of one iteration of the event loop together: with one write for each, a tenth of the time of a
    small request would be spent on its line. Warnings are written at once, with what waits, and so is every line of
    another thread.

    A reader that does not read, as `less` or a stopped terminal, must not stop the sockets: what it has no room for
    waits up to a limit. What is beyond that, or cannot be written since a disk is full, is dropped and counted.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._flushing: asyncio.AbstractEventLoop | None = None
        self._output = Output(stream)
        self._retry: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING or len(self._lines) >= _MOST_WAITING:
            self.flush()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._flushing:
            self._flushing = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait, as far as that blocks nothing."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines, self._flushing = self._lines, [], None
            if self._output.write(lines) and self._output.dropped:
                text, self._output.dropped = f"{self._output.dropped} lines of the log were dropped", 0
                record = logging.LogRecord("moorline.logs", logging.WARNING, "", 0, text, None, None)
                self._output.write([self.format(record) + self.terminator])
            if self._output.waits and self._retry is None:
                # In another thread than the loop's the next line tries again.
                with contextlib.suppress(RuntimeError):
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._try_again)

    def close(self) -> None:
        """The end of the process calls this (`logging.shutdown`)."""
        self._output.finish(_LAST_SECONDS)
        super().close()

    def _try_again(self) -> None:
        self._retry = None
        self.flush()


class _Formatter(logging.Formatter):
    """What both formats begin with."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._prefix = ""

    def moment(self, record: logging.LogRecord) -> str:
        """`2026-01-31T12:00:00.000Z`"""
        second = int(record.created)
        if second != self._second:
            self._second, self._prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{int(record.msecs):03d}Z"


class _Text(_Formatter):
    """`2026-01-31T12:00:00.000Z warning gateway: what happened`, and `gateway[2]` of worker 2."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f"[{worker}]"

    def format(self, record: logging.LogRecord) -> str:
        message = _CONTROL.sub(lambda found: repr(found[0])[1:-1], record.getMessage())
        name = record.name.removeprefix("moorline.")
        line = f"{self.moment(record)} {record.levelname.lower()} {name}{self._worker}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(_Formatter):
    """One object a line; `extra=` adds its fields."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": self.moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)
