"""The same scenarios at a real nginx and at the gateway: both see, byte for byte and instant for instant, the same.

The gateway plays twice: in nginx's profile, and with its defaults, whose endings say why. What it does otherwise on
purpose stands in the row, so that a change on either side is seen.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from tests.differential import (
    rows_answers,
    rows_endings,
    rows_failures,
    rows_payload,
    rows_requests,
    rows_stalls,
    rows_timers,
)
from tests.differential.proxies import DEFAULTS, PROFILE, gateways, nginx
from tests.differential.session import Session, backend, play_one, played_once, together
from tests.differential.stage import Stage
from tests.differential.table import Record, Row
from tests.support import needs

pytestmark = [needs.nginx, pytest.mark.timeout(120)]

# Between two rows, so that they do not all shake hands at the same moment.
_STAGGER = 0.03

# Those that take longest begin.
ROWS: list[Row[Stage]] = [
    *rows_stalls.ROWS,
    *rows_timers.ROWS,
    *rows_failures.ROWS,
    *rows_answers.ROWS,
    *rows_endings.ROWS,
    *rows_requests.ROWS,
    *rows_payload.ROWS,
]
each_row = pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])


@each_row
def test_nginx_does_what_the_row_says(session: Session, row: Row[Stage]) -> None:
    assert session.differences(row, "nginx", row.nginx) == []


@each_row
def test_the_gateway_does_what_nginx_did(session: Session, row: Row[Stage]) -> None:
    assert session.differences(row, "profile", {**session.as_nginx(row), **row.gateway}) == []


@each_row
def test_with_its_defaults_the_gateway_does_it_at_the_same_instant_and_says_why(
    session: Session, row: Row[Stage]
) -> None:
    assert session.differences(row, "defaults", {**session.as_nginx(row), **row.gateway, **row.truthful}) == []


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """All rows at the same time, at each of the three."""
    return played_once(play, request, tmp_path_factory)


async def play(rows: Sequence[Row[Stage]], folder: Path) -> Session:
    plays: dict[tuple[str, str], Awaitable[Record]] = {}
    async with contextlib.AsyncExitStack() as stack:
        for proxy in ("nginx", "profile", "defaults"):
            backends = [await stack.enter_async_context(backend(row)) for row in rows]
            needed = [(row, each.port) for row, each in zip(rows, backends, strict=True)]
            if proxy == "nginx":
                _, ports = await stack.enter_async_context(nginx(folder, needed))
            else:
                ports = await stack.enter_async_context(gateways(needed, PROFILE if proxy == "profile" else DEFAULTS))
            for number, row in enumerate(rows):
                stage = Stage(ports[number], backends[number])
                plays[row.name, proxy] = _later(number * _STAGGER, play_one(row, stage))
        return await together(plays)


async def _later(seconds: float, playing: Awaitable[Record]) -> Record:
    await asyncio.sleep(seconds)  # see _STAGGER
    return await playing
