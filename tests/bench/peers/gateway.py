"""The gateway: as it comes, or with options."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from moorline.gateway.settings import Settings
from tests.bench.peers.base import HTTP, SITE, WEBSOCKET, Missing, Peer, Probe, connections

__all__ = ["gateway", "with_heartbeats", "with_site"]


def gateway(name: str = "gateway", *, probe: Probe = WEBSOCKET, upstream: Sequence[str] = (), **options: str) -> Peer:
    """With these options, which it may lack; before the backend, or these addresses."""

    async def command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
        if lacking := set(options) - {field.name for field in dataclasses.fields(Settings)}:
            raise Missing(f"no option {', '.join(sorted(lacking))}")
        given = {
            "host": "127.0.0.1",
            "port": str(port),
            "max_connections": str(connections()),
            **options,
        }
        return [
            sys.executable,
            "-m",
            "moorline",
            "gateway",
            *(f"--{key.replace('_', '-')}={value}" for key, value in given.items()),
            *(f"--upstream={address}" for address in upstream or [f"http://127.0.0.1:{backend_port}"]),
        ]

    return Peer(name, command, probe)


def with_site(name: str = "gateway", **options: str) -> Peer:
    """With the assets that all serve."""
    return gateway(name, probe=HTTP, frontend=str(SITE), **options)


def with_heartbeats(seconds: int) -> Peer:
    """With a Ping on either hop after so long a silence."""
    return gateway(client_heartbeat=f"{seconds}s", upstream_heartbeat=f"{seconds}s")
