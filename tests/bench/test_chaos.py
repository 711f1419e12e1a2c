"""A few seconds of the chaos run: that it runs, and that what it does is felt."""

from pathlib import Path

import pytest

from tests.bench.chaos import run
from tests.support import needs


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "store", ["sqlite", pytest.param("postgres", marks=[needs.postgres, pytest.mark.whole_measurement])]
)
async def test_nothing_is_lost_while_everything_breaks(store: str, tmp_path: Path) -> None:
    verdict = await run(store=store, seconds=5, clients=6, tabs=2, seed=5, folder=tmp_path)
    assert verdict.held, verdict
    assert verdict.blows.total() > 0
