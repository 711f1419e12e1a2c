"""The measurement of attacks: what does not depend on the clock holds on a busy machine, too."""

import pytest

from tests.bench.attacks import Figure, Scale
from tests.bench.hostile import measure

SMALL = Scale(requests=40, sockets=30, messages=80, event=20 << 20, bomb=32 << 20, flooding=2, paths=77, races=50)
#: Measured by the clock.
TIMED = ("percentile", "slowest")


@pytest.mark.whole_measurement
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "attack",
    [
        "unread_requests",
        "handshakes",
        "odd_paths",
        "swapped_files",
    ],
)
async def test_an_attack_stays_within_its_bound(attack: str) -> None:
    figures = await measure(SMALL, [attack])
    assert figures
    assert [each for each in figures if not each.holds and not any(word in each.name for word in TIMED)] == []


def test_a_figure_over_its_bound_does_not_hold() -> None:
    assert Figure("a", 1.0, "s", 1.0).holds
    assert not Figure("a", 1.1, "s", 1.0).holds
