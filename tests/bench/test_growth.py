"""The benchmark of growth runs; what it finds on a busy machine says nothing."""

import resource
from pathlib import Path

import pytest

from tests.bench import growth_sockets
from tests.bench.growth import PARTS, Scale, measure
from tests.bench.growth_fill import fill
from tests.bench.peers.base import backends_for, workers_for
from tests.support.eventlogs import database_at, everything, exchange, opened


async def test_the_operations_of_the_log_are_measured_at_each_size() -> None:
    table = await measure("sqlite", Scale(messages=(10, 40), repeats=2))
    head, *rows = table.splitlines()
    assert head.split()[-2:] == ["10", "40"]
    assert [row.split()[0] for row in rows] == ["start", "open", "resume", "older", "list", "send", "begin", "erase"]
    assert all(float(figure) > 0 for row in rows for figure in row.split()[-2:])


async def test_what_is_filled_by_sql_is_what_the_log_writes(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await exchange(log, "written")
    fill(database_at(tmp_path), prefix="filled", sessions=1, turns=1)
    async with opened(database_at(tmp_path)) as log:
        written, filled = await everything(log, "written"), await everything(log, "filled0")
        assert [type(event) for event in filled] == [type(event) for event in written]
        assert [event.seq for event in filled] == [event.seq for event in written]
        view = await log.find_session("filled0")
        assert view is not None
        assert view.head.seq == filled[-1].seq
        await exchange(log, "filled0", patient_id="patient:0")


def test_every_part_has_two_sizes_at_least() -> None:
    assert all(len(part.sizes(Scale())) >= 2 for part in PARTS.values())


@pytest.mark.parametrize(
    ("files", "processes"), [(65_536, (1, 1)), (20_000, (3, 2)), (1024, (49, 25))], ids=["many", "some", "few"]
)
def test_sockets_are_split_over_as_many_processes_as_their_files_ask_for(
    files: int, processes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert (workers_for(20_000), backends_for(20_000)) == processes


@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_idle_sockets_of_two_backends_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("workers_for", "backends_for"):
        monkeypatch.setattr(growth_sockets, name, lambda _: 2)
    table = await measure("sockets", Scale(sockets=(30, 60), seconds=1.0))
    names = {line.partition(":")[0] for line in table.splitlines()[1:]}
    assert names == {"gateway", "database", "backend"}
