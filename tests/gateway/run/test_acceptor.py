"""Connections on their way to workers, with both ends in this process."""

import asyncio
import contextlib
import errno
import itertools
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from moorline.gateway.common.web.listen import listen
from moorline.gateway.common.web.server import running
from moorline.gateway.run.acceptor import Acceptor, WorkerChannel, WorkerListener
from moorline.gateway.settings import Settings
from tests.support.eventlogs import until
from tests.support.faulty_upstream import Peer, dial


class Greeter(asyncio.Protocol):
    """A worker's application: it says the worker's name, and ends when anything comes."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.transport: asyncio.Transport | None = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._name)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class WatchedChannel(WorkerChannel):
    """A channel that says when something is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.given = asyncio.Event()

    def give(self, connection: socket.socket) -> None:
        super().give(connection)
        self.given.set()


class Worker:
    """One life of a worker. It takes nothing before `start`."""

    def __init__(self, acceptor: Acceptor, name: str) -> None:
        self._acceptor = acceptor
        self._name = name.encode()
        self._greeters: list[Greeter] = []
        self.channel = WatchedChannel()
        self._sock = socket.socket(fileno=socket.dup(self.channel.fileno()))
        self.listener = WorkerListener(self._sock)
        acceptor.add(self.channel)

    async def start(self) -> "Worker":
        await self.listener.open(self._greet)
        return self

    def _greet(self) -> Greeter:
        self._greeters.append(Greeter(self._name))
        return self._greeters[-1]

    async def die(self) -> None:
        self.listener.close()
        self._acceptor.remove(self.channel)
        for greeter in self._greeters:
            if greeter.transport is not None:
                greeter.transport.abort()
                await greeter.ended.wait()
        self._sock.close()


@contextlib.asynccontextmanager
async def accepting() -> AsyncIterator[tuple[Acceptor, int]]:
    """An acceptor and its port."""
    (sock,) = listen("127.0.0.1", 0)
    acceptor = Acceptor([sock])
    yield acceptor, sock.getsockname()[1]
    acceptor.close()


@contextlib.asynccontextmanager
async def greeted(port: int) -> AsyncIterator[str]:
    """A connection, by the name of the worker that serves it."""
    async with dial(port) as client:
        yield (await client.exactly(1)).decode()


async def leave(client: Peer) -> None:
    await client.send(b".")
    await client.rest()


async def test_the_worker_with_the_fewest_connections_gets_the_next() -> None:
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        workers = [await Worker(acceptor, name).start() for name in "ab"]
        found = [await stack.enter_async_context(greeted(port)) for _ in range(6)]
        assert found == ["a", "b"] * 3
        workers.append(await Worker(acceptor, "c").start())
        assert [await stack.enter_async_context(greeted(port)) for _ in range(3)] == ["c"] * 3
        for worker in workers:
            await worker.die()


async def test_a_connection_that_ended_no_longer_counts() -> None:
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        workers = [await Worker(acceptor, name).start() for name in "ab"]
        clients = [await stack.enter_async_context(dial(port)) for _ in range(4)]
        assert [await client.exactly(1) for client in clients] == [b"a", b"b"] * 2
        for client in clients[1::2]:
            await leave(client)
        assert [await stack.enter_async_context(greeted(port)) for _ in range(2)] == ["b", "b"]
        for worker in workers:
            await worker.die()


async def test_connections_wait_until_there_is_a_worker() -> None:
    async with accepting() as (acceptor, port), dial(port) as client:
        worker = await Worker(acceptor, "a").start()
        assert await client.exactly(1) == b"a"
        await worker.die()


async def leaving(acceptor: Acceptor, name: str) -> Worker:
    """A worker that has told that it drains."""
    worker = await Worker(acceptor, name).start()
    worker.listener.leave()
    await until(lambda: worker.channel.is_leaving)
    return worker


async def test_what_comes_while_all_workers_leave_waits_for_the_next_life_of_one() -> None:
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        a, b = [await leaving(acceptor, name) for name in "ab"]
        clients = [await stack.enter_async_context(dial(port)) for _ in range(3)]
        greetings = [asyncio.create_task(client.exactly(1)) for client in clients]
        await b.die()
        c = await Worker(acceptor, "c").start()
        assert await asyncio.gather(*greetings) == [b"c"] * 3
        for worker in (a, c):
            await worker.die()


async def test_a_worker_that_leaves_gets_what_has_waited_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.gateway.run.acceptor._PATIENCE_SECONDS", 0.05)
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        a = await leaving(acceptor, "a")
        assert await stack.enter_async_context(greeted(port)) == "a"
        await a.die()


async def test_a_worker_that_leaves_gets_nothing_where_another_was_full_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moorline.gateway.run.acceptor._PATIENCE_SECONDS", patience := 0.4)
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        a, b = await leaving(acceptor, "a"), Worker(acceptor, "b")

        async def fill() -> list[Peer]:
            clients = [await stack.enter_async_context(dial(port)) for _ in range(65)]
            await until(lambda: b.channel.is_full)
            return clients

        clients = await fill()
        await b.start()
        assert [await client.exactly(1) for client in clients] == [b"b"] * 65
        # Nothing happens at its end.
        await asyncio.sleep(1.2 * patience)
        b.listener.close()
        clients = await fill()
        await b.start()
        assert [await client.exactly(1) for client in clients] == [b"b"] * 65
        for worker in (a, b):
            await worker.die()


async def test_a_worker_that_leaves_gets_what_comes_once_the_program_ends() -> None:
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        a = await leaving(acceptor, "a")
        client = await stack.enter_async_context(dial(port))
        acceptor.end()
        assert await client.exactly(1) == b"a"
        await a.die()


async def test_a_worker_that_hangs_stops_getting_more_and_its_death_frees_what_it_had_not_taken() -> None:
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        hangs = Worker(acceptor, "a")
        works = await Worker(acceptor, "b").start()
        clients = [await stack.enter_async_context(dial(port)) for _ in range(200)]
        # Half of them at first, then all that come beyond what a worker may leave lying.
        greetings = {asyncio.create_task(client.exactly(1)) for client in clients}
        for greeting in itertools.islice(asyncio.as_completed(greetings), 200 - 64):
            assert await greeting == b"b"
        assert len([greeting for greeting in greetings if greeting.done()]) == 200 - 64
        await hangs.die()
        assert await asyncio.gather(*greetings) == [b"b"] * 200
        await works.die()


async def test_what_was_not_taken_waits_for_the_next_life() -> None:
    async with accepting() as (acceptor, port):
        hangs = Worker(acceptor, "a")
        async with dial(port) as client:
            await hangs.channel.given.wait()
            await hangs.die()
            next_life = await Worker(acceptor, "b").start()
            assert await client.exactly(1) == b"b"
            await next_life.die()


async def test_a_worker_without_a_free_descriptor_sheds_the_connection_and_serves_on() -> None:
    async with accepting() as (acceptor, port):
        worker = Worker(acceptor, "a")
        async with dial(port) as shed:
            await worker.channel.given.wait()
            with no_more_descriptors():
                await worker.start()
                assert await shed.rest() == b""
            async with greeted(port) as name:
                assert name == "a"
            assert worker.channel.connections <= 1
        await worker.die()


async def test_a_worker_may_become_ready_and_end_after_the_acceptor_was_closed() -> None:
    async with accepting() as (acceptor, _):
        acceptor.close()
        worker = await Worker(acceptor, "a").start()
        await worker.die()


async def test_connections_that_a_worker_has_not_taken_when_it_is_stopped_are_answered() -> None:
    app = web.Application()
    app.router.add_get("/", greet)
    async with accepting() as (acceptor, port), contextlib.AsyncExitStack() as stack:
        channel = WatchedChannel()
        acceptor.add(channel)
        clients = [await stack.enter_async_context(dial(port)) for _ in range(20)]
        while channel.connections < len(clients):
            channel.given.clear()
            await channel.given.wait()
        acceptor.close()
        theirs = stack.enter_context(socket.socket(fileno=socket.dup(channel.fileno())))
        listener = WorkerListener(theirs)
        async with running(app, Settings(drain=2.0), listener=listener) as started:
            listener.on_stop = started.stop_accepting
            channel.stop()
            listener.leave()
            assert listener.opening == len(clients)
            answers = [asyncio.create_task(asked(client)) for client in clients]
        for answer in await asyncio.gather(*answers):
            assert answer.startswith(b"HTTP/1.1 200 ")
        channel.close()


async def greet(_: web.Request) -> web.Response:
    return web.Response(text="a")


async def asked(client: Peer) -> bytes:
    """What is answered to a request that comes some turns of the loop after its connection."""
    for _ in range(5):
        await asyncio.sleep(0)
    await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return await client.head()


class Refusing:
    """`socket.send_fds` of a system that does not send now."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def __call__(self, *_: object) -> int:
        raise self._error


async def test_a_worker_that_reads_nothing_yet_is_told_of_its_successor_when_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with accepting() as (acceptor, port), greeted_later(port) as greeting:
        worker = Worker(acceptor, "a")
        await worker.channel.given.wait()
        one, other = socket.socketpair()
        with monkeypatch.context() as full:
            full.setattr(socket, "send_fds", Refusing(BlockingIOError()))
            handing = asyncio.create_task(worker.channel.hand_over(one, only_counts=False))
            await asyncio.sleep(0)

        def give(sock: socket.socket, _: bool) -> None:  # noqa: FBT001 - a listener's callback
            sock.close()
            worker.listener.handed_over(done=True)

        worker.listener.on_successor = give
        await worker.start()
        assert await handing
        assert await greeting == b"a"
        other.close()
        await worker.die()


async def test_a_hand_over_that_the_system_has_no_descriptor_for_has_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with accepting() as (acceptor, _):
        worker = await Worker(acceptor, "a").start()
        one, other = socket.socketpair()
        error = OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        with monkeypatch.context() as limited, other:
            limited.setattr(socket, "send_fds", Refusing(error))
            assert not await worker.channel.hand_over(one, only_counts=False)
            assert other.recv(1) == b""
        assert "a worker cannot take part in the reload: Too many references" in caplog.text
        await worker.die()


@contextlib.asynccontextmanager
async def greeted_later(port: int) -> AsyncIterator["asyncio.Task[bytes]"]:
    async with dial(port) as client:
        yield asyncio.create_task(client.exactly(1))


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
