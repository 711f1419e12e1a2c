"""The runs are counted."""

from pathlib import Path

import pytest

from tests.bench.flakes import run


@pytest.mark.whole_measurement
@pytest.mark.timeout(180)
def test_each_run_of_the_examples_passes(tmp_path: Path) -> None:
    assert run(tmp_path, runs=20, processes=2).startswith("20 passed in ")
