"""The faults by name: what each does to a connection, in which phase, with which parameters. Pure.

Each is a function of its parameters. It returns a script, the actions that follow one another; or a function that
rewrites headers; or a `Shaper` for each direction of a connection. `link.py` carries them out on sockets.
"""

import dataclasses
import difflib
import enum
import inspect
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.shaping import Buffer, Delay, Pieces, Shaper, Slow
from moorline.gateway.tunnel.endings import Side

__all__ = [
    "CATALOGUE",
    "Action",
    "Fault",
    "Phase",
    "Refusal",
    "Rewrite",
    "Script",
    "Step",
    "fault_named",
    "parameters_of",
]


class Phase(enum.StrEnum):
    """When a fault acts."""

    OUTAGE = "outage"
    """On every connection, and on the listening port."""
    CONNECT = "connect"
    REQUEST = "request"
    """Instead of passing the request on, or on the request's headers."""
    RESPONSE = "response"
    """On the headers of the response."""
    OPEN = "open"
    """Behind the headers of the response."""
    CARRY = "carry"
    """On everything behind the headers of the response, as long as it lasts."""
    PROVIDER = "provider"
    """On a request to a model's server."""


class Step(enum.Enum):
    """What may be done to a connection beside sending to its client."""

    FIN = "both ends get a FIN behind what was sent"
    RESET = "both ends get a RST"
    HOLD = "nothing is read, and nothing sent"
    SILENCE = "everything is read and discarded, and nothing sent"
    STALL_CLIENT = "nothing is read from the server any more"
    STALL_SERVER = "nothing is read from the client any more"
    VANISH = "nothing passes in either direction any more"


# Bytes go to the client; a number of seconds is a pause.
Action = bytes | float | Step
Script = Iterator[Action]
Rewrite = Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's status, and the code of the error object that comes with it."""

    status: int
    code: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of the catalogue."""

    name: str
    does: str
    phase: Phase
    side: Side
    """Between client and gateway, or between gateway and upstream, where nothing else is asked for."""
    parameters: Mapping[str, Any]
    """With their defaults."""
    make: Callable[..., Any]
    """Returns a `Script`, a `Rewrite`, a `Shaper`, or of a provider a `Refusal` or a `Step`."""
    sockets_only: bool
    at_boundary: bool
    """Acts between two frames of the server's."""
    only_responses: bool
    """Acts in the direction to the client alone."""
    marked: Mapping[str, Any]
    """The parameters for `@pytest.mark.moorline_faults`: the fault passes, so that an application can survive it."""

    @property
    def lasts(self) -> bool:
        """It is a state of the network, which every connection meets."""
        return self.phase in (Phase.CARRY, Phase.OUTAGE)


CATALOGUE: dict[str, Fault] = {}

# RFC 6455 section 5.2, toward a client: unmasked.
_TEXT, _BINARY = b"\x81", b"\x82"
_SERVICE_RESTART = 1012
# Section 5.5: a control frame has at most 125 bytes, and the code takes two.
_MAX_REASON = 123


def _fault(
    phase: Phase,
    *,
    side: Side = Side.CLIENT,
    sockets_only: bool = False,
    at_boundary: bool = False,
    only_responses: bool = False,
    **marked: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into the catalogue: its name, its first line of documentation and its parameters."""

    def entered(make: Callable[..., Any]) -> Callable[..., Any]:
        parameters = {name: each.default for name, each in inspect.signature(make).parameters.items()}
        if phase is Phase.OPEN and "idle" not in parameters:
            parameters["after_bytes"] = 0
        if phase is Phase.OUTAGE:
            parameters["after_bytes"] = None
        CATALOGUE[make.__name__] = Fault(
            name=make.__name__,
            does=(inspect.getdoc(make) or "").partition("\n")[0],
            phase=phase,
            side=side,
            parameters=parameters,
            make=make,
            sockets_only=sockets_only or at_boundary,
            at_boundary=at_boundary,
            only_responses=only_responses,
            marked=marked,
        )
        return make

    return entered


def fault_named(name: str) -> Fault:
    """Raises:
    UsageError: there is none of this name.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(CATALOGUE)}"
        raise UsageError(f"{name}: there is no such fault; {meant}")
    return CATALOGUE[name]


def parameters_of(fault: Fault, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given, and the defaults of the others.

    Raises:
        UsageError: the fault has no such parameter, or cannot have this value.
    """
    for name, value in given.items():
        if name not in fault.parameters:
            known = ", ".join((*fault.parameters, "side", "path", "times"))
            raise UsageError(f"{fault.name}: there is no parameter {name}; there are {known}")
        default = fault.parameters[name]
        if not (value == default or _fits(name, value, type(default))):
            raise UsageError(f"{fault.name}: {name}={value!r} is not {_expected(name, type(default))}")
    return {**fault.parameters, **given}


# By parameter: the least value, and the greatest.
_LIMITS = {"code": (100, 4999), "rate": (1, math.inf), "size": (1, 2**63 - 1)}


def _fits(name: str, value: object, kind: type[Any]) -> bool:
    if kind is str:
        return isinstance(value, str) and len(value.encode()) <= _MAX_REASON
    least, most = _LIMITS.get(name, (0, math.inf))
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _expected(name: str, kind: type[Any]) -> str:
    if kind is str:
        return f"text of at most {_MAX_REASON} bytes"
    least, most = _LIMITS.get(name, (0, math.inf))
    return f"a number from {least} up" if most == math.inf else f"a number from {least} to {most}"


# The listening port ---------------------------------------------------------------------------------------------------


@_fault(Phase.OUTAGE, side=Side.UPSTREAM, seconds=1.0)
def refuse(*, seconds: float | None = None) -> Script:
    """New connections are refused; open ones go on. `seconds`: for so long."""
    yield from ()


@_fault(Phase.OUTAGE, side=Side.UPSTREAM)
def gone(*, seconds: float | None = 1.0) -> Script:
    """All connections are reset, and new ones refused for `seconds`."""
    yield Step.RESET


@_fault(Phase.OUTAGE, side=Side.UPSTREAM, after_bytes=1)
def restart(*, seconds: float | None = 0.5) -> Script:
    """Sockets get Close 1012, all connections a FIN, and new ones are refused for `seconds`."""
    yield _close(_SERVICE_RESTART, "")
    yield Step.FIN


# Instead of a response ------------------------------------------------------------------------------------------------


@_fault(Phase.CONNECT, side=Side.UPSTREAM)
def hold() -> Script:
    """Connections are accepted, and nothing is read or sent."""
    yield Step.HOLD


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def silent() -> Script:
    """Requests are read and never answered."""
    yield Step.SILENCE


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def status(*, code: int = 503) -> Script:
    """Requests get a response of this status instead of the server's."""
    body = b"injected\n"
    head = f"HTTP/1.1 {code} Injected\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    yield head.encode() + b"Connection: close\r\n\r\n" + body
    yield Step.FIN


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def not_http() -> Script:
    """Requests get bytes that are not HTTP."""
    yield b"220 mail.example.com ESMTP\r\n\r\n"
    yield Step.FIN


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def half_headers() -> Script:
    """The connection ends within the headers of the response."""
    yield b"HTTP/1.1 101 Switching Protocols\r\nUpgr"
    yield Step.FIN


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def slow_headers(*, seconds: float = 0.02) -> Script:
    """The headers of the response never end; one arrives every `seconds`."""
    yield b"HTTP/1.1 101 Switching Protocols\r\n"
    for number in itertools.count():
        yield b"X-Field-%d: x\r\n" % number
        yield float(seconds)


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def reset_handshake() -> Script:
    """The connection is reset instead of a response."""
    yield Step.RESET


@_fault(Phase.REQUEST, side=Side.UPSTREAM)
def fin_handshake() -> Script:
    """The connection ends instead of a response."""
    yield Step.FIN


# Headers --------------------------------------------------------------------------------------------------------------


@_fault(Phase.REQUEST, side=Side.UPSTREAM, sockets_only=True)
def strip_upgrade() -> Rewrite:
    """A proxy removes Upgrade and Connection, so that an ordinary request arrives."""
    return lambda head: _with(_without(head, b"Upgrade", b"Connection"), b"Connection: close")


@_fault(Phase.RESPONSE, side=Side.UPSTREAM, sockets_only=True)
def no_accept() -> Rewrite:
    """The 101 has no Sec-WebSocket-Accept."""
    return lambda head: _without(head, b"Sec-WebSocket-Accept")


@_fault(Phase.RESPONSE, side=Side.UPSTREAM, sockets_only=True)
def wrong_accept() -> Rewrite:
    """The 101 has another key's Sec-WebSocket-Accept."""
    wrong = b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    return lambda head: _with(_without(head, b"Sec-WebSocket-Accept"), wrong)


@_fault(Phase.RESPONSE, side=Side.UPSTREAM, sockets_only=True)
def wrong_subprotocol() -> Rewrite:
    """The 101 selects a subprotocol that the client did not offer."""
    wrong = b"Sec-WebSocket-Protocol: injected"
    return lambda head: _with(_without(head, b"Sec-WebSocket-Protocol"), wrong)


def _without(head: bytes, *names: bytes) -> bytes:
    """Headers without those of these names; nothing happens to the status line, or to a 200."""
    pattern = rb"(?i)\r\n(?:%b):[^\r\n]*" % b"|".join(map(re.escape, names))
    return re.sub(pattern, b"", head)


def _with(head: bytes, line: bytes) -> bytes:
    return head.removesuffix(b"\r\n") + line + b"\r\n\r\n"


# Open connections -----------------------------------------------------------------------------------------------------


@_fault(Phase.OPEN, after_bytes=1)
def reset() -> Script:
    """The connection is reset."""
    yield Step.RESET


@_fault(Phase.OPEN, idle=0.3)
def reset_idle(*, idle: float = 1.0) -> Script:
    """The connection is reset once nothing has passed for `idle` seconds."""
    yield Step.RESET


@_fault(Phase.OPEN, idle=0.3)
def idle_cut(*, idle: float = 1.0) -> Script:
    """The connection ends with a FIN once nothing has passed for `idle` seconds."""
    yield Step.FIN


@_fault(Phase.OPEN, after_bytes=1)
def fin() -> Script:
    """The connection ends with a FIN, without a Close frame or the end of its response."""
    yield Step.FIN


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def close(*, code: int = 1011, reason: str = "") -> Script:
    """The client gets a Close frame of this code."""
    yield _close(code, reason)
    yield Step.FIN


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def cut_mid_frame() -> Script:
    """The connection ends in the middle of a frame of the server's."""
    yield _TEXT + bytes((100,)) + b"half"
    yield Step.FIN


@_fault(Phase.OPEN, after_bytes=1)
def vanish() -> Script:
    """Nothing passes in either direction any more, and neither end is told."""
    yield Step.VANISH


@_fault(Phase.OPEN, after_bytes=1)
def stall_client() -> Script:
    """The client reads nothing any more."""
    yield Step.STALL_CLIENT


@_fault(Phase.OPEN, side=Side.UPSTREAM, after_bytes=1)
def stall_upstream() -> Script:
    """The upstream reads nothing any more."""
    yield Step.STALL_SERVER


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def bad_frame() -> Script:
    """The client gets a frame with a reserved opcode and reserved bits."""
    yield b"\xf3\x00"


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def bad_utf8() -> Script:
    """The client gets a text frame that is not UTF-8."""
    yield _TEXT + b"\x02\xff\xfe"


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def masked_frame() -> Script:
    """The client gets a frame that is masked, which only a client's may be."""
    yield _TEXT + b"\x82" + b"\x00\x00\x00\x00" + b"ok"


@_fault(Phase.OPEN, at_boundary=True, after_bytes=1)
def oversized_frame(*, size: int = 1 << 30) -> Script:
    """The client gets a frame whose header says `size`, and not all of its payload."""
    yield _BINARY + b"\x7f" + int(size).to_bytes(8, "big") + bytes(1000)


def _close(code: int, reason: str) -> bytes:
    payload = int(code).to_bytes(2, "big") + reason.encode()
    return b"\x88" + bytes((len(payload),)) + payload


# Slow and lossy networks ----------------------------------------------------------------------------------------------


@_fault(Phase.CARRY)
def delay(*, seconds: float = 0.2) -> Shaper:
    """Everything arrives `seconds` later, in both directions."""
    return Delay(lambda: seconds)


@_fault(Phase.CARRY)
def jitter(*, seconds: float = 0.2) -> Shaper:
    """Everything arrives later, each time by a random part of `seconds`, in order."""
    return Delay(lambda: random.uniform(0, seconds))


@_fault(Phase.CARRY, rate=20_000)
def slow(*, rate: float = 1000) -> Shaper:
    """At most `rate` bytes a second pass in each direction."""
    return Slow(rate)


@_fault(Phase.CARRY)
def pieces(*, size: int = 1) -> Shaper:
    """Everything arrives in segments of `size` bytes."""
    return Pieces(size)


@_fault(Phase.CARRY, only_responses=True, size=200)
def buffer(*, size: int = 16_384) -> Shaper:
    """A proxy passes the server's bytes on only when `size` of them have come."""
    return Buffer(size)


@_fault(Phase.CARRY, sockets_only=True)
def drop_pong() -> None:
    """Pongs are dropped in both directions."""


# A model's server -----------------------------------------------------------------------------------------------------


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_401() -> Refusal:
    """The provider refuses the key."""
    return Refusal(401, "invalid_api_key")


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_404() -> Refusal:
    """The provider does not know the model."""
    return Refusal(404, "model_not_found")


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_429() -> Refusal:
    """The provider is asked too often."""
    return Refusal(429, "rate_limit_exceeded")


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_quota() -> Refusal:
    """The account's quota is used up."""
    return Refusal(429, "insufficient_quota")


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_500() -> Refusal:
    """The provider fails."""
    return Refusal(500, "server_error")


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_stall() -> Step:
    """The provider begins an answer, and nothing more comes."""
    return Step.SILENCE


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_cut() -> Step:
    """The provider's stream ends in the middle of an answer, without a reason."""
    return Step.FIN


@_fault(Phase.PROVIDER, side=Side.UPSTREAM)
def provider_reset() -> Step:
    """The provider's connection is reset in the middle of an answer."""
    return Step.RESET
