"""That the measurement under a real systemd runs, and all of its steps succeed."""

import pytest

from tests.bench.systemd import main
from tests.support.booted import missing


@pytest.mark.whole_measurement
@pytest.mark.timeout(600)
def test_the_units_serve_through_reloads_restarts_kills_and_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    if why := missing():
        pytest.skip(f"no systemd can run here: {why}")
    status = main(["--restarts", "2", "--rate", "20"])
    assert status == 0, capfd.readouterr().out
