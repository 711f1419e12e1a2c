"""What Prometheus reads of one gateway. What can be looked up is looked up at the scrape, so that sockets pay for it at
their beginning and their end and not with each byte.

Sockets and plain requests have series of their own: one socket of eight hours would spoil every latency there is. No
label holds an id, a path or what a client may choose freely: paths are routes, and methods and codes are of few kinds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from moorline.gateway.cause import Cause
from moorline.gateway.counts import Gauges, Sample

__all__ = ["Metrics", "code_label", "method_label"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PING_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_LIFETIMES = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
_METHODS = frozenset(HTTPMethod)
# When a series began, in OpenMetrics: a time, of which the earliest counts.
_CREATED = "_created"
# Codes up to here are of RFC 6455's registry; those beyond are the applications'.
_REGISTERED = range(1000, 1016)

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Metrics(Collector):
    """The series of one gateway, in a registry of its own: several gateways may live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: Callable[[], Gauges] | None = None
        self._handshakes = Histogram(
            "moorline_handshake_seconds",
            "From the upgrade request to its response, by outcome",
            ["outcome"],
            buckets=_SECONDS,
            registry=None,
        )
        self._endings = Counter(
            "moorline_sockets_ended",
            "WebSockets that were open and ended, by the side that ended them, reason, close code and cause, which "
            "`moorline explain` puts into a sentence",
            ["ended_by", "reason", "close_code", "cause"],
            registry=None,
        )
        self._failures = Counter(
            "moorline_requests_failed",
            "Requests and handshakes that failed, by cause, which `moorline explain` puts into a sentence",
            ["cause"],
            registry=None,
        )
        self._lifetimes = Histogram(
            "moorline_socket_seconds",
            "From the opening of a socket to its end",
            buckets=_LIFETIMES,
            registry=None,
        )
        self._pings = Histogram(
            "moorline_ping_seconds",
            "From a Ping of the gateway's to its Pong",
            ["hop"],
            buckets=_PING_SECONDS,
            registry=None,
        )
        self._requests = Histogram(
            "moorline_http_request_seconds",
            "Plain requests, to the end of the response; no sockets among them",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=None,
        )
        self._counted = (
            self._handshakes,
            self._endings,
            self._failures,
            self._lifetimes,
            self._pings,
            self._requests,
        )
        # By family, and by name and labels: what another process had counted.
        self._added: dict[str, dict[_Key, float]] = {}
        self._taken: dict[_Key, float] = {}
        self._registry.register(self)

    def set_gauges(self, gauges: Callable[[], Gauges]) -> None:
        """Set where to look up what is not counted here."""
        self._gauges = gauges

    # Events -----------------------------------------------------------------------------------------------------------

    def handshake(self, outcome: str, seconds: float) -> None:
        self._handshakes.labels(outcome).observe(seconds)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method_label(method), route, str(status)).observe(seconds)

    def failed(self, cause: Cause) -> None:
        self._failures.labels(cause.code).inc()

    def round_trip(self, hop: str, seconds: float) -> None:
        self._pings.labels(hop).observe(seconds)

    def ended(self, ended_by: str, cause: Cause, code: int, seconds: float) -> None:
        self._endings.labels(ended_by, cause.reason.value, code_label(ended_by, code), cause.code).inc()
        self._lifetimes.observe(seconds)

    # From one process to another --------------------------------------------------------------------------------------

    def take(self) -> tuple[Sample, ...]:
        """What was counted since the last call, for the process that counts it from now on."""
        taken = []
        for family in self._counters():
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                before = self._taken.get(key)
                if before != sample.value:
                    self._taken[key] = sample.value
                    value = sample.value if sample.name.endswith(_CREATED) else sample.value - (before or 0.0)
                    labels = tuple(part for label in sample.labels.items() for part in label)
                    taken.append(Sample(family.name, sample.name, labels, value))
        return tuple(taken)

    def add(self, samples: Sequence[Sample]) -> None:
        """Go on with what another process has counted."""
        for sample in samples:
            added = self._added.setdefault(sample.family, {})
            key = sample.name, tuple(zip(sample.labels[::2], sample.labels[1::2], strict=True))
            added[key] = _sum(sample.name, added.get(key), sample.value)

    def _counters(self) -> Iterator[Metric]:
        for counted in self._counted:
            for family in counted.collect():
                yield _together(family, self._added[family.name]) if family.name in self._added else family

    # Scrapes ----------------------------------------------------------------------------------------------------------

    def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would call `collect` for the names otherwise."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All series: those that are counted, and those that are looked up."""
        yield from self._counters()
        if self._gauges is None:
            return
        gauges = self._gauges()
        yield GaugeMetricFamily("moorline_sockets_open", "Sockets that are open", value=gauges.open)
        yield GaugeMetricFamily(
            "moorline_sockets_buffered_bytes", "What one side of a socket does not take yet", value=gauges.buffered
        )
        yield GaugeMetricFamily("moorline_handshakes_held", "Handshakes that wait for an upstream", value=gauges.held)
        traffic = gauges.traffic
        for unit, client, upstream in (
            ("bytes", traffic.from_client, traffic.from_upstream),
            ("frames", traffic.frames_from_client, traffic.frames_from_upstream),
        ):
            family = CounterMetricFamily(f"moorline_socket_{unit}", f"What sockets carried, in {unit}", labels=["from"])
            family.add_metric(["client"], client)
            family.add_metric(["upstream"], upstream)
            yield family
        connections = GaugeMetricFamily(
            "moorline_upstream_connections", "Requests and sockets at an upstream", labels=["upstream"]
        )
        down = GaugeMetricFamily(
            "moorline_upstream_down", "1 while it is marked down and requests go to the others", labels=["upstream"]
        )
        for url, count, is_down in gauges.upstreams:
            connections.add_metric([url], count)
            down.add_metric([url], is_down)
        yield connections
        yield down
        if gauges.certificate_expiry is not None:
            yield GaugeMetricFamily(
                "moorline_certificate_expiry_timestamp_seconds",
                "When the certificate of `tls_certificate` expires, in seconds since 1970",
                value=gauges.certificate_expiry,
            )


def _together(family: Metric, added: Mapping[_Key, float]) -> Metric:
    """The family with what another process had counted. The samples of one series stay together."""
    together = Metric(family.name, family.documentation, family.type)
    values = {(sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples}
    for key, value in added.items():
        values[key] = _sum(key[0], values.get(key), value)
    for (name, labels), value in values.items():
        together.add_sample(name, dict(labels), value)
    return together


def _sum(name: str, one: float | None, other: float) -> float:
    if one is None:
        return other
    return min(one, other) if name.endswith(_CREATED) else one + other


def method_label(method: str) -> str:
    """A method of the standard's; what a client made up is one for all."""
    return method if method in _METHODS else "other"


def code_label(by: str, code: int) -> str:
    """A close code. The upstream's own are few; a client's could be four thousand different series."""
    if code in _REGISTERED or (by != "client" and 3000 <= code < 5000):
        return str(code)
    return f"{code // 1000}xxx" if 1000 <= code < 5000 else "other"
