"""How many sockets one client may have."""

import pytest

from moorline.gateway.errors import TooManyHandshakes, Unavailable
from moorline.gateway.proxy.socket_limits import SocketLimits


def limits(most: int = 10, per_address: int | None = 2, proxy: str = "127.0.0.1") -> SocketLimits:
    return SocketLimits(most, per_address, lambda address: address == proxy)


def test_one_address_has_its_share_and_another_is_still_accepted() -> None:
    counted = limits()
    for _ in range(2):
        counted.admit("9.9.9.9", 0.0)
    with pytest.raises(Unavailable, match="max_connections_per_address"):
        counted.admit("9.9.9.9", 0.0)
    counted.admit("9.9.9.8", 0.0)


def test_a_socket_that_ended_leaves_its_place() -> None:
    counted = limits(per_address=1)
    counted.add("9.9.9.9")
    counted.remove("9.9.9.9")
    counted.admit("9.9.9.9", 0.0)


def test_an_address_without_a_socket_takes_no_memory() -> None:
    counted = limits()
    for number in range(100):
        counted.admit(f"9.9.9.{number}", 0.0)
        counted.remove(f"9.9.9.{number}")
    assert counted._by_network == {}


def test_one_address_never_takes_more_than_half() -> None:
    counted = limits(most=4, per_address=100)
    for _ in range(2):
        counted.add("9.9.9.9")
    with pytest.raises(Unavailable, match="max_connections_per_address"):
        counted.admit("9.9.9.9", 0.0)


def test_a_trusted_proxy_stands_for_many_clients_and_has_the_total_alone() -> None:
    counted = limits(most=4, per_address=1)
    for _ in range(4):
        counted.admit("127.0.0.1", 0.0)
    with pytest.raises(Unavailable, match=r"\(max_connections\)"):
        counted.admit("127.0.0.1", 0.0)


def test_off_leaves_the_total_alone() -> None:
    counted = limits(most=4, per_address=None)
    for _ in range(3):
        counted.add("9.9.9.9")
    counted.admit("9.9.9.9", 0.0)


def test_one_address_opens_so_many_sockets_in_a_minute_and_a_proxy_any_number() -> None:
    counted = SocketLimits(100, None, lambda address: address == "127.0.0.1", handshakes_per_address=2)
    for address in ("2001:db8::1", "2001:db8::2", *["127.0.0.1"] * 9):
        counted.admit(address, 0.0)
        counted.remove(address)
    with pytest.raises(TooManyHandshakes, match="handshakes_per_address") as refused:
        counted.admit("2001:db8::3", 1.0)
    assert (refused.value.status, refused.value.retry_after) == (429, 29)
    counted.admit("2001:db8::3", 30.0)
