"""The marks that the gateway's figures are held against."""

import dataclasses
from collections.abc import Mapping, Sequence

from tests.bench.table import number

__all__ = ["MARKS", "Mark", "verdicts"]

Medians = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """`row` of the gateway is at most `limit`, or at most `limit` times the one of `peer`."""

    row: str
    limit: float
    peer: str | None = None
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}" + (f" x {self.peer}" if self.peer else "")


_ROUND_TRIP = "CPU per round trip, 128 B, 32 connections"
_LARGE = ("CPU per round trip, 16 KiB, 32 connections", "CPU per round trip, 1 MiB, 4 connections")

MARKS = (
    Mark(_ROUND_TRIP, 1.2, "nginx"),
    *(Mark(_ROUND_TRIP, 1, peer) for peer in ("vite", "http-proxy-3", "caddy", "haproxy")),
    *(Mark(row, 1, "nginx") for row in _LARGE),
    *(Mark(row, 1.3, "bare relay") for row in _LARGE),
    Mark("CPU per message of a stream, 60 B", 1.2, "nginx"),
    Mark("memory per idle tunnel", 1, "nginx"),
    Mark("CPU of idle tunnels with heartbeats", 5),
    Mark("CPU per handshake", 3, "nginx"),
    Mark("added latency, median", 1.2, "nginx"),
    Mark("added latency, 99th percentile", 1.2, "nginx"),
    Mark("two workers: round trips per second, x one", 1.8, at_least=True),
    Mark("two workers: round trips per CPU second of the busier, x one", 1.8, at_least=True),
)


def verdicts(medians: Medians, marks: Sequence[Mark] = MARKS, *, subject: str = "gateway") -> list[list[str]]:
    """A row for each mark: what it is about, the mark, what was reached, and whether that is enough."""
    return [[mark.row, str(mark), *_verdict(medians.get(mark.row, {}), mark, subject)] for mark in marks]


def _verdict(values: Mapping[str, float], mark: Mark, subject: str) -> tuple[str, str]:
    value = values.get(subject)
    if value is None or (mark.peer is not None and values.get(mark.peer, 0) <= 0):
        return "-", "not measured"
    reached = value / values[mark.peer] if mark.peer is not None else value
    is_enough = reached >= mark.limit if mark.at_least else reached <= mark.limit
    return number(reached), "reached" if is_enough else "MISSED"
