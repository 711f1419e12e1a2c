"""`moorline backend`, which also writes when each token of its first answer passed each stage, to the file that
`STAGES_FILE` names.

The answers of a measurement are alike, so that one stands for all. Times are the system's monotonic clock's.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp.streams import StreamReader

from moorline.backend import llm_stream
from moorline.backend.eventlog.base import Piece
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite import committer
from moorline.backend.eventlog.sqlite.committer import Committer
from moorline.backend.llm_transport import Reader
from moorline.backend.wire import Wire
from moorline.backend.writer import Writer
from moorline.gateway.run.cli import main

__all__ = ["STAGES_FILE"]

STAGES_FILE = "BENCH_STAGES"


class _Trace:
    """The tokens of the first answer by their text, each with the times of its stages."""

    def __init__(self) -> None:
        self._tokens: dict[str, dict[str, float]] = {}
        self._run_id = ""
        # When bytes came into a stream that were not read yet, and when those came that were read last.
        self._unread: dict[StreamReader, float] = {}
        self._received = 0.0
        # What is on its way to the log, and in it.
        self._put_tokens: list[dict[str, float]] = []
        self._batch: list[dict[str, float]] = []

    def install(self) -> None:
        """Take times from here on."""
        _wrap(StreamReader, "feed_data", before=lambda stream, *_: self._unread.setdefault(stream, time.monotonic()))
        _wrap(Writer, "put", before=self._put)
        _wrap(EventLog, "_add_texts", before=self._gathered)
        _wrap(
            committer, "run_batch", before=lambda *_: self._note("in the thread"), after=lambda: self._note("flushed")
        )
        _wrap(Committer, "_deliver", before=lambda *_: self._note("in the loop"))
        _wrap(Wire, "write", before=self._write)
        module: Any = llm_stream
        reader = module.reader
        module.reader = lambda response: self._traced(reader(response))

    def save(self) -> None:
        """Write the tokens that passed all stages."""
        with open(os.environ[STAGES_FILE], "w", encoding="utf-8") as file:
            json.dump({text: times for text, times in self._tokens.items() if "written" in times}, file)

    def _traced(self, found: Reader) -> Reader:
        stream = found.read.__self__  # type: ignore[attr-defined]

        async def read() -> bytes:
            data = await found.read()
            self._received = self._unread.pop(stream, 0.0)
            return data

        return Reader(read, found.gather)

    def _put(self, writer: Writer, piece: object) -> None:
        self._run_id = self._run_id or writer._run.run_id
        if isinstance(piece, str) and writer._run.run_id == self._run_id:
            for text in piece.split():
                times = self._tokens[text] = {"received": self._received, "read": time.monotonic()}
                self._put_tokens.append(times)

    def _gathered(self, _: EventLog, pieces: Sequence[Piece]) -> None:
        if any(piece.run.run_id == self._run_id for piece in pieces):
            # Text that comes while this is written is put behind it.
            self._batch, self._put_tokens = self._put_tokens, []
            self._note("gathered")

    def _note(self, stage: str) -> None:
        for times in self._batch:
            times.setdefault(stage, time.monotonic())

    def _write(self, _: Wire, data: bytes) -> None:
        if self._batch and self._run_id.encode() in data:
            self._note("written")
            self._batch = []


def _wrap(owner: Any, name: str, *, before: Callable[..., object], after: Callable[[], object] = lambda: None) -> None:
    function = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        before(*arguments)
        try:
            return function(*arguments)
        finally:
            after()

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    trace = _Trace()
    trace.install()
    try:
        status = main(["backend", *sys.argv[1:]])
    finally:
        trace.save()
    sys.exit(status)
