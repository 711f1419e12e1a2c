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


def test_many_names_do_not_have_one_forgotten_that_has_used_its_minute() -> None:
    rate = Rate(1)
    rate.add("a", 0.0)
    for number in range(5000):
        rate.add(f"address {number}", 1.0)
    assert rate.wait("a", 1.0) == 59.0


def test_as_many_names_again_have_to_come_before_all_are_looked_through_again() -> None:
    rate = Rate(1)
    for number in range(3000):
        rate.add(f"address {number}", 0.0)
    assert rate._look_at == 4096


def test_a_long_pause_gives_no_more_than_a_minute_holds() -> None:
    rate, held = Rate(3), 0
    rate.add("a", 0.0)
    while not rate.wait("a", 86_400.0) and held <= 3:
        rate.add("a", 86_400.0)
        held += 1
    assert held == 3


@pytest.mark.parametrize("now", [0.0, 0.1, 8180.7, 123456.789])
@pytest.mark.parametrize("per_minute", [1, 3, 600, 3000])
def test_a_minute_holds_exactly_as_many_at_any_time(per_minute: int, now: float) -> None:
    rate, held = Rate(per_minute), 0
    while not rate.wait("a", now) and held <= per_minute:
        rate.add("a", now)
        held += 1
    assert held == per_minute
