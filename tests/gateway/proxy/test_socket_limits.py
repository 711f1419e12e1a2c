"""How many sockets one client may have."""

import pytest

from moorline.gateway.errors import Unavailable
from moorline.gateway.proxy.socket_limits import SocketLimits


def limits(most: int = 10, per_address: int | None = 2, proxy: str = "127.0.0.1") -> SocketLimits:
    return SocketLimits(most, per_address, lambda address: address == proxy)


def test_one_address_has_its_share_and_another_one_still_gets_in() -> None:
    counted = limits()
    for _ in range(2):
        counted.admit("9.9.9.9")
    with pytest.raises(Unavailable, match="max_connections_per_address"):
        counted.admit("9.9.9.9")
    counted.admit("9.9.9.8")


def test_a_socket_that_ended_leaves_its_place() -> None:
    counted = limits(per_address=1)
    counted.add("9.9.9.9")
    counted.remove("9.9.9.9")
    counted.admit("9.9.9.9")


def test_one_address_never_takes_more_than_half() -> None:
    counted = limits(most=4, per_address=100)
    for _ in range(2):
        counted.add("9.9.9.9")
    with pytest.raises(Unavailable, match="max_connections_per_address"):
        counted.admit("9.9.9.9")


def test_a_trusted_proxy_stands_for_many_clients_and_has_the_total_alone() -> None:
    counted = limits(most=4, per_address=1)
    for _ in range(4):
        counted.admit("127.0.0.1")
    with pytest.raises(Unavailable, match=r"\(max_connections\)"):
        counted.admit("127.0.0.1")


def test_off_leaves_the_total_alone() -> None:
    counted = limits(most=4, per_address=None)
    for _ in range(3):
        counted.add("9.9.9.9")
    counted.admit("9.9.9.9")
