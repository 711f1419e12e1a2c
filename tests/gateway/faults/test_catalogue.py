"""The faults by name, without any connection."""

import pytest

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.catalogue import CATALOGUE, Fault, Phase, fault_named, parameters_of


def test_there_are_the_faults_that_a_connection_may_have() -> None:
    assert len([fault for fault in CATALOGUE.values() if fault.phase is not Phase.PROVIDER]) >= 25


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=CATALOGUE)
def test_every_fault_says_in_a_sentence_what_it_does(fault: Fault) -> None:
    assert fault.does.endswith(".")


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=CATALOGUE)
def test_every_fault_can_have_the_parameters_of_a_marked_run(fault: Fault) -> None:
    given = {name: value for name, value in fault.marked.items() if name not in ("side", "path", "times")}
    assert parameters_of(fault, given).items() >= given.items()


def test_an_unknown_fault_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="rest: there is no such fault; did you mean reset"):
        fault_named("rest")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("reset", {"after": 1}, "reset: there is no parameter after; there are after_bytes, side, path, times"),
        ("reset", {"after_bytes": -1}, "reset: after_bytes=-1 is not a number from 0 up"),
        ("delay", {"seconds": "1s"}, "delay: seconds='1s' is not a number from 0 up"),
        ("status", {"code": 5000}, "status: code=5000 is not a number from 100 to 4999"),
        ("slow", {"rate": 0}, "slow: rate=0 is not a number from 1 up"),
        ("close", {"reason": "x" * 124}, "is not text of at most 123 bytes"),
    ],
)
def test_a_parameter_that_a_fault_cannot_have_is_refused(name: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parameters_of(fault_named(name), given)


def test_a_removed_header_leaves_the_others() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert CATALOGUE["strip_upgrade"].make()(head) == b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
