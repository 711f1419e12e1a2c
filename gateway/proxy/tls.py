"""TLS to upstreams: one context for all of them."""

import logging
import ssl

from aiohttp import web

from moorline.gateway.common.errors import UsageError
from moorline.gateway.keys import ROUTES, SETTINGS
from moorline.gateway.proxy.upstreams import Upstream
from moorline.gateway.settings import Settings

__all__ = ["add_tls", "tls_for"]

log = logging.getLogger("moorline.gateway")


class _Tls:
    """Authorities are read once: at the start, or for the first connection to a dev server that was found later."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._read()
        return self._context

    def _read(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.upstream_ca or None)
        except OSError as error:
            is_read = isinstance(error, ssl.SSLError)
            reason = "holds no certificate (PEM)" if is_read else f"cannot be read ({error.strerror})"
            raise UsageError(f'upstream_ca: "{settings.upstream_ca}" {reason}') from None
        # Some servers choose HTTP/2 where nothing is said.
        context.set_alpn_protocols(["http/1.1"])
        if not settings.upstream_tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            log.warning("certificates of https upstreams are not verified: upstream_tls_verify is false")
        return context


_TLS = web.AppKey("upstream_tls", _Tls)


def add_tls(app: web.Application) -> None:
    """Prepare TLS where an upstream has it.

    Raises:
        UsageError: `upstream_ca` cannot be read.
    """
    app[_TLS] = tls = _Tls(app[SETTINGS])
    if app[SETTINGS].upstream_ca or any(upstream.tls for upstream in app[ROUTES].each_upstream()):
        tls.context()


def tls_for(app: web.Application, upstream: Upstream) -> ssl.SSLContext | None:
    """The context for connections to it; None: they are plain TCP."""
    return app[_TLS].context() if upstream.tls else None
