"""Which connections are closed when descriptors run short."""

from moorline.gateway.common.web.idle import Descriptors, IdleConnections

LIMIT = 1024
RESERVE = 64
NOW = 100.0


class Client:
    """A connection that waits for a request, or handles one."""

    def __init__(self, *, busy: bool = False, asked: bool = True) -> None:
        self.busy = busy
        self.asked = asked
        self.closed = False

    def has_asked(self) -> bool:
        return self.asked

    def is_waiting(self) -> bool:
        return not self.busy

    def has_begun(self) -> bool:
        return self.busy

    def force_close(self) -> None:
        self.closed = True


def idle_connections() -> IdleConnections:
    """With as many descriptors as a shell gives."""
    return IdleConnections(Descriptors(LIMIT, taken=10))


def test_open_sockets_leave_new_ones_their_place() -> None:
    idle = idle_connections()
    # A socket has two descriptors and waits for nothing.
    for descriptor in range(10, LIMIT - RESERVE - 2, 2):
        client = Client()
        assert idle.admit(client, descriptor, NOW)
        assert not client.closed
        idle.remove(client)


def test_the_longest_idle_goes_first_and_counts_for_the_descriptor_it_may_need() -> None:
    idle, clients = idle_connections(), [Client() for _ in range(LIMIT)]
    half = (LIMIT - RESERVE) // 2
    for descriptor, client in enumerate(clients[:half]):
        assert idle.admit(client, descriptor, NOW)
    assert not any(client.closed for client in clients)
    assert idle.admit(clients[half], half, NOW)
    assert [client.closed for client in clients[:3]] == [True, False, False]


def test_busy_connections_stay_and_new_ones_are_refused() -> None:
    idle, busy = idle_connections(), [Client(busy=True) for _ in range(LIMIT)]
    for descriptor, client in enumerate(busy[: LIMIT - RESERVE]):
        assert idle.admit(client, descriptor, NOW)
    assert not idle.admit(Client(), LIMIT - RESERVE, NOW)
    assert not any(client.closed for client in busy)


def test_one_that_never_asked_goes_before_one_that_is_idle_for_longer() -> None:
    idle, kept, silent = idle_connections(), Client(), Client(asked=False)
    idle.add(kept, NOW)
    idle.add(silent, NOW + 1)
    assert idle.admit(Client(asked=False), LIMIT - RESERVE - 3, NOW + 3)
    assert (kept.closed, silent.closed) == (False, True)


def test_one_that_had_no_time_to_ask_yet_stays_before_one_that_is_idle() -> None:
    idle, kept, new = idle_connections(), Client(), Client(asked=False)
    idle.add(kept, NOW)
    idle.add(new, NOW + 3)
    assert idle.admit(Client(asked=False), LIMIT - RESERVE - 3, NOW + 3)
    assert (kept.closed, new.closed) == (True, False)


def test_one_that_had_time_to_take_its_last_response_goes_first() -> None:
    idle, kept, new, old = idle_connections(), Client(), Client(), Client()
    idle.add(kept, NOW)
    idle.linger(old, NOW + 1)
    idle.linger(new, NOW + 3)
    for number, closed in enumerate([(False, True, False), (True, True, False), (True, True, True)]):
        idle.admit(Client(busy=True), LIMIT - RESERVE - 2 + number, NOW + 3)
        assert (kept.closed, old.closed, new.closed) == closed


def test_the_last_connections_are_reserved_and_sockets_leave_them_free() -> None:
    descriptors = Descriptors(LIMIT, taken=10)
    idle = IdleConnections(descriptors)
    assert not idle.is_reserved(10 + 2 * descriptors.sockets - 1)
    assert idle.is_reserved(descriptors.accepted - 1)


def test_one_address_keeps_so_many_silent_connections_and_its_oldest_goes_first() -> None:
    idle, clients = idle_connections(), [Client(asked=False) for _ in range(257)]
    other = Client(asked=False)
    idle.admit(other, 9, NOW, "192.0.2.9")
    for client in clients[:256]:
        assert idle.admit(client, 10, NOW, "192.0.2.1")
    assert idle.admit(clients[256], 10, NOW + 6, "192.0.2.1")
    assert [client.closed for client in (other, *clients[:2])] == [False, True, False]


def test_connections_that_had_no_time_to_ask_yet_stay_however_many_they_are() -> None:
    idle, clients = idle_connections(), [Client(asked=False) for _ in range(400)]
    for client in clients:
        assert idle.admit(client, 10, NOW, "192.0.2.1")
    assert not any(client.closed for client in clients)


def test_a_connection_that_has_asked_does_not_count_as_silent() -> None:
    idle, clients = idle_connections(), [Client(asked=False) for _ in range(300)]
    for number, client in enumerate(clients):
        assert idle.admit(client, 10, NOW + number, "192.0.2.1")
        idle.set_busy(client)
    assert not any(client.closed for client in clients)


def test_even_few_descriptors_carry_a_socket() -> None:
    assert Descriptors(16, taken=12).sockets == 1
