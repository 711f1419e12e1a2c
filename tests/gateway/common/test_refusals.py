"""A line a minute and reason, which has all that were refused since the one before."""

from moorline.gateway.common.access.refusals import Refusals


def test_the_first_is_told_at_once_and_the_next_line_counts_those_since() -> None:
    refusals = Refusals()
    assert [refusals.add("aud", now) for now in (0.0, 1.0, 59.0, 60.0, 61.0)] == [1, None, None, 3, None]


def test_another_reason_has_its_own_line() -> None:
    refusals = Refusals()
    assert [refusals.add(reason, 0.0) for reason in ("aud", "iss", "aud")] == [1, 1, None]
