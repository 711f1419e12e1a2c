"""Import aiohttp without the certificates of the system's authorities, which it reads as it is imported.

To read 144 of them takes 55 ms of CPU, a tenth of the import, in each process of moorline that starts. Most never need
them: aiohttp's own context is for what a user's hook asks of an https server with a session of its own. moorline's
connections have contexts of theirs.
"""

import ssl
from typing import Any

__all__ = ["import_aiohttp"]


def import_aiohttp() -> None:
    """Import aiohttp, whose context for https reads the authorities when it is first used.

    Call it in a program before a module that imports aiohttp.
    """
    usual = ssl.SSLContext.load_default_certs
    ssl.SSLContext.load_default_certs = _defer  # type: ignore[assignment, method-assign]
    try:
        import aiohttp  # noqa: F401
    finally:
        ssl.SSLContext.load_default_certs = usual  # type: ignore[method-assign]


class _Unread(ssl.SSLContext):
    """A context that reads the authorities for its first handshake, and is an ordinary one from then on."""

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return _read(self).wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return _read(self).wrap_socket(*arguments, **options)


def _defer(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    context.__class__ = _Unread


def _read(context: ssl.SSLContext) -> ssl.SSLContext:
    # In this order: another thread may use it meanwhile, and then reads them, too.
    context.load_default_certs()
    context.__class__ = ssl.SSLContext
    return context
