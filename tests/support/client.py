"""moorline-client.js in a page of a hand-played server: it is at hand there as `client`."""

import asyncio
from typing import Any

from playwright.async_api import Page

from tests.support.browser import open_client
from tests.support.played import STEP, Played, PlayedSocket

__all__ = ["again", "connected", "lose", "until"]

# Longer than any back-off, in milliseconds.
MINUTE = 60_000


async def connected(page: Page, url: str, backend: Played, **options: Any) -> PlayedSocket:
    """A client that shows an empty session."""
    await open_client(page, url, **options)
    socket = await backend.socket()
    assert "resume" not in socket.hello
    await socket.send_hello(recovered=False)
    await socket.send_snapshot(0)
    await until(page, "client.state.status === 'connected' && client.transcript.epoch === 'e1'")
    return socket


async def lose(page: Page, backend: Played, socket: PlayedSocket) -> None:
    """The client's socket ends, and the server refuses the next ones."""
    backend.status = 503
    await socket.close(1011)
    await until(page, "client.state.status === 'reconnecting'")


async def again(page: Page, backend: Played) -> PlayedSocket:
    """The client's next socket; its back-off is over before it has begun, unless that has ended by itself."""
    opened = asyncio.create_task(backend.socket())
    waits = asyncio.create_task(until(page, "client.state.retryAt !== null"))
    await asyncio.wait((opened, waits), return_when=asyncio.FIRST_COMPLETED)
    if waits.done():
        await waits
        await page.clock.fast_forward(MINUTE)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    return await opened


async def until(page: Page, condition: str) -> None:
    """Wait for it; the client says when there is reason to look again."""
    # Playwright's own wait_for_function evaluates strings within the page, which the page's policy forbids.
    async with asyncio.timeout(STEP):
        await page.evaluate(
            f"""new Promise((resolve) => {{
                const look = () => ({condition}) && resolve();
                client.subscribe(look);
                look();
            }})"""
        )
