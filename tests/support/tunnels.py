"""The gateway's tunnel without a loop: nginx's own or another, fed as the shell feeds it."""

import dataclasses
from typing import Any

from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.machine import Limits, Tunnel
from tests.support.websocket_frames import parse

__all__ = ["CLIENT", "NOTHING", "UPSTREAM", "close_frames", "opened", "receive"]

CLIENT, UPSTREAM = Side.CLIENT, Side.UPSTREAM


def NOTHING(side: Side) -> int:  # noqa: N802 - it stands where a table would
    """Every byte has been taken."""
    return 0


NGINX = Limits(
    proxy_read_timeout=20,
    proxy_send_timeout=10,
    send_timeout=8,
    client_heartbeat=None,
    upstream_heartbeat=None,
    heartbeat_timeout=4,
    close_frames=False,
    close_timeout=3,
    max_frame_size=1000,
    message_timeout=None,
)


def opened(**changes: Any) -> Tunnel:
    """A tunnel at 100; nginx's own but for `changes`."""
    return Tunnel(dataclasses.replace(NGINX, **changes), now=100, randbytes=bytes)


def receive(tunnel: Tunnel, side: Side, data: bytes, now: float) -> None:
    """Bytes from this side; what they set free is in `data_to_send`, and all else passes."""
    if tunnel.inbound(side).receive_data(data, now) is None:
        tunnel.frames_received(side, now)


def close_frames(tunnel: Tunnel) -> dict[Side, tuple[int, str]]:
    """The Close frames that it sends now, each masked as it has to be."""
    sent_to = {}
    for side, data in tunnel.data_to_send():
        (sent,) = parse(data)
        assert sent.masked is (side is UPSTREAM)
        sent_to[side] = sent.close
    return sent_to
