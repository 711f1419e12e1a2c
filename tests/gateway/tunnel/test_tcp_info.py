"""The kernel's view of a real connection."""

import asyncio
import socket

import pytest

from moorline.gateway.tunnel import kernel, tcp_info
from moorline.gateway.tunnel.tcp_info import TcpInfo


class Ended(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def test_a_connection_whose_peer_acknowledges_is_answered() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.getsockname())
        accepted, _ = server.accept()
        transport.write(b"hello")
        with accepted:
            await loop.run_in_executor(None, accepted.recv, 5)
            found = kernel.info(transport)
        transport.abort()
    assert found is not None
    assert (found.unacked, found.is_unanswered) == (0, False)
    assert 0 < found.rtt < 1
    assert 0 <= found.since_ack < 10


async def test_a_connection_that_is_closed_has_no_view() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, protocol = await loop.create_connection(Ended, *server.getsockname())
        transport.abort()
        await protocol.lost.wait()
        # The socket is closed when this callback has returned.
        await asyncio.sleep(0)
    assert kernel.info(transport) is None


@pytest.mark.parametrize(
    ("unacked", "retransmits", "unanswered"), [(0, 0, False), (1, 0, False), (0, 1, False), (1, 1, True)]
)
def test_a_peer_is_unanswered_where_segments_were_sent_again_and_not_acknowledged(
    *, unacked: int, retransmits: int, unanswered: bool
) -> None:
    tcp = TcpInfo(unacked, retransmits, total_retransmits=9, since_ack=1, rtt=0.1)
    assert tcp.is_unanswered is unanswered


def test_an_old_kernels_struct_is_none() -> None:
    assert tcp_info.parse(bytes(tcp_info.SIZE - 1)) is None
