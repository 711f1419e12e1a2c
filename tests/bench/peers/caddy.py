"""Caddy, as it comes: on all cores, without an access log."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import HTTP, SITE, Peer, installed

__all__ = ["CADDY", "CADDY_HTTP"]

_CONFIGURATION = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    @backend path /ws/* /api/*
    handle @backend {{
        reverse_proxy 127.0.0.1:{backend_port}
    }}
    handle {{
        root * {site}
        file_server
    }}
}}
"""


async def _command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    path = installed("caddy")
    configuration = folder / "Caddyfile"
    configuration.write_text(_CONFIGURATION.format(port=port, backend_port=backend_port, site=SITE), encoding="utf-8")
    # It keeps state in folders of its user's.
    state = [f"XDG_DATA_HOME={folder}", f"XDG_CONFIG_HOME={folder}"]
    return ["env", *state, path, "run", "--config", str(configuration), "--adapter", "caddyfile"]


CADDY = Peer("caddy", _command)
CADDY_HTTP = Peer("caddy", _command, HTTP)
