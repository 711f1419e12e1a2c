"""What the inspector tells of each socket, as JSON: an open one, an ended one, and what changed since the last look.
Pure.

Times are seconds before the message they stand in, so that the viewer's clock need not agree with the gateway's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moorline.gateway.proxy.sockets import EndedSocket, Socket
from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.machine import Phase, Tunnel
from moorline.gateway.tunnel.tcp_info import TcpInfo

__all__ = ["Row", "changes", "ended_row", "of_all_workers", "open_row", "sentence"]

Row = Mapping[str, Any]


def open_row(socket: Socket, tunnel: Tunnel, start: float) -> Row:
    """One open socket. Times are seconds after `start`, so that a row changes only with its socket."""
    client, upstream = tunnel.client, tunnel.upstream
    return {
        "id": socket.request_id,
        "route": socket.route,
        "client": socket.client,
        "upstream": socket.upstream,
        "opened": round(socket.opened - start, 3),
        "phase": _phase(tunnel),
        "client_rtt_ms": _last_round_trip(tunnel, Side.CLIENT),
        "upstream_rtt_ms": _last_round_trip(tunnel, Side.UPSTREAM),
        "from_client": client.size,
        "from_upstream": upstream.size,
        "frames_from_client": client.frames,
        "frames_from_upstream": upstream.frames,
        "last": round(max(client.last, upstream.last) - start, 3),
    }


def ended_row(each: EndedSocket, start: float) -> Row:
    """One that has ended, with its sentence."""
    ended = each.ended
    return {
        "number": each.number,
        "id": each.socket.request_id,
        "route": each.socket.route,
        "client": each.socket.client,
        "upstream": each.socket.upstream,
        "at": round(each.at - start, 3),
        "seconds": round(ended.seconds, 3),
        "close_code": ended.code,
        "from_client": ended.from_client,
        "from_upstream": ended.from_upstream,
        "order": list(ended.order),
        "client_tcp": _tcp(ended.client_tcp),
        "upstream_tcp": _tcp(ended.upstream_tcp),
        **sentence(each),
    }


def sentence(each: EndedSocket) -> Row:
    """Why it ended, in words."""
    # All the sentences take a twentieth of a gateway's start, and are wanted once the page is open.
    from moorline.gateway.explain import explain

    cause = each.ended.cause
    found = explain(cause.code)
    assert found is not None, f"tests hold that {cause.code} has one"
    return {
        "cause": cause.code,
        "who": cause.who.value,
        "what": found.what,
        "when": found.when,
        "usual_cause": found.usual_cause,
        "next_step": found.next_step,
    }


def changes(before: Mapping[str, Row], now: Iterable[Row]) -> tuple[dict[str, Row], Sequence[Row], Sequence[str]]:
    """All rows by id, those that are new or differ from `before`, and the ids that are gone."""
    rows = {str(row["id"]): row for row in now}
    changed = [row for key, row in rows.items() if before.get(key) != row]
    return rows, changed, [key for key in before if key not in rows]


def of_all_workers(upstreams: Iterable[Iterable[Row]]) -> Sequence[Row]:
    """Each upstream once, with the connections of all workers, and down where one of them has marked it so."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for of_one in upstreams for row in of_one):
        total = found.setdefault(row["url"], {"url": row["url"], "connections": 0, "down": False})
        total["connections"] += row["connections"]
        total["down"] = total["down"] or row["down"]
    return list(found.values())


def _phase(tunnel: Tunnel) -> str:
    if tunnel.phase is Phase.OPEN and (tunnel.stalls(Side.CLIENT) or tunnel.stalls(Side.UPSTREAM)):
        return "stalled"
    return "closing" if tunnel.phase is not Phase.OPEN else "open"


def _last_round_trip(tunnel: Tunnel, side: Side) -> float | None:
    round_trips = tunnel.round_trips(side)
    return round(round_trips[-1] * 1000, 2) if round_trips else None


def _tcp(tcp: TcpInfo | None) -> Row | None:
    if tcp is None:
        return None
    return {
        "unacked": tcp.unacked,
        "retransmits": tcp.total_retransmits,
        "since_ack_ms": round(tcp.since_ack * 1000, 1),
        "rtt_ms": round(tcp.rtt * 1000, 2),
    }
