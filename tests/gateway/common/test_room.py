"""Which connections are let go of when descriptors run short."""

import resource
from collections.abc import Iterator

import pytest
from moorline.gateway.common.web.room import Room

LIMIT = 1024
RESERVE = 64


@pytest.fixture
def few() -> Iterator[None]:
    """As many descriptors as a shell gives."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Waiting:
    """A connection that waits for a request, or handles one."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.closed = False

    def is_waiting(self) -> bool:
        return not self.busy

    def force_close(self) -> None:
        self.closed = True


def test_open_sockets_leave_new_ones_their_place(few: None) -> None:
    room = Room()
    # A socket has two descriptors and waits for nothing.
    for descriptor in range(10, LIMIT - RESERVE - 2, 2):
        client = Waiting()
        room.waits(client)
        assert room.has(descriptor)
        assert not client.closed
        room.left(client)


def test_whoever_waits_longest_goes_first_and_counts_for_the_descriptor_it_may_need(few: None) -> None:
    room, clients = Room(), [Waiting() for _ in range(LIMIT)]
    half = (LIMIT - RESERVE) // 2
    for descriptor, client in enumerate(clients[:half]):
        room.waits(client)
        assert room.has(descriptor)
    assert not any(client.closed for client in clients)
    room.waits(clients[half])
    assert room.has(half)
    assert [client.closed for client in clients[:3]] == [True, False, False]


def test_who_is_busy_stays_and_nobody_new_comes_in(few: None) -> None:
    room, busy = Room(), [Waiting(busy=True) for _ in range(LIMIT)]
    for descriptor, client in enumerate(busy[: LIMIT - RESERVE]):
        room.waits(client)
        assert room.has(descriptor)
    late = Waiting(busy=True)
    room.waits(late)
    assert not room.has(LIMIT - RESERVE)
    assert not any(client.closed for client in busy)
