"""Every option of the gateway: flag, MOORLINE_ variable, moorline.toml key, unit, default and meaning. Pure.

Times are seconds, sizes bytes; None stands for `off`. Names that nginx has are nginx's, with nginx's behaviour.
"""

import dataclasses

from moorline.gateway.common.config.options import BOOL, DURATION, INT, PORT, SECRET, SIZE, TEXT, Kind, option, specs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.errors import UsageError
from moorline.gateway.proxy.route_option import check_routes, parse_route, parse_upstream, route_of_table, show_route
from moorline.gateway.proxy.routes import Route

__all__ = ["Settings"]


_LAST_PORT = 65535
_TLS = ("tls_certificate", "tls_certificate_key")
# Limits that would stop all traffic at 0, which some programs take for no limit.
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
    "max_connections_per_address",
    "handshakes_per_address",
    "max_buffered",
    "fail_timeout",
    "upstream_connections",
    "upstream_keepalive",
    "workers",
    "watchdog",
    "start_timeout",
)


def _is_url(text: str) -> bool:
    return text.startswith(("http:", "https:"))


def _parse_frontend(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return parse_upstream(text) if _is_url(text) else text


UPSTREAM = Kind("URL", parse_upstream)
FRONTEND = Kind("FOLDER|URL", _parse_frontend)
ROUTE = Kind("PATH=URL", parse_route, show_route, parse_table=route_of_table)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """The gateway's options; construct it directly in tests, or with `moorline.gateway.common.config.options.load`."""

    host: str = option(
        "localhost", TEXT, "listen here; localhost is 127.0.0.1 and ::1 on the same port", group="Listening"
    )
    port: int = option(4321, PORT, "listen on this port; 0 picks a free one and prints it")
    tls_certificate: str = option(
        "", TEXT, "nginx's ssl_certificate: PEM file of the certificate and its chain; the port then speaks TLS alone"
    )
    tls_certificate_key: str = option("", TEXT, "nginx's ssl_certificate_key: PEM file of its private key")
    upstream: tuple[str, ...] = option(
        ("http://127.0.0.1:8000",),
        UPSTREAM,
        "the backend: http://HOST:PORT; of several, the one with the fewest connections is next",
        group="Backend and page",
    )
    route: tuple[Route, ...] = option(
        (), ROUTE, "another server for the paths below PATH; moorline.toml says more of it as [[gateway.route]]"
    )
    nginx_conf: str = option(
        "", TEXT, "an nginx configuration, whose locations with a proxy_pass are routes, with their time limits"
    )
    nginx_conf_lenient: bool = option(
        False, BOOL, "leave out what of nginx_conf would change routes and is not followed; false: refuse to start"
    )
    upstream_ca: str = option(
        "", TEXT, "PEM file of the authorities that https upstreams are verified by (default: the system's)"
    )
    upstream_tls_verify: bool = option(
        True, BOOL, "verify the certificates of https upstreams; false: any certificate is accepted"
    )
    frontend: str = option(
        "",
        FRONTEND,
        "folder of static assets, or a dev server's http://HOST:PORT (default: the built-in chat page)",
    )
    content_security_policy: str = option(
        "", TEXT, "the page's Content-Security-Policy header (default: the built-in page's; none for your own site)"
    )

    proxy_connect_timeout: float = option(60.0, DURATION, "nginx's: connecting to the upstream", group="Time limits")
    proxy_read_timeout: float = option(
        86400.0, DURATION, "nginx's: silence on a tunnel, or of the upstream in a response"
    )
    proxy_send_timeout: float = option(86400.0, DURATION, "nginx's: the upstream does not read")
    send_timeout: float = option(60.0, DURATION, "nginx's: the client does not read")
    client_header_timeout: float = option(60.0, DURATION, "nginx's: time to receive the request headers")
    client_body_timeout: float = option(60.0, DURATION, "nginx's: silence within a request's body")
    handshake_timeout: float | None = option(60.0, DURATION, "from the upgrade request to its 101", can_be_off=True)
    connect_retry: float | None = option(
        10.0, DURATION, "hold a handshake while no upstream can be reached, retrying every 250ms", can_be_off=True
    )
    max_fails: int = option(1, INT, "nginx's: failures before one of several upstreams is marked down; 0: never")
    fail_timeout: float = option(10.0, DURATION, "nginx's: how long it stays down")
    upstream_connections: int = option(
        64, INT, "HTTP requests at once for each upstream and worker, beside those that last longer than 1s; more wait"
    )
    upstream_keepalive: float | None = option(
        60.0,
        DURATION,
        "idle time before a kept connection to an upstream is closed; off: none is kept",
        can_be_off=True,
    )
    client_heartbeat: float | None = option(
        20.0, DURATION, "idle time before a Ping to the client", can_be_off=True, group="Sockets"
    )
    upstream_heartbeat: float | None = option(
        20.0, DURATION, "idle time before a Ping to the upstream", can_be_off=True
    )
    heartbeat_timeout: float = option(20.0, DURATION, "time to wait for the Pong")
    close_frames: bool = option(True, BOOL, "end sockets with a Close frame that says why; false: nginx's bare FIN")
    close_timeout: float = option(10.0, DURATION, "from a Close frame to the end of TCP")
    max_frame_size: int | None = option(
        16 << 20, SIZE, "payload of one frame; larger is closed with 1009", can_be_off=True
    )
    max_connections: int = option(
        10000, INT, "sockets at once, over all workers; more get 503 with Retry-After", group="Limits"
    )
    max_connections_per_address: int | None = option(
        1000,
        INT,
        "of them, sockets of one client address (IPv6: of a /64), at most half; trusted_proxies are exempt",
        can_be_off=True,
    )
    handshakes_per_address: int | None = option(
        3000,
        INT,
        "sockets that one client address may open in a minute; more get 429; trusted_proxies are exempt",
        can_be_off=True,
    )
    max_buffered: int = option(
        256 << 20,
        SIZE,
        "bytes of all sockets that one side does not read; over it those that wait longest end with 1013",
    )
    workers: int = option(1, INT, "processes that serve the port, for more than one core")
    watchdog: float | None = option(
        10.0,
        DURATION,
        "time without a sign of life after which a worker, or the backend of serve, is replaced",
        can_be_off=True,
    )
    start_timeout: float | None = option(
        300.0,
        DURATION,
        "the same until it is ready: while it imports modules or loads a model its event loop does not run",
        can_be_off=True,
    )
    metrics_port: int | None = option(
        None,
        PORT,
        "Prometheus: /metrics on 127.0.0.1 at this port; each further worker, and the backend of serve, has the next",
        can_be_off=True,
        group="Metrics",
    )

    @property
    def scheme(self) -> str:
        """Of the addresses at which this gateway is reached."""
        return "https" if self.tls_certificate else "http"

    @property
    def frontend_url(self) -> str:
        """The address of the dev server; empty where the page comes from a folder."""
        return self.frontend if _is_url(self.frontend) else ""

    @property
    def frontend_folder(self) -> str:
        """The folder of static assets; empty for the built-in page and for a dev server's."""
        return "" if self.frontend_url else self.frontend

    inspector_token: str = option(
        "",
        SECRET,
        "who sends it may see /-/moorline from elsewhere (default: programs on this machine alone)",
        group="Inspector",
    )
    faults: bool = option(
        False,
        BOOL,
        "let /-/moorline and POST /-/faults break connections on purpose; for development and tests alone",
    )
    tell_causes: bool = option(
        False,
        BOOL,
        "clients elsewhere may ask why their own socket ended, by its id (default: programs on this machine alone)",
    )

    backend_asks: bool = False
    """The backend behind `upstream` asks the hook itself, and knows more than a gateway can: this one asks about the
    user's routes alone. No option: `moorline serve` sets it."""
    frontend_command: str = ""
    """What serves the front end, for the page that stands in for it. No option of the gateway: `moorline serve` sets
    it."""
    backend_command: str = ""
    """What serves at the first `upstream`: its requests are held while it starts. No option of the gateway: `moorline
    serve` sets it."""
    follow_authorize: bool = False
    """Load the hook again when a module in the current folder changes. No option: `moorline serve --reload` sets it."""

    def files(self) -> dict[str, str]:
        """Also the certificate's key."""
        key = self.tls_certificate_key
        return super(Settings, self).files() | ({f'tls_certificate_key: "{key}"': key} if key else {})

    def __post_init__(self) -> None:
        super(Settings, self).__post_init__()
        if not self.upstream:
            raise UsageError("upstream: it is empty; write for example --upstream http://127.0.0.1:8000")
        if twice := {url for url in self.upstream if self.upstream.count(url) > 1}:
            raise UsageError(f"upstream: {min(twice)} is given twice")
        try:
            check_routes(self.route)
        except ValueError as error:
            raise UsageError(f"route: {error}") from None
        for given, missing in (_TLS, _TLS[::-1]):
            if getattr(self, given) and not getattr(self, missing):
                raise UsageError(f"{missing}: it is empty, and {given} is set; TLS needs both files")
        if self.metrics_port is not None and self.metrics_port + self.workers - 1 > _LAST_PORT:
            raise UsageError(f"metrics_port: {self.metrics_port} leaves no port for {self.workers} workers")
        if not (self.content_security_policy.isascii() and self.content_security_policy.isprintable()):
            raise UsageError("content_security_policy: it holds characters that no header may hold")
        self._check_limits()

    def _check_limits(self) -> None:
        """Refuse limits that would stop all traffic. A Ping has to come before proxy_read_timeout ends the silent
        tunnel, here or in an nginx in front.
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
