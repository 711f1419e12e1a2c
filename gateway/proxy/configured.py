"""The routes of a gateway, from its settings: the user's, those of an nginx configuration, and the defaults."""

import logging
from urllib.parse import urlsplit

from moorline.gateway.proxy.locations import LocationRoutes
from moorline.gateway.proxy.routes import Routes, default_routes
from moorline.gateway.proxy.timeouts import Timeouts
from moorline.gateway.settings import Settings

__all__ = ["configured_routes"]

log = logging.getLogger("moorline.gateway")

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def configured_routes(settings: Settings) -> Routes:
    """All of them, with the state of their upstreams. What of an nginx configuration is not used is logged.

    Raises:
        UsageError: the nginx configuration cannot be followed.
    """
    routes = [*settings.route, *default_routes(settings.upstream, frontend=settings.frontend_url)]
    timeouts, fails, seconds = Timeouts.of(settings), settings.max_fails, settings.fail_timeout
    if not settings.nginx_conf:
        return Routes(routes, timeouts=timeouts, max_fails=fails, fail_timeout=seconds)
    from moorline.gateway.proxy.nginx_conf import read_nginx_conf

    conf = read_nginx_conf(
        settings.nginx_conf,
        is_own=lambda url: _is_own(url, settings),
        lenient=settings.nginx_conf_lenient,
    )
    for note in conf.notes:
        log.warning("nginx_conf: %s", note)
    return LocationRoutes(routes, conf.locations, timeouts=timeouts, max_fails=fails, fail_timeout=seconds)


def _is_own(url: str, settings: Settings) -> bool:
    """Whether this gateway listens at the address. nginx passes to it what it serves here itself."""
    address = urlsplit(url)
    return address.port == settings.port and address.hostname in {*_LOOPBACK, settings.host}
