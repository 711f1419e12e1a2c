"""Log lines on stderr, as text for people or as JSON for machines, and ids made unreadable in them.

A patient's or a session's id is not for a log. `hashed` gives a short keyed hash instead: the same id has the same hash
throughout one log, and without the key it cannot be found by trying ids.
"""

import abc
import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.config.units import counted
from moorline.gateway.common.output import Output

__all__ = ["hashed", "info", "json_line", "printable", "setup"]

# 48 bits: two of a million ids have the same hash with a probability of 1/500, which is acceptable in a log.
_HASH_BYTES = 6
# What every record has; anything else was handed in with `extra=` and is a field of the JSON line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Of lines that wait for the end of an iteration of the event loop, or for this pause between two writes.
_MOST_WAITING = 64
_PAUSE_SECONDS = 0.05
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


def info(logger: logging.Logger, message: str, facts: Callable[[], Mapping[str, object]]) -> None:
    """`logger.info` for the lines that each request and each socket has; ask `isEnabledFor` before.

    `message` is taken as it is, and `facts`, for `extra`, are asked for only where they are fields of a line. A record,
    and its way through the loggers, costs four times what the line itself does: where nothing but the handler of
    `setup` would see it, none is made.
    """
    if (lines := _only_handler(logger)) is not None:
        lines.add("info", logger.name, message, facts)
    else:
        logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, message, (), None, extra=facts()))


def _only_handler(logger: logging.Logger) -> "_Lines | None":
    """The handler of `setup`, unless the program has another one, or a filter: a test, a library that collects logs."""
    # Those of other loggers than the one that is asked are for none of its lines.
    if logger.filters:
        return None
    each = logger
    while (parent := each.parent) is not None:
        if each.handlers or not each.propagate:
            return None
        each = parent
    if len(each.handlers) != 1:
        return None
    handler = each.handlers[0]
    return handler if isinstance(handler, _Lines) and not handler.filters else None


def hashed(identifier: str) -> str:
    """The short hash that stands for `identifier` in log lines."""
    return hashlib.blake2b(identifier.encode(), key=_Key.value, digest_size=_HASH_BYTES).hexdigest()


def printable(text: str) -> str:
    """`text` of a peer with which it can neither forge a line, nor control the terminal, nor turn around what a person
    reads: what is not printable is written as Python would write it.
    """
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else repr(each)[1:-1] for each in text])


def json_line(message: str, facts: Mapping[str, str]) -> str:
    """What is printed beside the log, in the form of its lines with `log_format=json`."""
    record = logging.LogRecord("moorline", logging.INFO, "", 0, message, None, None)
    vars(record).update(facts)
    return _Json(None).format(record)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes the lines of one iteration of the event loop together, and at most twenty times a second: with one write
    for each, a tenth of the time of a small request would be spent on its line, and the reader of a pipe would be woken
    for it. Warnings are written at once, with what waits, and so is every line of another thread.

    A reader that does not read, as `less` or a stopped terminal, must not stop the sockets: what it has no room for
    waits up to a limit. What is beyond that, or cannot be written since a disk is full, is dropped and counted.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._flushing: asyncio.AbstractEventLoop | None = None
        # Of the loop that flushes.
        self._thread = 0
        self._next_write = 0.0
        self._output = Output(stream)
        self._retry: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            self._add(line, is_urgent=record.levelno >= logging.WARNING)

    def add(self, level: str, name: str, message: str, facts: Callable[[], Mapping[str, object]]) -> None:
        """What `handle` does with a record of these facts, whose line can wait for those of the same iteration."""
        assert self.lock is not None, "a handler has one"
        formatter: Any = self.formatter
        with self.lock:
            self._add(formatter.line(time.time(), level, name, message, facts))

    def _add(self, line: str, *, is_urgent: bool = False) -> None:
        self._lines.append(line + self.terminator)
        if is_urgent or len(self._lines) >= _MOST_WAITING:
            self.flush()
            return
        # `asyncio.get_running_loop` asks the kernel whether the process is the one that it was.
        if (loop := self._flushing) is not None and self._thread == threading.get_ident() and loop.is_running():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._flushing:
            self._flushing, self._thread = loop, threading.get_ident()
            if (wait := self._next_write - time.monotonic()) > 0:
                loop.call_later(wait, self.flush)
            else:
                loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait, as far as that blocks nothing."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines, self._flushing = self._lines, [], None
            self._next_write = time.monotonic() + _PAUSE_SECONDS
            if self._output.write(lines) and self._output.dropped:
                text, self._output.dropped = f"dropped {counted(self._output.dropped, 'line')} of the log", 0
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


class _Formatter(logging.Formatter, abc.ABC):
    """What both formats have in common: a line from the facts of a record, or from a record."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._prefix = ""
        # To format a number takes twice as long as to look it up.
        self._fractions = [f".{number:03d}Z" for number in range(1000)]

    @abc.abstractmethod
    def line(
        self, created: float, level: str, name: str, message: str, facts: Callable[[], Mapping[str, object]]
    ) -> str:
        """The line of a message of this moment, level and logger; `facts` are further fields."""

    def moment(self, created: float) -> str:
        """`2026-01-31T12:00:00.000Z`"""
        second = int(created)
        if second != self._second:
            self._second, self._prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._prefix + self._fractions[int((created - second) * 1000)]


class _Text(_Formatter):
    """`2026-01-31T12:00:00.000Z warning gateway: what happened`, and `gateway[2]` of worker 2."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f"[{worker}]"

    def line(
        self, created: float, level: str, name: str, message: str, facts: Callable[[], Mapping[str, object]]
    ) -> str:
        text = printable(message)
        return f"{self.moment(created)} {level} {name.removeprefix('moorline.')}{self._worker}: {text}"

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(record.created, record.levelname.lower(), record.name, record.getMessage(), dict)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(_Formatter):
    """One object a line; `extra=` adds its fields."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}
        # `json.dumps` makes one for each line.
        self._encoder = json.JSONEncoder(default=str, ensure_ascii=False)

    def line(
        self, created: float, level: str, name: str, message: str, facts: Callable[[], Mapping[str, object]]
    ) -> str:
        fields: dict[str, Any] = {
            "time": self.moment(created),
            "level": level,
            "logger": name,
            "message": message,
            **self._worker,
            **facts(),
        }
        return self._encoder.encode(fields)

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            extra["traceback"] = self.formatException(record.exc_info)
        return self.line(record.created, record.levelname.lower(), record.name, record.getMessage(), lambda: extra)
