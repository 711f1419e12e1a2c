"""The sum of what tunnels hold is bounded, and those that have held bytes for longest end first."""

from moorline.gateway.tunnel.buffered import Buffered


def test_holders_within_the_limit_go_on() -> None:
    held = Buffered[str](100)
    assert held.add("a", 60) == []
    assert held.add("b", 40) == []
    assert held.size == 100


def test_the_one_that_has_held_bytes_for_longest_ends() -> None:
    held = Buffered[str](100)
    held.add("a", 60)
    held.add("b", 40)
    assert held.add("c", 1) == ["a"]
    assert held.size == 41


def test_as_many_end_as_it_takes() -> None:
    held = Buffered[str](100)
    held.add("a", 10)
    held.add("b", 10)
    held.add("c", 75)
    assert held.add("d", 25) == ["a", "b"]


def test_one_that_took_everything_and_holds_bytes_again_is_the_youngest() -> None:
    held = Buffered[str](100)
    held.add("a", 50)
    held.add("b", 50)
    held.remove("a")
    held.add("a", 50)
    assert held.add("c", 10) == ["b"]


def test_one_that_is_larger_than_the_limit_ends_itself() -> None:
    held = Buffered[str](100)
    assert held.add("a", 101) == ["a"]
    assert held.size == 0


def test_to_remove_one_twice_is_to_remove_it_once() -> None:
    held = Buffered[str](100)
    held.add("a", 10)
    held.add("b", 10)
    held.remove("a")
    held.remove("a")
    assert held.size == 10
