"""TLS to upstreams: one context for all whose certificates are verified, and one for a dev server of this machine."""

import functools
import logging
import ssl

from aiohttp import web

from moorline.gateway.common.access.authorize import is_loopback
from moorline.gateway.common.errors import UsageError
from moorline.gateway.keys import ROUTES, SETTINGS
from moorline.gateway.proxy.routes import Routes
from moorline.gateway.proxy.upstreams import Upstream
from moorline.gateway.settings import Settings

__all__ = ["add_tls", "tls_for"]

log = logging.getLogger("moorline.gateway")


class _Tls:
    """Authorities are read once: at the start, or for the first connection to a dev server that was found later."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @functools.cached_property
    def verified(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.upstream_ca or None)
        except OSError as error:
            is_read = isinstance(error, ssl.SSLError)
            reason = "holds no certificate (PEM)" if is_read else f"cannot be read ({error.strerror})"
            raise UsageError(f'upstream_ca: "{settings.upstream_ca}" {reason}') from None
        if not settings.upstream_tls_verify:
            _accept_any(context)
            log.warning("certificates of https upstreams are not verified: upstream_tls_verify is false")
        return _with_http1(context)

    @functools.cached_property
    def unverified(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _accept_any(context)
        return _with_http1(context)


def _accept_any(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def _with_http1(context: ssl.SSLContext) -> ssl.SSLContext:
    # Some servers choose HTTP/2 where nothing is said.
    context.set_alpn_protocols(["http/1.1"])
    return context


_TLS = web.AppKey("upstream_tls", _Tls)


def add_tls(app: web.Application) -> None:
    """Prepare TLS where an upstream has it.

    Raises:
        UsageError: `upstream_ca` cannot be read.
    """
    app[_TLS] = tls = _Tls(app[SETTINGS])
    if app[SETTINGS].upstream_ca or any(upstream.tls for upstream in app[ROUTES].each_upstream()):
        _ = tls.verified


def tls_for(app: web.Application, upstream: Upstream) -> ssl.SSLContext | None:
    """The context for connections to it; None: they are plain TCP."""
    if not upstream.tls:
        return None
    # A dev server makes its own certificate, which no authority knows, and what is sent to it does not leave this
    # machine. Where `upstream_ca` is set it counts for these as well.
    is_verified = app[SETTINGS].upstream_ca or not is_loopback(upstream.host) or not _is_frontend(app[ROUTES], upstream)
    return app[_TLS].verified if is_verified else app[_TLS].unverified


def _is_frontend(routes: Routes, upstream: Upstream) -> bool:
    return routes.frontend is not None and upstream in routes.frontend.upstreams
