"""What a chaos run came to: each client's view beside the log. Pure."""

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tests.support.transcript import Transcript

__all__ = ["Verdict", "judge"]


class Tab(Protocol):
    """What a client knows; see `ChatClient`."""

    transcript: Transcript
    sent: dict[str, str]
    acknowledged: dict[str, str]
    outages: list[float]


@dataclasses.dataclass(slots=True)
class Verdict:
    """The four counts must be 0."""

    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    endless: int = 0
    blows: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    finishes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    outages: list[float] = dataclasses.field(default_factory=list)

    @property
    def held(self) -> bool:
        """Something was acknowledged, and nothing went wrong with it."""
        return self.acknowledged > 0 and not (self.lost or self.doubled or self.out_of_order or self.endless)

    def __str__(self) -> str:
        median = statistics.median(self.outages) if self.outages else 0.0
        return "\n".join(
            [
                f"blows                  {_listed(self.blows)}",
                f"answers                {_listed(self.finishes)}",
                f"messages acknowledged  {self.acknowledged}",
                f"lost                   {self.lost}",
                f"doubled                {self.doubled}",
                f"out of order           {self.out_of_order}",
                f"runs without an end    {self.endless}",
                f"time to recover        median {median:.2f} s, worst {max(self.outages, default=0.0):.2f} s,"
                f" of {len(self.outages)} outages",
            ]
        )


def judge(verdict: Verdict, rows: Sequence[Mapping[str, Any]], tabs: Iterable[Tab]) -> None:
    """Add one session: all `rows` of its log, oldest first, and the tabs that followed it, which are up to date."""
    texts = {row["client_msg_id"]: row["content"] for row in rows if row["role"] == "user"}
    messages = collections.Counter(row["client_msg_id"] for row in rows if row["role"] == "user")
    answers = [row for row in rows if row["role"] == "assistant"]
    runs = collections.Counter(row["run_id"] for row in answers)
    verdict.finishes.update(str(row.get("finish")) for row in answers)
    verdict.doubled += sum(count - 1 for count in (*messages.values(), *runs.values()))
    verdict.endless += sum(not row.get("finish") for row in answers)
    shown = [(row["message_id"], row["content"]) for row in rows]
    for tab in tabs:
        verdict.outages += tab.outages
        verdict.acknowledged += len(tab.acknowledged)
        # A retry has a run and no text of its own.
        verdict.lost += sum(name in tab.sent and texts.get(name) != tab.sent[name] for name in tab.acknowledged)
        verdict.endless += sum(not runs[run] for run in tab.acknowledged.values())
        seen = [(row.message_id, row.content) for row in tab.transcript.rows.values()]
        # A snapshot begins somewhere within the log; nothing may be missing from there on.
        verdict.out_of_order += not seen or seen != shown[-len(seen) :]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
