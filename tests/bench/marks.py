"""The marks that the gateway's figures are held against."""

import dataclasses
from collections.abc import Mapping, Sequence

from tests.bench.table import columns, number

__all__ = [
    "API_LARGE",
    "API_SMALL",
    "ASSET",
    "CAUSE_MEMORY",
    "CHECK",
    "FIRST",
    "HANDSHAKE",
    "HANDSHAKE_AND_END",
    "HTTP_MARKS",
    "MARKS",
    "NO_WORK",
    "READY",
    "RECONNECT_CPU",
    "RECONNECT_MARKS",
    "START_MARKS",
    "VERSION",
    "WHY_MARKS",
    "WHY_ROUND_TRIP",
    "Mark",
    "marks_table",
    "verdicts",
]

Medians = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """`row` of the `subject` is at most `limit`, or at most `limit` times the one of `peer`."""

    row: str
    limit: float
    peer: str | None = None
    at_least: bool = False
    subject: str = "gateway"

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}" + (f" x {self.peer}" if self.peer else "")


API_SMALL, API_LARGE = "GET /api, 400 B", "GET /api, 64 KiB"
ASSET = "asset, 4 KiB"
NO_WORK = "GET /healthz"
HANDSHAKE = "CPU per handshake"
HANDSHAKE_AND_END = "CPU per socket, opened and closed"
RECONNECT_CPU = "CPU per handshake, all at once"
VERSION, CHECK = "moorline --version", "moorline check, without a server"
READY = "moorline serve, until it is ready"
FIRST = "moorline.testing, the first gateway"

WHY_ROUND_TRIP = "CPU per round trip, 128 B, with causes"
_ROUND_TRIP = "CPU per round trip, 128 B, 32 connections"
CAUSE_MEMORY = "memory of an open socket, kept for its cause"
_LARGE = ("CPU per round trip, 16 KiB, 32 connections", "CPU per round trip, 1 MiB, 4 connections")

MARKS = (
    Mark(_ROUND_TRIP, 1.2, "nginx"),
    *(Mark(_ROUND_TRIP, 1, peer) for peer in ("vite", "http-proxy-3", "caddy", "haproxy")),
    *(Mark(row, 1, "nginx") for row in _LARGE),
    *(Mark(row, 1.3, "bare relay") for row in _LARGE),
    Mark("CPU per message of a stream, 60 B", 1.2, "nginx"),
    Mark("memory per idle tunnel", 1, "nginx"),
    Mark("CPU of idle tunnels with heartbeats", 5),
    *(Mark(row, 1, "caddy") for row in (HANDSHAKE, HANDSHAKE_AND_END)),
    Mark("added latency, median", 1.2, "nginx"),
    Mark("added latency, 99th percentile", 1.2, "nginx"),
    Mark("two workers: round trips per second, x one", 1.8, at_least=True),
    Mark("two workers: round trips per CPU second of the busier, x one", 1.8, at_least=True),
)

RECONNECT_MARKS = (Mark(RECONNECT_CPU, 1, "caddy"),)

START_MARKS = (
    Mark(VERSION, 150, subject="moorline"),
    Mark(CHECK, 150, subject="moorline"),
    Mark(READY, 1000, subject="moorline"),
    Mark(FIRST, 150, subject="moorline"),
)

WHY_MARKS = (Mark(WHY_ROUND_TRIP, 1.02), Mark(CAUSE_MEMORY, 200))

HTTP_MARKS = (
    *(Mark(row, 0.8, "http-proxy-3") for row in (API_SMALL, API_LARGE)),
    Mark(ASSET, 1.5, "sirv"),
    Mark(NO_WORK, 1.5, "aiohttp", subject="gateway unlogged"),
    Mark(NO_WORK, 1.5, "aiohttp logged"),
)


def verdicts(medians: Medians, marks: Sequence[Mark]) -> list[list[str]]:
    """A row for each mark: subject, what it is about, the mark, what was reached, and whether that is enough."""
    return [[mark.subject, mark.row, str(mark), *_verdict(medians.get(mark.row, {}), mark)] for mark in marks]


def _verdict(values: Mapping[str, float], mark: Mark) -> tuple[str, str]:
    value = values.get(mark.subject)
    if value is None or (mark.peer is not None and values.get(mark.peer, 0) <= 0):
        return "-", "not measured"
    reached = value / values[mark.peer] if mark.peer is not None else value
    is_enough = reached >= mark.limit if mark.at_least else reached <= mark.limit
    return number(reached), "reached" if is_enough else "MISSED"


def marks_table(medians: Medians, marks: Sequence[Mark]) -> str:
    """The verdicts for people."""
    return columns([["", "", "mark", "is", ""], *verdicts(medians, marks)], left=3)
