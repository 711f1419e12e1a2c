"""`moorline check` against every fault of a list, and against set-ups that work: `python -m tests.bench check [WORDS]`.

Each is made with real means: processes, proxies of other makes, databases, firewall rules, certificates. Where a hop of
the fault catalogue stands for them, or a proxy of this repository, its row says so; both are processes between two
sockets of others. A verdict is right where hop, failure, usual cause and next step
are the ones that a person needs; the exit status is 0 where all are.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from moorline.backend.responder import Piece, Turn
from moorline.gateway.check.address import HOP_TIMEOUT, ProbeOptions
from moorline.gateway.check.report import check
from tests.support.needs import program
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.process import started
from tests.support.stack import Stack, stack

__all__ = ["Asking", "Case", "Place", "Result", "main", "measure", "table"]


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """What `moorline check` is asked."""

    url: str
    backend: str | None = None
    patience: float = 1.0
    """Seconds for a hop, and for the answer."""
    under: Sequence[str] = ()
    """A command that runs it, on another machine."""
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Place:
    """Where a case happens: a folder of its own, and what all cases share."""

    def __init__(self, folder: Path, parts: Stack, postgres: Callable[[], PostgresServer]) -> None:
        self.folder = folder
        self.gateway, self.backend = parts.gateway, parts.backend
        """Healthy ones, whose model answers."""
        self.postgres = postgres


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A fault, what injects it, and words of the verdict that is right; a set-up that works has no hop."""

    name: str
    means: str
    made: Callable[[Place], AbstractAsyncContextManager[Asking]]
    hop: str = ""
    words: tuple[str, ...] = ()
    """Of what failed, its usual cause, and the next step; of one that works, of the note that goes with it."""
    needs: tuple[str, ...] = ()
    """Programs without which it is not measured."""
    seconds: float | None = None
    """The timer that must be found, to a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a case."""

    case: Case
    hop: str = ""
    said: str = ""
    usual_cause: str = ""
    next_step: str = ""
    is_right: bool = False
    missing: str = ""
    seconds: float = 0.0


async def answer(turn: Turn) -> AsyncIterator[Piece]:
    """A model that always answers."""
    yield "Good."


async def measure(cases: Sequence[Case], told: Callable[[Result], None] = lambda _: None) -> list[Result]:
    """Each case in turn."""
    results = []
    with tempfile.TemporaryDirectory(prefix="moorline-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with contextlib.ExitStack() as servers:
            postgres = _once(lambda: servers.enter_context(running_postgres(folder / "postgres.log")))
            async with stack(folder, responder=answer) as parts:
                for number, case in enumerate(cases):
                    own = folder / str(number)
                    own.mkdir()
                    results.append(await _result(case, Place(own, parts, postgres)))
                    told(results[-1])
    return results


def _once(make: Callable[[], PostgresServer]) -> Callable[[], PostgresServer]:
    made: list[PostgresServer] = []

    def get() -> PostgresServer:
        if not made:
            made.append(make())
        return made[0]

    return get


async def _result(case: Case, place: Place) -> Result:
    if missing := [name for name in case.needs if program(name) == name]:
        return Result(case, missing=f"{', '.join(missing)} not installed")
    try:
        async with case.made(place) as asking:
            if not case.hop:
                # It costs no time where an answer comes, and a busy machine may need it.
                asking = dataclasses.replace(asking, patience=HOP_TIMEOUT)
            began = time.monotonic()
            found = await (_elsewhere(asking, place.folder) if asking.under or asking.environ else _here(asking))
            seconds = time.monotonic() - began
    except Exception as error:
        # The others are measured all the same.
        return Result(case, said=f"the set-up failed: {error!r}")
    broken = found["broken"]
    if broken is None:
        notes = " ".join(str(step.get("note", "")) for probe in found["probes"] for step in probe["steps"]).strip()
        is_right = not case.hop and all(word in notes for word in case.words)
        return Result(case, said=notes or "healthy", is_right=is_right, seconds=seconds)
    hop, said, cause, step = (str(broken[name]) for name in ("hop", "said", "usual_cause", "next_step"))
    is_right = hop == case.hop and all(word in f"{said}\n{cause}\n{step}" for word in case.words)
    is_right = is_right and (case.seconds is None or _is_timer(said, case.seconds))
    return Result(case, hop, said, cause, step, is_right, seconds=seconds)


def _is_timer(said: str, seconds: float) -> bool:
    found = re.search(r"after ([\d.]+) s", said)
    return found is not None and abs(float(found[1]) - seconds) <= 1


async def _here(asking: Asking) -> dict[str, Any]:
    """In this process, with less patience than the command has."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        options = ProbeOptions(hop_timeout=asking.patience, answer_timeout=asking.patience, **asking.options)
        await asyncio.to_thread(check, asking.url, asking.backend, backend_is_named=True, options=options, as_json=True)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


async def _elsewhere(asking: Asking, folder: Path) -> dict[str, Any]:
    arguments = ("check", asking.url, "--json", *(f"--{name}={value}" for name, value in asking.options.items()))
    async with started("moorline", *arguments, cwd=folder, under=asking.under, env=asking.environ) as command:
        await command.ended()
        found: dict[str, Any] = json.loads(command.out)
        return found


def table(results: Sequence[Result]) -> str:
    """A line for each case, and below it the failure, the usual cause and the next step that `moorline check` names."""
    width = max(len(result.case.name) for result in results)
    lines = []
    for result in results:
        right = "not measured" if result.missing else "right" if result.is_right else "WRONG"
        lines.append(f"{right:<13}{result.case.name:<{width}}  by {result.case.means}")
        if result.missing:
            lines.append(f"{'':13}{result.missing}")
            continue
        said = f"{result.hop}: {result.said}" if result.hop else result.said
        lines += [f"{'':13}{line}" for line in (said, result.usual_cause, result.next_step) if line]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    from tests.bench.check_faults import FAULTS
    from tests.bench.check_healthy import HEALTHY

    parser = argparse.ArgumentParser(prog="python -m tests.bench check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORDS", help="only the cases whose name has one of these")
    words = parser.parse_args(arguments).words
    groups = [
        [case for case in group if not words or any(word in case.name for word in words)] for group in (FAULTS, HEALTHY)
    ]
    results = asyncio.run(measure([case for group in groups for case in group], _told))
    print(table(results))
    for name, group in zip(("faults named", "healthy set-ups healthy"), groups, strict=True):
        its = [result for result in results if result.case in group and not result.missing]
        print(f"\n{name}: {sum(result.is_right for result in its)} of {len(its)}", end="")
        print(f", {len(group) - len(its)} not measured" if len(group) > len(its) else "")
    return 0 if all(result.is_right or result.missing for result in results) else 1


def _told(result: Result) -> None:
    print(f"{result.case.name}: {result.seconds:.1f} s", file=sys.stderr)
