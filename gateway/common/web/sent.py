"""What a handler returns that has sent the response itself, or has given the connection away."""

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

__all__ = ["Sent"]


class Sent(web.StreamResponse):
    """A response with this status of which aiohttp has nothing left to send."""

    is_sent = True
    """Asked for instead of the type: responses are mappings, whose types Python compares by a slower way."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass
