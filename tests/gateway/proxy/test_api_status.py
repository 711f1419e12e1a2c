"""Statuses that no client could make sense of."""

import pytest

from tests.gateway.conftest import StartGateway
from tests.support.raw import answering, listening


@pytest.mark.parametrize("status", [600, 999])
async def test_a_status_that_http_has_not_is_a_502(start_gateway: StartGateway, status: int) -> None:
    async with listening(answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, [])) as backend:
        gateway = await start_gateway(backend)
        assert (await gateway.get("/api/x")).status == 502
