"""The soak runs, and its verdict tells growth from noise."""

import collections
from pathlib import Path

import pytest

from tests.bench.slope import growth
from tests.bench.soak import Found, run

_NOISE = (0.3, -0.2, 0.4, -0.4, 0.1, -0.3, 0.2, -0.1)


@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_clients_chat_while_faults_strike_and_everything_is_measured(tmp_path: Path) -> None:
    found = await run(seconds=0.3, sockets=3, seed=1, folder=tmp_path, pause=(0.01, 0.05), parts=1)
    messages = found.samples["messages and answers"]
    assert 0 == messages[0] < messages[-1]
    assert all(len(values) == 2 for values in found.samples.values())
    assert all(
        value > 0 for name, values in found.samples.items() if name != "messages and answers" for value in values
    )


def test_a_series_that_only_varies_does_not_grow() -> None:
    assert not growth([100 + each for each in _NOISE]).exceeds(0.0)


def test_a_series_that_grows_beyond_its_noise_does() -> None:
    found = growth([100 + each + place for place, each in enumerate(_NOISE)])
    assert found.exceeds(0.5)
    assert found.by == pytest.approx(7, abs=0.7)
    assert not found.exceeds(20)


def test_what_grows_while_caches_fill_is_not_judged_and_what_grows_later_is_named() -> None:
    filling = [10.0, 20.0, 25.0, *[30.0] * 8]
    leaking = [float(place) for place in range(30, 41)]
    samples = {"gateway: tasks": filling, "backend: descriptors": leaking, "messages and answers": leaking}
    found = Found(samples, collections.Counter())
    assert found.growing() == ["backend: descriptors"]
    assert str(found).endswith("grows: backend: descriptors")
