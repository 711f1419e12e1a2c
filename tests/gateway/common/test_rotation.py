"""A queue in which no client waits for another one's whole backlog."""

from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.common.rotation import Rotation


def test_each_client_has_the_next_place_in_rotation_and_its_own_items_in_order() -> None:
    rotation = Rotation[int]()
    for number in range(3):
        rotation.append("much", number)
    rotation.append("little", 10)
    assert [rotation.popleft() for _ in range(4)] == [0, 10, 1, 2]
    assert not rotation


def test_an_item_that_is_discarded_is_not_waited_for() -> None:
    rotation = Rotation[int]()
    rotation.append("a", 1)
    assert rotation.discard("a", 1)
    assert not rotation.discard("a", 1)
    assert not rotation


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers())))
def test_nothing_is_lost_and_none_is_served_twice_before_another_that_waits(items: list[tuple[str, int]]) -> None:
    rotation = Rotation[tuple[str, int]]()
    for client, number in items:
        rotation.append(client, (client, number))
    served = []
    while rotation:
        served.append(rotation.popleft())
    assert sorted(served) == sorted(items)
    for client in "abc":
        assert [each for each in served if each[0] == client] == [each for each in items if each[0] == client]
