"""How many requests may be under way, in all and of one client address. A request is under way until the client has
taken its response: one that is not read holds memory as one that is being handled does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.places import Full, Places
from moorline.gateway.common.config.settings import CommonSettings

__all__ = ["REQUEST_LIMITS", "UNTIL_TAKEN", "RequestLimits", "has_untaken", "limited", "taken"]

_FULL = {
    Full.ALL: "There are too many requests at the moment (max_requests).",
    Full.CLIENT: "There are too many requests of your address (max_requests_per_address).",
}
_RETRY_AFTER_SECONDS = "1"
# To wait for fewer bytes would cost each small response an iteration of the event loop.
_SMALL = 8 << 10


class RequestLimits:
    """Counts the requests of one process."""

    def __init__(self, settings: CommonSettings) -> None:
        self._places = Places(settings.max_requests, settings.max_requests_per_address)
        self.release = self._places.remove
        """The request of this client has ended."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def free(self) -> int:
        """How many more may be under way."""
        return self._places.free

    def take(self, address: str) -> None:
        """Count a request of this client until `release`.

        Raises:
            web.HTTPServiceUnavailable: there are too many.
        """
        if (full := self._places.take(address)) is not None:
            raise web.HTTPServiceUnavailable(text=_FULL[full], headers={hdrs.RETRY_AFTER: _RETRY_AFTER_SECONDS})

    @contextlib.contextmanager
    def place(self, request: web.Request) -> Iterator[None]:
        """Count the request within this block, as `take` and `release` do, which cost less."""
        address = client_address(request)
        self.take(address)
        try:
            yield
        finally:
            self.release(address)


REQUEST_LIMITS = web.AppKey("request_limits", RequestLimits)
UNTIL_TAKEN = web.RequestKey("until_taken", contextlib.ExitStack)
"""What a `limited` handler holds until the client has taken the response."""


def limited(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], limits: RequestLimits) -> Handler:
    """`handler`, whose requests are counted until the client has taken the response."""

    async def handle(request: web.Request) -> web.StreamResponse:
        with limits.place(request), contextlib.ExitStack() as held:
            request[UNTIL_TAKEN] = held
            response = await handler(request)
            await response.prepare(request)
            await response.write_eof()
            await taken(request)
            return response

    return handle


def _is_untaken(request: web.Request) -> bool:
    """Whether there is something to wait for in `taken`."""
    transport = request.transport
    return transport is not None and not transport.is_closing() and has_untaken(transport)


def has_untaken(transport: asyncio.WriteTransport) -> bool:
    """Whether the kernel lacks more of what was sent than is worth waiting for."""
    return transport.get_write_buffer_size() > _SMALL


async def taken(request: web.Request) -> None:
    """Return when the kernel has what was sent to the client; `send_timeout` bounds it. asyncio itself waits only for
    what is over 64 KiB, which thousands of connections could hold each.

    Raises:
        ConnectionError: the client is gone.
    """
    transport = request.transport
    if transport is None or not _is_untaken(request):
        return
    transport.set_write_buffer_limits(high=0)
    await request.writer.drain()
    if not transport.is_closing():
        transport.set_write_buffer_limits()
