import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.common.config.units import counted, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1m30s", 90),
        ("2.5h", 9000),
        ("250ms", 0.25),
        ("1d", 86400),
        ("20", 20),
        ("0", 0),
        ("1h1ms", 3600.001),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1x", "s", "-1s", "1 s", "1e3", "1m30", "inf", "1S", "\u0661s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65536), ("16MiB", 1 << 24), ("1GiB", 1 << 30), ("7B", 7), ("7", 7), ("0", 0)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1kb", "1.5MiB", "-1", "MiB", "\u0663"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_a_size_is_shown_as_it_can_be_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**9))
def test_a_duration_is_shown_as_it_can_be_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(86400.0, "1d"), (90.0, "90s"), (0.25, "250ms"), (60.0, "1m"), (0.0, "0s")]
)
def test_the_shortest_text_is_shown(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")])
def test_a_number_has_its_noun_in_the_singular_where_it_is_one(number: int, text: str) -> None:
    assert counted(number, "session") == text
