"""HAProxy, on one thread and without a log."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import Peer, connections, installed

__all__ = ["HAPROXY"]

_CONFIGURATION = """
global
    nbthread 1
    maxconn {connections}
defaults
    mode http
    option forwardfor
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    timeout tunnel 86400s
frontend page
    bind 127.0.0.1:{port} backlog 1024
    default_backend chat
backend chat
    server one 127.0.0.1:{backend_port}
"""


async def _command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        _CONFIGURATION.format(port=port, backend_port=backend_port, connections=connections()), encoding="utf-8"
    )
    return [installed("haproxy"), "-db", "-f", str(configuration)]


HAPROXY = Peer("haproxy", _command)
