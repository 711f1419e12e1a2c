"""Traces by OpenTelemetry: one from a browser's request through gateway and backend to the provider's answer.

Off unless an `OTEL_EXPORTER_OTLP_…` variable names a collector: then nothing of OpenTelemetry is imported, and a span
is one object that does nothing. The SDK reads the standard variables itself. Its spans wait in a bounded queue for a
thread of its own, so that a collector which is down or hangs costs spans and never the event loop; the end of the
program waits for it for `_STOP_SECONDS`.

An exception is recorded by its type alone: its message may quote a chat.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from moorline import __version__
from moorline.gateway.common.errors import missing_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["NO_SPAN", "TRACE_HEADERS", "Span", "begin", "current", "is_on", "outgoing", "start", "stop"]

log = logging.getLogger("moorline.tracing")

#: Those of W3C Trace Context, in lower case.
TRACE_HEADERS = ("traceparent", "tracestate")

Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool | Sequence[str]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OVER_HTTP = ("", "http/protobuf")
# For the spans of the last seconds to reach the collector; a drain takes longer.
_STOP_SECONDS = 2.0

_provider: "TracerProvider | None" = None


class Span:
    """A part of a trace. Off, and after its end, all of its methods do nothing."""

    __slots__ = ()

    def set(self, **attributes: Value | None) -> None:
        """Add attributes, by their names with two underscores for each dot; None is left out."""

    def rename(self, name: str) -> None:
        """Give it another name."""

    def fail(self, kind: str) -> None:
        """It failed, for a reason of this kind: a status, a code or the name of an exception's type."""

    def headers(self) -> Mapping[str, str]:
        """The headers that name this span as the parent of what is sent; none where it is off."""
        return {}

    def end(self) -> None:
        """It is over. Idempotent."""


NO_SPAN = Span()


class _Recorded(Span):
    __slots__ = ("span",)

    def __init__(self, span: Any) -> None:
        self.span = span

    def set(self, **attributes: Value | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self.span.set_attribute(name.replace("__", "."), value)

    def rename(self, name: str) -> None:
        self.span.update_name(name)

    def fail(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self.span.set_attribute("error.type", kind)
        self.span.set_status(StatusCode.ERROR)

    def headers(self) -> Mapping[str, str]:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self.span))
        return carrier

    def end(self) -> None:
        if self.span.is_recording():
            self.span.end()


def is_on() -> bool:
    """Whether spans are recorded."""
    return _provider is not None


def begin(
    name: str, kind: Kind = "internal", *, parent: Mapping[str, str] | None = None, **attributes: Value | None
) -> Span:
    """A new span, which the caller ends. Its parent is the current one or, for the first one of a process, the one that
    the headers `parent` name; without either it begins a trace.
    """
    if _provider is None:
        return NO_SPAN
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract(parent, Context())
    tracer = _provider.get_tracer("moorline", __version__)
    span = _Recorded(tracer.start_span(name, context, SpanKind[kind.upper()], record_exception=False))
    span.set(**attributes)
    return span


@contextlib.contextmanager
def current(span: Span) -> Iterator[Span]:
    """Make it the parent of spans that begin in this block, and in tasks that are created there."""
    if not isinstance(span, _Recorded):
        yield span
        return
    from opentelemetry.trace import use_span

    with use_span(span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        yield span


def outgoing() -> Mapping[str, str]:
    """The headers that name the current span as the parent, each of `TRACE_HEADERS`; none where traces are off."""
    if _provider is None:
        return {}
    from opentelemetry.trace import get_current_span

    headers = _Recorded(get_current_span()).headers()
    return {name: headers.get(name, "") for name in TRACE_HEADERS}


def start(service: str, environ: Mapping[str, str]) -> None:
    """Record spans from now on, if the environment names a collector. `service` is this program's name unless
    `OTEL_SERVICE_NAME` is another.
    """
    global _provider
    if not any(map(environ.get, _ENDPOINTS)) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return
    for name in _PROTOCOLS:
        if environ.get(name, "") not in _OVER_HTTP:
            log.warning("%s: %s is not known here; spans are sent as http/protobuf", name, environ[name])
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces: a collector is named, and %s", missing_extra("otel"))
        return
    facts = {"service.name": environ.get("OTEL_SERVICE_NAME") or service, "service.version": __version__}
    # `stop` is bounded, which the SDK's own end at the interpreter's exit is not.
    _provider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send what waits, for at most `_STOP_SECONDS`, and record nothing more."""
    global _provider
    if _provider is None:
        return
    # A daemon: an export that hangs does not keep the interpreter.
    ending = threading.Thread(target=_provider.shutdown, name="moorline-tracing", daemon=True)
    _provider = None
    ending.start()
    ending.join(_STOP_SECONDS)
    if ending.is_alive():
        log.warning("the collector does not answer: the last spans are lost")
