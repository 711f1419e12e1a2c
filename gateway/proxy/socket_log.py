"""What a socket leaves in the log, a line as it opens and one as it ends, and the end of its span in a trace."""

import functools
import logging
from collections.abc import Mapping

from moorline.gateway.common import logs, tracing
from moorline.gateway.proxy.sockets import Socket
from moorline.gateway.tunnel.endings import ORDERLY
from moorline.gateway.tunnel.relay import Ended

__all__ = ["end_span", "log_closed", "log_opened"]

log = logging.getLogger("moorline.gateway.ws")


def log_opened(socket: Socket, *, names_upstream: bool, answers_key: bool) -> None:
    """Log a socket that has opened.

    `names_upstream`: there are several. `answers_key`: the 101 has the Sec-WebSocket-Accept of the client's key.
    """
    if log.isEnabledFor(logging.INFO):
        facts = {"client": socket.client, "request_id": socket.request_id}
        _log("WebSocket opened", {"upstream": socket.upstream, **facts} if names_upstream else facts)
    if not answers_key:
        log.warning(
            "upstream %s: its 101 has not the Sec-WebSocket-Accept of the request's key request_id=%s",
            socket.upstream,
            socket.request_id,
        )


def log_closed(socket: Socket, ended: Ended) -> None:
    """Log a socket that has ended, and why."""
    if log.isEnabledFor(logging.INFO):
        _log("WebSocket closed", _facts(ended, socket.request_id))


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


def _log(event: str, facts: Mapping[str, object]) -> None:
    """One line, as text and, in JSON, with each fact as a field."""
    logs.info(log, _line(event, *facts) % (*facts.values(),), lambda: facts)


# Two forms of each event, or a few.
@functools.cache
def _line(event: str, *names: str) -> str:
    return f"{event}: {' '.join([f'{name}=%s' for name in names])}"
