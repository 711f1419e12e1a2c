"""When a bad network passes on what, without any network."""

import pytest

from moorline.gateway.faults.shaping import Buffer, Delay, Pieces, Slow


def test_a_delay_moves_each_read_by_as_much() -> None:
    delay = Delay(lambda: 0.5)
    assert [delay.plan(b"a", 1.0), delay.plan(b"b", 1.1)] == [[(1.5, b"a")], [(1.6, b"b")]]


def test_jitter_keeps_the_order() -> None:
    jitter = Delay(iter([0.5, 0.0]).__next__)
    assert [jitter.plan(b"a", 1.0), jitter.plan(b"b", 1.1)] == [[(1.5, b"a")], [(1.5, b"b")]]


def test_a_slow_link_takes_as_long_as_its_rate_says() -> None:
    planned = Slow(100).plan(bytes(250), 10.0)
    assert b"".join(piece for _, piece in planned) == bytes(250)
    assert planned[-1][0] == pytest.approx(12.5)


def test_a_slow_link_that_was_idle_has_saved_up_nothing() -> None:
    slow = Slow(100)
    slow.plan(bytes(10), 0.0)
    assert slow.plan(b"x", 50.0) == [(50.01, b"x")]


def test_pieces_are_of_one_size() -> None:
    assert Pieces(2).plan(b"abcde", 1.0) == [(1.0, b"ab"), (1.0, b"cd"), (1.0, b"e")]


def test_a_buffer_waits_until_it_is_full() -> None:
    buffer = Buffer(4)
    assert [buffer.plan(b"abc", 1.0), buffer.plan(b"de", 2.0), buffer.plan(b"f", 3.0)] == [[], [(2.0, b"abcde")], []]
    assert buffer.flush() == b"f"
