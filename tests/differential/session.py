"""One session of many plays at the same time, and the verdict on what was seen in them."""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.differential.stage import Backend, Stage
from tests.differential.table import Expected, Record, Row, Seen

__all__ = ["Session", "backend", "play_one", "played_once", "together"]

# Seconds. nginx itself may be 0.3 early, for it does not set a timer anew for less; and a kernel that stalls takes its
# last few bytes when it likes.
_TOLERANCE = 0.7
_MOST_NOISE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """What was seen in each row at each proxy."""

    records: Mapping[tuple[str, str], Record]
    noise: float
    """Seconds by which this machine woke the test too late, at worst, as far as that excuses anything."""

    def differences(self, row: Row[Any], proxy: str, expected: Expected) -> list[str]:
        """Nothing, where all that is expected was seen, in time."""
        seen = self.records[row.name, proxy]
        wrong = [f"broke: {seen['broke']}"] if "broke" in seen else []
        for name, told in expected.items():
            got = seen.get(name)
            text, _, at = (told or "").partition(" @")
            if told is None or got is None:
                same = told is None and got is None
            else:
                same = got.text == text and (not at or abs(got.at - float(at)) <= _TOLERANCE + self.noise)
            if not same:
                wrong.append(f"{name}: {got}, expected {told}")
        return wrong

    def as_nginx(self, row: Row[Any]) -> dict[str, str | None]:
        """What is expected of a proxy that does the same: what nginx did in this session, and when, if that matters."""
        seen = self.records[row.name, "nginx"]
        known = {name: told for name, told in row.nginx.items() if name in seen}
        did = {name: str(seen[name]) if " @" in told else seen[name].text for name, told in known.items()}
        return {**row.nginx, "connections": seen["connections"].text, **did}


def played_once(
    play: Callable[[list[Row[Any]], Path], Coroutine[Any, Any, Session]],
    request: pytest.FixtureRequest,
    folders: pytest.TempPathFactory,
) -> Session:
    """Play the rows of those tests of a module that were asked for: once, however many processes run these tests.

    A second session at the same time would take the processor from the first, whose instants are measured.
    """
    name = request.path.stem
    base = folders.getbasetemp()
    # pytest-xdist gives each of its processes a folder in one that they share.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    record = common / f"{name}.pickle"
    with (common / f"{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            record.write_bytes(pickle.dumps(asyncio.run(play(_wanted(request), folders.mktemp(name)))))
    session: Session = pickle.loads(record.read_bytes())
    return session


async def together(plays: Mapping[tuple[str, str], Awaitable[Record]]) -> Session:
    """Play all of it, by row and proxy."""
    late: list[float] = []
    watching = asyncio.create_task(_watch(late))
    records = await asyncio.gather(*plays.values())
    watching.cancel()
    return Session(dict(zip(plays, records, strict=True)), min(max(late), _MOST_NOISE))


async def play_one(row: Row[Any], stage: Stage) -> Record:
    record = await stage.play(lambda: row.play(stage))
    return {"connections": Seen(str(stage.backend.connections()), 0.0), **record}


@contextlib.asynccontextmanager
async def backend(row: Row[Any]) -> AsyncIterator[Backend]:
    upstream = Backend()
    if row.listening:
        upstream.listen()
    try:
        yield upstream
    finally:
        await upstream.__aexit__()


def _wanted(request: pytest.FixtureRequest) -> list[Row[Any]]:
    asked = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    rows = cast("list[Row[Any]]", [item.callspec.params["row"] for item in asked])
    return list({row.name: row for row in rows}.values())


async def _watch(late: list[float]) -> None:
    """How punctual this machine is."""
    clock, step = asyncio.get_running_loop().time, 0.01
    while True:
        due = clock() + step
        await asyncio.sleep(step)  # what is measured
        late.append(clock() - due)
