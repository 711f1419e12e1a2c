"""What a socket leaves in the log, a line as it opens and one as it ends, and the end of its span in a trace."""

import functools
import logging

from moorline.gateway.common import logs, tracing
from moorline.gateway.proxy.sockets import Socket
from moorline.gateway.tunnel.endings import ORDERLY
from moorline.gateway.tunnel.relay import Ended

__all__ = ["end_span", "log_closed", "log_opened"]

log = logging.getLogger("moorline.gateway.ws")


class _Line:
    """A line of the log with these facts: as text and, in JSON, with each as a field."""

    def __init__(self, event: str, *names: str) -> None:
        self._names = names
        self._text = f"{event}: {' '.join([f'{name}=%s' for name in names])}"

    def log(self, *values: object) -> None:
        logs.info(log, self._text % values, lambda: dict(zip(self._names, values, strict=True)))


_OPENED = _Line("WebSocket opened", "client", "request_id")
_OPENED_AT_UPSTREAM = _Line("WebSocket opened", "upstream", "client", "request_id")


@functools.cache
def _closed(*names: str) -> _Line:
    """That of an end, which comes in a few forms."""
    return _Line("WebSocket closed", *names)


def log_opened(socket: Socket, *, names_upstream: bool, answers_key: bool) -> None:
    """Log a socket that has opened.

    `names_upstream`: there are several. `answers_key`: the 101 has the Sec-WebSocket-Accept of the client's key.
    """
    if log.isEnabledFor(logging.INFO):
        if names_upstream:
            _OPENED_AT_UPSTREAM.log(socket.upstream, socket.client, socket.request_id)
        else:
            _OPENED.log(socket.client, socket.request_id)
    if not answers_key:
        log.warning(
            "upstream %s: its 101 has not the Sec-WebSocket-Accept of the request's key request_id=%s",
            socket.upstream,
            socket.request_id,
        )


def log_closed(socket: Socket, ended: Ended) -> None:
    """Log a socket that has ended, and why."""
    if log.isEnabledFor(logging.INFO):
        facts = _facts(ended, socket.request_id)
        _closed(*facts).log(*facts.values())


def end_span(span: tracing.Span, ended: Ended) -> None:
    """End the span of a socket with the cause of its end."""
    cause = ended.cause
    span.set(moorline__cause=cause.code, moorline__ended_by=ended.outcome.ended_by, moorline__close_code=ended.code)
    if cause.reason not in ORDERLY:
        span.fail(cause.code)
    span.end()


def _facts(ended: Ended, request_id: str) -> dict[str, object]:
    outcome, cause = ended.outcome, ended.cause
    facts: dict[str, object] = {
        "ended_by": outcome.ended_by,
        "reason": outcome.reason,
        "close_code": ended.code,
        "seconds": round(ended.seconds, 3),
        "from_client": ended.from_client,
        "from_upstream": ended.from_upstream,
        "frames_from_client": ended.frames_from_client,
        "frames_from_upstream": ended.frames_from_upstream,
    }
    if ended.client_rtt is not None:
        facts["client_rtt_ms"] = _milliseconds(ended.client_rtt)
    if ended.upstream_rtt is not None:
        facts["upstream_rtt_ms"] = _milliseconds(ended.upstream_rtt)
    facts["cause"], facts["order"] = cause.code, ",".join(ended.order)
    if cause.reason not in ORDERLY:
        facts |= _kernel_view(ended)
    facts["request_id"] = request_id
    return facts


def _kernel_view(ended: Ended) -> dict[str, object]:
    """What the two kernels had to say of a connection that failed."""
    return {
        f"{side}_{name}": value
        for side, tcp in (("client", ended.client_tcp), ("upstream", ended.upstream_tcp))
        if tcp is not None
        for name, value in (
            ("unacked", tcp.unacked),
            ("retransmits", tcp.total_retransmits),
            ("since_ack_ms", _milliseconds(tcp.since_ack)),
        )
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
