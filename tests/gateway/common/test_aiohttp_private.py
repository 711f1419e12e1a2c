"""The private names of aiohttp: one module has them, and a version that lacks one is refused in one line."""

import ast
import asyncio
import inspect
import re
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.web_protocol import RequestHandler

import moorline.backend.app
import moorline.gateway.app  # noqa: F401 - the classes of both parts exist
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web import aiohttp_private
from moorline.gateway.common.web.draining import Draining
from tests.gateway.common.test_server import served
from tests.support.eventlogs import until
from tests.support.faulty_upstream import dial
from tests.test_layers import MODULES, name

# Classes of aiohttp that ours derive from.
BASES = (RequestHandler, web.StreamResponse)
ANOTHER_AIOHTTP = """
import runpy, sys
from aiohttp.web_protocol import RequestHandler
del RequestHandler.finish_response
sys.argv = ["moorline", "gateway", "--port", "0"]
runpy.run_module("moorline", run_name="__main__")
"""


def attributes(source: str) -> Iterator[ast.Attribute]:
    nodes = ast.walk(ast.parse(textwrap.dedent(source)))
    return (node for node in nodes if isinstance(node, ast.Attribute))


def of_aiohttp(owner: type) -> bool:
    return owner.__module__.startswith("aiohttp")


def private_names(of: type) -> set[str]:
    """Those that aiohttp's own classes in the ancestry of this one use."""
    return {
        attribute.attr
        for owner in filter(of_aiohttp, of.__mro__)
        for attribute in attributes(inspect.getsource(owner))
        if attribute.attr.startswith("_") and not attribute.attr.startswith("__")
    }


def below(base: type) -> Iterator[type]:
    each: type
    for each in base.__subclasses__():
        yield each
        yield from below(each)


def all_private_names() -> set[str]:
    """Those of all of aiohttp, its own tests' helpers included."""
    sources = (path.read_text(encoding="utf-8") for path in Path(aiohttp.__file__).parent.glob("*.py"))
    found = {attribute.attr for source in sources for attribute in attributes(source)}
    return {each for each in found if re.fullmatch(r"_[^_].*", each)} - DOCUMENTED


# The underscore of a NamedTuple's methods keeps them from the names of its members.
DOCUMENTED = {"_replace", "_asdict", "_fields"}
PRIVATE = all_private_names()
OURS = {each for base in BASES for each in below(base) if each.__module__.startswith("moorline.")}
OURS = {each for each in OURS if each.__module__ != aiohttp_private.__name__}


def is_self(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id == "self"


def test_a_missing_method_is_named_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RequestHandler, "finish_response")
    with pytest.raises(UsageError, match=rf"aiohttp {aiohttp.__version__} has no RequestHandler.finish_response,"):
        aiohttp_private.check()


def test_a_missing_slot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RequestHandler, "_messages")
    with pytest.raises(UsageError, match=r"has no RequestHandler\._messages,"):
        aiohttp_private.check()


def test_the_command_line_says_it_in_one_line() -> None:
    ended = subprocess.run([sys.executable, "-c", ANOTHER_AIOHTTP], capture_output=True, text=True, encoding="utf-8")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"moorline: aiohttp {aiohttp.__version__} has no RequestHandler.finish_response")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "aiohttp_private.py"], ids=name)
def test_no_other_module_names_what_aiohttp_keeps_for_itself(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if "aiohttp" in source:
        assert not {each.attr for each in attributes(source) if not is_self(each)} & PRIVATE


@pytest.mark.parametrize("ours", sorted(OURS, key=str), ids=lambda ours: ours.__name__)
def test_no_class_that_derives_from_one_of_aiohttp_uses_or_hides_its_private_names(ours: type) -> None:
    assert not {attribute.attr for attribute in attributes(inspect.getsource(ours))} & private_names(ours)


async def test_a_body_that_was_paused_is_read_to_its_end_by_the_connections_of_our_connector(
    aiohttp_server: Callable[..., Awaitable[TestServer]],
) -> None:
    body = b"x" * (4 << 20)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", answer)
    server = await aiohttp_server(app)
    connector = aiohttp_private.ClientConnector(limit=0, keepalive_timeout=1, ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(connector=connector) as session, session.get(server.make_url("/")) as response:
        protocol = response.connection and response.connection.protocol
        assert isinstance(protocol, aiohttp_private._ClientProtocol)
        await until(lambda: protocol._reading_paused)
        assert await response.read() == body


@pytest.mark.parametrize(
    ("owner", "reader", "name"),
    [
        (web.BaseRequest, "task", "_task"),
        (web.BaseRequest, "__getitem__", "_state"),
        (web.Application, "__getitem__", "_state"),
    ],
)
def test_an_attribute_of_instances_alone_is_found_missing(
    owner: type, reader: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_: object, key: object = None) -> object:
        return key

    monkeypatch.setattr(owner, reader, property(other) if reader == "task" else other)
    with pytest.raises(UsageError, match=rf"has no {owner.__name__}\.{name}"):
        aiohttp_private.check()


KNOWN = ("method", "version", "headers", "raw_headers", "raw_path", "rel_url", "body_exists")


@pytest.mark.parametrize("target", ["/?c=%20d", "http://other/?c=d"])
async def test_what_is_put_into_a_request_is_what_aiohttp_would_find(target: str) -> None:
    found: list[tuple[object, object]] = []

    async def compare(request: web.Request) -> web.Response:
        own = request.clone()
        found.extend((getattr(request, each), getattr(own, each)) for each in KNOWN)
        return web.Response()

    async with served(compare) as server, dial(server.port) as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        await client.end()
    assert len(found) == len(KNOWN)
    assert all(ours == own for ours, own in found)


async def test_the_socket_of_a_handshake_with_a_body_can_be_paused() -> None:
    paused: list[bool] = []

    async def pause(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        request.protocol.pause_reading()
        paused.append(request.protocol._reading_paused)
        request.protocol.resume_reading()
        return socket

    async with served(pause) as server, dial(server.port) as client:
        lines = (b"GET / HTTP/1.1", b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 3")
        key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        await client.send(b"\r\n".join((*lines, key, b"", b"")))
        await client.head()
    assert paused == [True]


class ClosedOnce(asyncio.Transport):
    """As asyncio's TLS transport, which raises AttributeError at most calls once it was closed twice."""

    closes = 0

    def close(self) -> None:
        self.closes += 1

    def is_closing(self) -> bool:
        return self.closes > 0

    def can_write_eof(self) -> bool:
        return False


async def test_a_connection_that_ends_is_closed_once() -> None:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        raise web.HTTPNotFound

    transport = ClosedOnce()
    protocol = aiohttp_private.ServerProtocol(web.Server(handle), asyncio.get_running_loop(), Draining())
    protocol.connection_made(transport)
    protocol.end(is_sending=False)
    protocol.close()
    protocol.force_close()
    assert transport.closes == 1
