"""How often something may happen in a minute."""

import pytest

from moorline.gateway.common.access.rate import Rate


def test_all_of_a_minute_may_come_at_once_and_then_one_for_each_part_of_it() -> None:
    rate = Rate(4)
    waits = []
    for now in (100.0, 100.0, 100.0, 100.0):
        waits.append(rate.wait("a", now))
        rate.add("a", now)
    assert (waits, rate.wait("a", 100.0), rate.wait("a", 114.0), rate.wait("a", 115.0)) == ([0.0] * 4, 15.0, 1.0, 0.0)


def test_what_is_given_back_can_be_taken_again() -> None:
    rate = Rate(1)
    rate.add("a", 0.0)
    rate.give_back("a")
    assert rate.wait("a", 0.0) == 0.0


def test_names_that_have_all_of_their_minute_again_are_forgotten() -> None:
    rate = Rate(60)
    for number in range(100_000):
        rate.add(f"address {number}", number / 1000)
    assert len(rate) <= 2048


@pytest.mark.parametrize("now", [0.0, 0.1, 8180.7, 123456.789])
@pytest.mark.parametrize("per_minute", [1, 3, 600, 3000])
def test_a_minute_holds_exactly_as_many_at_any_time(per_minute: int, now: float) -> None:
    rate, held = Rate(per_minute), 0
    while not rate.wait("a", now) and held <= per_minute:
        rate.add("a", now)
        held += 1
    assert held == per_minute
