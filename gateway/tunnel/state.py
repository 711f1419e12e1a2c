"""A tunnel at rest: all that one process knows of it, as bytes that another process goes on from. Pure.

    {"version": 2, "request_id": "…", …, "tunnel": {"client": {"size": 4096, "left": 12, …}, "upstream": {…}, …}}

One JSON object with typed fields, and nothing that is executed when it is read: the process that reads it may have been
installed later. A field of another type, or another version, is refused as a whole, and the tunnel stays where it is.
Times are those of the monotonic clock, which all processes of a machine share.
"""

import base64
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

__all__ = [
    "VERSION",
    "DirectionState",
    "HeartbeatState",
    "MessageTimerState",
    "TunnelState",
    "Unreadable",
    "decode",
    "encode",
]

#: Of the form. A process that knows another one takes no tunnels.
VERSION = 2

T = TypeVar("T")


class Unreadable(ValueError):
    """Bytes that are no state of this version."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DirectionState:
    """See `Direction` and `FrameParser`; the fields have their names."""

    last: float
    size: int
    close_code: int | None
    backlog: bytes
    held: bytes
    removed: int
    frames: int
    left: int
    partial: bytes
    lost: bool
    fragmented: int | None
    unsent: bytes
    """Passed on, and not taken by the kernel yet."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatState:
    """See `Heartbeat`."""

    nonce: bytes
    sent: int
    answered: int
    sent_at: float
    checked_at: float
    restarted: float
    check_at: float
    deferred: bool
    ahead: int | None
    passed: int
    round_trips: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MessageTimerState:
    """See `MessageTimer`."""

    number: int | None
    began: float
    size: int
    next_check: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelState:
    """A tunnel whose bytes pass; one that is ending ends where it is."""

    began: float
    event: float
    client: DirectionState
    upstream: DirectionState
    closer: str | None
    """The side whose Close frame has passed first."""
    close_by: float | None
    code: int
    order: tuple[str, ...]
    client_heartbeat: HeartbeatState | None
    upstream_heartbeat: HeartbeatState | None
    message_timer: MessageTimerState | None


def encode(state: Any) -> bytes:
    """A dataclass of this kind, as `decode` reads it."""
    return json.dumps({"version": VERSION, **_plain(state)}, default=_plain).encode()


def decode(kind: type[T], data: bytes) -> T:
    """The `kind` that was encoded.

    Raises:
        Unreadable: it is none, or of another version.
    """
    try:
        fields = json.loads(data)
        if fields.pop("version") != VERSION:
            raise Unreadable("another version")
        return cast("T", _reader(cast("Any", kind))(fields))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _plain(value: Any) -> Any:
    """What JSON has no form for; `dataclasses.asdict` copies all that is in it, and takes four times as long."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return {name: getattr(value, name) for name in _readers(cast("Any", type(value)))}


@functools.cache
def _readers(kind: type) -> Mapping[str, Callable[[Any], Any]]:
    """How each field is read."""
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind.__name__} has no place in a state")
    return {name: _reader(each) for name, each in typing.get_type_hints(kind).items()}


@functools.cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, types.UnionType):
        (inner,) = (_reader(each) for each in typing.get_args(kind) if each is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(kind):
        return functools.partial(_read_fields, kind, _readers(cast("type", kind)))
    if typing.get_origin(kind) is tuple:
        item = _reader(typing.get_args(kind)[0])
        return lambda value: tuple(map(item, value))
    if kind is bytes:
        return functools.partial(base64.b64decode, validate=True)
    return functools.partial(_read_scalar, kind)


def _read_fields(kind: Any, readers: Mapping[str, Callable[[Any], Any]], value: Mapping[str, Any]) -> Any:
    if readers.keys() != value.keys():
        raise Unreadable(f"fields differ: {sorted(readers.keys() ^ value.keys())}")
    return kind(**{name: reader(value[name]) for name, reader in readers.items()})


def _read_scalar(kind: type, value: Any) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise Unreadable(f"{kind.__name__} expected, not {type(value).__name__}")
