"""When long timers fire."""

from moorline.gateway.common.timers import coalesced


def test_long_timers_fire_at_the_same_quarters_of_a_second() -> None:
    assert {coalesced(120.01, 100.0), coalesced(120.2, 100.1), coalesced(120.25, 100.2)} == {120.25}


def test_a_timer_of_less_than_ten_seconds_fires_when_it_is_due() -> None:
    assert coalesced(109.9, 100.0) == 109.9
