"""That a real Prometheus takes the series, evaluates the alerts and answers the queries."""

from pathlib import Path

import pytest

from tests.bench.prometheus import measure
from tests.support import needs


@needs.prometheus
@pytest.mark.whole_measurement
@pytest.mark.timeout(180)
async def test_prometheus_finds_nothing_wrong_and_fires_the_alert_for_a_stopped_backend(tmp_path: Path) -> None:
    assert await measure(tmp_path) == []
