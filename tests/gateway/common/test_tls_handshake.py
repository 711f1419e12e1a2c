"""What becomes of a connection to a TLS port before its handshake is over."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
import uvloop

from moorline.gateway.common.web.draining import Draining
from moorline.gateway.common.web.idle import Descriptors, IdleConnections
from moorline.gateway.common.web.lingering import LingeringConnections, LingeringLimits
from moorline.gateway.common.web.tls import ServerTls
from moorline.gateway.common.web.tls_handshake import TlsHandshake, TlsHandshakes
from tests.support.certificates import certificate


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    pair = asyncio.run(certificate(tmp_path_factory.mktemp("tls")))
    return ServerTls(str(pair.file), str(pair.key))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_nothing_waits_for_the_handshake_of_a_connection_that_is_closed_as_it_begins(
    tls: ServerTls, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_closed_as_it_begins(tls))


class _Begun(TlsHandshake):
    """Is closed in the same iteration of the event loop, as where the next connection needs its descriptor."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.force_close()


async def _closed_as_it_begins(tls: ServerTls) -> None:
    loop = asyncio.get_running_loop()
    idle = IdleConnections(Descriptors.of_process())
    lingering = LingeringConnections(loop, LingeringLimits(), idle, Draining())
    handshakes = TlsHandshakes(tls, asyncio.Protocol, idle, lingering, timeout=60)
    server = await loop.create_server(lambda: _Begun(handshakes), "127.0.0.1", 0)
    before = asyncio.all_tasks()
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"\x16\x03")
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        await asyncio.gather(*asyncio.all_tasks() - before)
    writer.close()
    server.close()
