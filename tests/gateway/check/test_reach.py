"""The hops of `moorline check` that need no event loop."""

import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from moorline.gateway.check.reach import reach
from moorline.gateway.check.verdicts import Failure, FailureKind, Hop, Step

HOST = "127.0.0.1"


def resolved_to(*addresses: tuple[str, int]) -> Any:
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]


def failed(steps: list[Step]) -> tuple[Hop, Failure | None]:
    return steps[-1].hop, steps[-1].failure


def test_a_check_without_a_server_imports_neither_asyncio_nor_tls(unused_tcp_port: int) -> None:
    code = (
        "import sys; from moorline.gateway.run import cli; "
        f"status = cli.main(['check', 'http://{HOST}:{unused_tcp_port}']); "
        "print(status, {'asyncio', 'ssl', 'aiohttp', 'logging'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("1 set()\n")


def test_a_resolver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        released.wait(10)
        return []

    monkeypatch.setattr("socket.getaddrinfo", hang)
    try:
        assert failed(list(reach("chat.example", 80, 0.05))) == (Hop.NAME, Failure(FailureKind.TIMEOUT))
    finally:
        released.set()


@pytest.mark.parametrize("name", ["a..example", "é." + "x" * 64])
def test_a_name_that_is_none_has_no_address(name: str) -> None:
    assert failed(list(reach(name, 80, 5))) == (Hop.NAME, Failure(FailureKind.UNKNOWN))


def test_the_second_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("socket.getaddrinfo", resolved_to((HOST, unused_tcp_port), (HOST, port)))
        name, tcp = reach("chat.example", port, 5)
    assert (name.failure, tcp.failure, tcp.detail) == (None, None, f"{HOST} port {port}")


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def connect(sock: socket.socket, address: object) -> None:
        given.append(sock.gettimeout() or 0.0)
        raise TimeoutError

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", resolved_to((HOST, 1), (HOST, 2)))
    assert failed(list(reach("chat.example", 1, 8))) == (Hop.TCP, Failure(FailureKind.TIMEOUT))
    assert given[0] == pytest.approx(4, abs=0.5)
    assert given[1] == pytest.approx(8, abs=1)
