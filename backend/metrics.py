"""What Prometheus reads of one backend: its answers, its database and its queue. No label holds an id, a patient or
what a person wrote; error codes are those of the protocol.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from moorline.backend.run import Figures, Outcome

__all__ = ["Gauges", "Metrics"]

_FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
_SECONDS = (0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
_RATES = (10, 25, 50, 100, 200, 400, 800, 1600)


@dataclasses.dataclass(frozen=True, slots=True)
class Gauges:
    """What is looked up at a scrape."""

    answering: int
    waiting: int
    sessions_read: int
    """Sessions with a socket or a poll that waits."""
    commits: int
    """Since the start."""


class Metrics(Collector):
    """The series of one backend, in a registry of its own: several may live in one process."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges
        self._database_is_up = True
        self._registry = CollectorRegistry()
        self._runs = Counter(
            "moorline_runs_ended",
            "Answers that ended, by finish and, where it is `error`, by code",
            ["finish", "code"],
            registry=self._registry,
        )
        self._first = Histogram(
            "moorline_first_token_seconds",
            "From the message to the first text of its answer, the wait for a slot included",
            buckets=_FIRST,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "moorline_run_seconds",
            "From the message to the end of its answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rates = Histogram(
            "moorline_answer_characters_per_second",
            "How fast an answer came, from its first text to its end",
            buckets=_RATES,
            registry=self._registry,
        )
        self._tokens = Counter(
            "moorline_tokens", "Tokens as the provider counted them, where it does", ["kind"], registry=self._registry
        )
        self._registry.register(self)

    # Events -----------------------------------------------------------------------------------------------------------

    def run_ended(self, outcome: Outcome | None, figures: Figures) -> None:
        """A run ended; without an outcome it was lost to another process or erased."""
        finish = "lost" if outcome is None else outcome.finish.value
        code = str(outcome.error.code) if outcome is not None and outcome.error is not None else ""
        self._runs.labels(finish, code).inc()
        self._seconds.observe(figures.seconds)
        if figures.first is not None:
            self._first.observe(figures.first)
            if (streaming := figures.seconds - figures.first) > 0:
                self._rates.observe(figures.characters / streaming)
        if outcome is not None and outcome.usage is not None:
            self._tokens.labels("input").inc(outcome.usage.input_tokens)
            self._tokens.labels("output").inc(outcome.usage.output_tokens)

    # Scrapes ----------------------------------------------------------------------------------------------------------

    def render(self, accept: str, *, database_is_up: bool) -> tuple[str, bytes]:
        """Content type and body, in the format that `accept` prefers."""
        self._database_is_up = database_is_up
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would call `collect` for the names otherwise."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The series that are looked up."""
        gauges = self._gauges()
        yield GaugeMetricFamily("moorline_runs_answering", "Answers that are being written", value=gauges.answering)
        yield GaugeMetricFamily("moorline_runs_waiting", "Messages that wait for max_runs", value=gauges.waiting)
        yield GaugeMetricFamily(
            "moorline_sessions_read", "Sessions with a socket or a poll that waits", value=gauges.sessions_read
        )
        yield CounterMetricFamily(
            "moorline_commits", "Transactions of the event log that added something", value=gauges.commits
        )
        yield GaugeMetricFamily(
            "moorline_database_up", "1 where the database answered this scrape", value=self._database_is_up
        )
