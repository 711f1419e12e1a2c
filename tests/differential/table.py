"""Rows: what is played, and what is to be seen. Both proxies play the same function; the expectations stand beside it.

`"FIN @2.0"` is a FIN two seconds after the stage's last `mark`; without `@` the instant does not matter.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

__all__ = ["SPLIT", "TIMERS", "Expected", "Record", "Row", "Seen", "table"]

TIMERS: Mapping[str, float] = {
    "proxy_connect_timeout": 2.0,
    "proxy_read_timeout": 2.0,
    "proxy_send_timeout": 2.0,
    "send_timeout": 4.0,
    "client_header_timeout": 2.0,
    "client_body_timeout": 2.0,
}
"""nginx's directives and the gateway's options alike."""
SPLIT: Mapping[str, float] = {"proxy_read_timeout": 6.0}
"""Tells what `proxy_read_timeout` ends from what `proxy_send_timeout` does."""

S = TypeVar("S")
Expected = Mapping[str, str | None]
"""By name what is to be seen; None is not to be seen at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    text: str
    at: float

    def __str__(self) -> str:
        return f"{self.text} @{self.at:.2f}"


Record = dict[str, Seen]


@dataclasses.dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """A behaviour of nginx, and what the gateway makes of it."""

    name: str
    play: Callable[[S], Awaitable[None]]
    nginx: Mapping[str, str]
    gateway: Expected
    """What differs in the gateway, on purpose."""
    truthful: Expected
    """What differs beyond that with its defaults: the endings."""
    options: Mapping[str, float]
    listening: bool
    """Whether the backend is there from the start."""
    main: str
    """What nginx needs beside these options."""
    alone: bool
    """Nothing of the gateway's compares with it."""


Add = Callable[[Callable[[S], Awaitable[None]]], Callable[[S], Awaitable[None]]]


def table(stage: type[S]) -> tuple[list[Row[S]], Callable[..., Add[S]]]:
    """An empty list of rows that are played on such a stage, and the decorator that adds one."""
    rows: list[Row[S]] = []

    def row(
        name: str,
        nginx: Mapping[str, str],
        *,
        gateway: Expected | None = None,
        truthful: Expected | None = None,
        options: Mapping[str, float] | None = None,
        listening: bool = True,
        main: str = "",
        alone: bool = False,
    ) -> Add[S]:
        def add(play: Callable[[S], Awaitable[None]]) -> Callable[[S], Awaitable[None]]:
            timers = {**TIMERS, **(options or {})}
            rows.append(Row(name, play, nginx, gateway or {}, truthful or {}, timers, listening, main, alone))
            return play

        return add

    return rows, row
