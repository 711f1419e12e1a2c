"""A collector of OpenTelemetry's on this machine, which speaks OTLP over HTTP."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.serving import serving

__all__ = ["Collector", "Received", "collector"]

STEP = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """One span."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """What was sent to it."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.status: int | None = 200
        """Of its answers; None: it answers nothing."""
        self._changed = asyncio.Condition()

    async def span(self, holds: Callable[[Received], bool]) -> Received:
        """The first one that `holds`."""
        async with asyncio.timeout(STEP), self._changed:
            while True:
                for span in self.spans:
                    if holds(span):
                        return span
                await self._changed.wait()

    async def named(self, name: str) -> Received:
        return await self.span(lambda span: span.name == name)

    async def until_asked(self) -> None:
        """Return when something was sent."""
        async with asyncio.timeout(STEP), self._changed:
            await self._changed.wait_for(lambda: bool(self.bodies))

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.spans += _spans(body)
        async with self._changed:
            self._changed.notify_all()
        if self.status is None:
            await asyncio.Event().wait()
        content = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status or 200, body=content, content_type="application/x-protobuf")


def _spans(body: bytes) -> list[Received]:
    message = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            service=_attributes(resource.resource.attributes)["service.name"],
            name=span.name,
            trace=span.trace_id,
            id=span.span_id,
            parent=span.parent_span_id,
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
            attributes=_attributes(span.attributes),
        )
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextlib.asynccontextmanager
async def collector(*, status: int | None = 200) -> AsyncIterator[Collector]:
    """One that listens; `url` is for OTEL_EXPORTER_OTLP_ENDPOINT."""
    made = Collector()
    made.status = status
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    async with serving(app) as made.url:
        yield made
