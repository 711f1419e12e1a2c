"""The same scenarios at a real nginx and at the gateway: both see, byte for byte and instant for instant, the same.

The gateway plays twice: in nginx's profile, and with its defaults, whose endings say why. What it does otherwise on
purpose stands in the row, so that a change on either side is seen.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.differential.proxies import DEFAULTS, PROFILE, gateways, nginx
from tests.differential.rows import ROWS
from tests.differential.stage import Backend, Record, Row, Seen, Stage
from tests.support import needs

pytestmark = [needs.nginx, pytest.mark.timeout(120)]

# Seconds. nginx itself may be 0.3 early, for it does not set a timer anew for less; and a kernel that stalls takes its
# last few bytes when it likes.
_TOLERANCE = 0.7
_MOST_NOISE = 0.5
# Between two rows, so that they do not all shake hands at the same moment.
_STAGGER = 0.03
_PROXIES = ("nginx", "profile", "defaults")

each_row = pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
Expected = Mapping[str, str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """What was seen in each row at each proxy, all of them played at the same time."""

    records: Mapping[tuple[str, str], Record]
    noise: float
    """Seconds by which this machine woke the test too late, at worst, as far as that excuses anything."""

    def differences(self, row: Row, proxy: str, expected: Expected) -> list[str]:
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

    def as_nginx(self, row: Row) -> dict[str, str | None]:
        """What is expected of whoever does the same: what nginx did in this session, and when, if that matters."""
        seen = self.records[row.name, "nginx"]
        did = {name: str(seen[name]) if " @" in told else seen[name].text for name, told in row.nginx.items()}
        return {"connections": seen["connections"].text, **did}


@each_row
def test_nginx_does_what_the_row_says(session: Session, row: Row) -> None:
    assert session.differences(row, "nginx", row.nginx) == []


@each_row
def test_the_gateway_does_what_nginx_did(session: Session, row: Row) -> None:
    assert session.differences(row, "profile", {**session.as_nginx(row), **row.gateway}) == []


@each_row
def test_with_its_defaults_the_gateway_does_it_at_the_same_instant_and_says_why(session: Session, row: Row) -> None:
    assert session.differences(row, "defaults", {**session.as_nginx(row), **row.gateway, **row.truthful}) == []


# The session ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Play the rows of those tests that were asked for."""
    asked = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    wanted = [item.callspec.params["row"] for item in asked]
    return asyncio.run(play([row for row in ROWS if row in wanted], tmp_path_factory.mktemp("differential")))


async def play(rows: Sequence[Row], folder: Path) -> Session:
    late: list[float] = []
    watching = asyncio.create_task(_watch(late))
    async with contextlib.AsyncExitStack() as stack:
        played, plays = [], []
        for proxy in _PROXIES:
            backends = [await stack.enter_async_context(_backend(row)) for row in rows]
            needed = [(row, backend.port) for row, backend in zip(rows, backends, strict=True)]
            if proxy == "nginx":
                ports = await stack.enter_async_context(nginx(folder, needed))
            else:
                ports = await stack.enter_async_context(gateways(needed, PROFILE if proxy == "profile" else DEFAULTS))
            for number, row in enumerate(rows):
                played.append((row.name, proxy))
                plays.append(_play_one(row, Stage(ports[number], backends[number]), number * _STAGGER))
        records = await asyncio.gather(*plays)
    watching.cancel()
    return Session(dict(zip(played, records, strict=True)), min(max(late), _MOST_NOISE))


async def _play_one(row: Row, stage: Stage, delay: float) -> Record:
    await asyncio.sleep(delay)  # see _STAGGER
    record = await stage.play(row.play)
    return {"connections": Seen(str(stage.backend.connections()), 0.0), **record}


@contextlib.asynccontextmanager
async def _backend(row: Row) -> AsyncIterator[Backend]:
    backend = Backend()
    if row.listening:
        backend.listen()
    try:
        yield backend
    finally:
        await backend.__aexit__()


async def _watch(late: list[float]) -> None:
    """How punctual this machine is."""
    clock, step = asyncio.get_running_loop().time, 0.01
    while True:
        due = clock() + step
        await asyncio.sleep(step)  # what is measured
        late.append(clock() - due)
