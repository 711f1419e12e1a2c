"""What a gateway counts, and what Prometheus looks up at a scrape. Pure."""

import dataclasses
from collections.abc import Sequence

__all__ = ["Counts", "Gauges", "Sample", "Traffic"]


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """What sockets have carried in all."""

    from_client: int = 0
    """Bytes."""
    from_upstream: int = 0
    frames_from_client: int = 0
    frames_from_upstream: int = 0

    def grown(
        self, from_client: int, from_upstream: int, frames_from_client: int, frames_from_upstream: int
    ) -> "Traffic":
        """With what one more has carried."""
        return Traffic(
            self.from_client + from_client,
            self.from_upstream + from_upstream,
            self.frames_from_client + frames_from_client,
            self.frames_from_upstream + frames_from_upstream,
        )

    def __add__(self, other: "Traffic") -> "Traffic":
        return self.grown(other.from_client, other.from_upstream, other.frames_from_client, other.frames_from_upstream)

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.from_client - other.from_client,
            self.from_upstream - other.from_upstream,
            self.frames_from_client - other.frames_from_client,
            self.frames_from_upstream - other.frames_from_upstream,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One number of a counter or a histogram."""

    family: str
    name: str
    labels: tuple[str, ...]
    """Names and values in turn."""
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What one process has counted, for another one that counts it from now on."""

    traffic: Traffic = Traffic()
    samples: tuple[Sample, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Gauges:
    """What is looked up at a scrape."""

    open: int
    buffered: int
    """Bytes."""
    held: int
    traffic: Traffic
    upstreams: Sequence[tuple[str, int, bool]]
    """Each one's URL, connections, and whether it is down."""
    certificate_expiry: float | None = None
    """As `time.time()` counts; None without a certificate."""
