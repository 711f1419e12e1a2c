"""Every option of the gateway: flag, MOORLINE_ variable, moorline.toml key, unit, default and meaning. Pure.

Times are seconds, sizes bytes; None stands for `off`. Names that nginx has are nginx's, with nginx's behaviour.
"""

import dataclasses
import re
from urllib.parse import urlsplit

from moorline.gateway.common.config.options import BOOL, DURATION, INT, PORT, SIZE, TEXT, Kind, option, specs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.errors import UsageError

__all__ = ["Settings"]


_LAST_PORT = 65535
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]+)(:\d*)?")
# Limits that would let nobody through at 0, where some programs take 0 for none.
_ABOVE_ZERO = (
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "send_timeout",
    "client_header_timeout",
    "client_body_timeout",
    "handshake_timeout",
    "client_heartbeat",
    "upstream_heartbeat",
    "heartbeat_timeout",
    "max_frame_size",
    "max_connections",
    "fail_timeout",
    "workers",
)


def _parse_upstream(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "http" and _AUTHORITY.fullmatch(parts.netloc) is not None and parts.port != 0
    except ValueError:
        # A bracket that is not closed, or a port beyond 65535.
        valid = False
    if not valid:
        raise ValueError("is not an upstream; write for example http://127.0.0.1:8000")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("has a path; an upstream is scheme, host and port alone")
    return f"http://{parts.netloc}"


UPSTREAM = Kind("URL", _parse_upstream)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """The gateway's options; construct it directly in tests, or with `moorline.gateway.common.config.options.load`."""

    host: str = option(
        "localhost", TEXT, "listen here; localhost is 127.0.0.1 and ::1 on the same port", group="Listening"
    )
    port: int = option(4321, PORT, "listen on this port; 0 picks a free one and prints it")
    upstream: tuple[str, ...] = option(
        ("http://127.0.0.1:8000",),
        UPSTREAM,
        "the backend: http://HOST:PORT; of several, the one with the fewest connections is asked",
        group="Backend and page",
    )
    frontend: str = option("", TEXT, "folder of static assets (default: the built-in chat page)")

    proxy_connect_timeout: float = option(60.0, DURATION, "nginx's: connecting to the backend", group="Time limits")
    proxy_read_timeout: float = option(86400.0, DURATION, "nginx's: silence on the tunnel, or before an answer's head")
    proxy_send_timeout: float = option(86400.0, DURATION, "nginx's: the backend does not read")
    send_timeout: float = option(60.0, DURATION, "nginx's: the client does not read")
    client_header_timeout: float = option(60.0, DURATION, "nginx's: a request head that dribbles in")
    client_body_timeout: float = option(60.0, DURATION, "nginx's: silence in the middle of a request's body")
    handshake_timeout: float | None = option(60.0, DURATION, "from the upgrade request to its 101", can_be_off=True)
    connect_retry: float | None = option(
        10.0, DURATION, "hold a handshake while the backend is away, trying again every 250ms", can_be_off=True
    )
    max_fails: int = option(1, INT, "nginx's: failures that make one of several upstreams rest; 0: none rests")
    fail_timeout: float = option(10.0, DURATION, "nginx's: how long it rests")
    client_heartbeat: float | None = option(
        20.0, DURATION, "silence of a client before it gets a Ping", can_be_off=True, group="Sockets"
    )
    upstream_heartbeat: float | None = option(
        20.0, DURATION, "silence of the backend before it gets a Ping", can_be_off=True
    )
    heartbeat_timeout: float = option(20.0, DURATION, "silence after a Ping before the peer counts as dead")
    close_frames: bool = option(True, BOOL, "end sockets with a Close frame that says why; false: nginx's bare FIN")
    close_timeout: float = option(10.0, DURATION, "from a Close frame to the end of TCP")
    max_frame_size: int | None = option(
        16 << 20, SIZE, "payload of one frame; larger is closed with 1009", can_be_off=True
    )
    max_connections: int = option(
        10000, INT, "sockets at once, over all workers; more get 503 with Retry-After", group="Limits"
    )
    workers: int = option(1, INT, "processes that serve the port, for more than one core")
    metrics_port: int | None = option(
        None,
        PORT,
        "Prometheus: /metrics on 127.0.0.1 at this port, of each further worker at the next",
        can_be_off=True,
        group="Metrics",
    )

    def __post_init__(self) -> None:
        super(Settings, self).__post_init__()
        if not self.upstream:
            raise UsageError("upstream: it is empty; write for example --upstream http://127.0.0.1:8000")
        if twice := {url for url in self.upstream if self.upstream.count(url) > 1}:
            raise UsageError(f"upstream: {min(twice)} is given twice")
        if self.metrics_port is not None and self.metrics_port + self.workers - 1 > _LAST_PORT:
            raise UsageError(f"metrics_port: {self.metrics_port} leaves no port for {self.workers} workers")
        self._check_limits()

    def _check_limits(self) -> None:
        """Refuse what nobody could live with. A Ping has to come before nginx, here or in front, takes the silence for
        the end.
        """
        known = specs(Settings)
        for name in _ABOVE_ZERO:
            if getattr(self, name) == 0:
                raise UsageError(f"{name}: 0 is too little; write a larger one" + (", or off" * known[name].can_be_off))
        for name in ("client_heartbeat", "upstream_heartbeat"):
            seconds = getattr(self, name)
            if seconds is not None and seconds >= self.proxy_read_timeout:
                given, limit = known[name].show(seconds), known["proxy_read_timeout"].show(self.proxy_read_timeout)
                raise UsageError(
                    f'{name}: "{given}" is not below proxy_read_timeout, "{limit}"; lower it, or write off'
                )
