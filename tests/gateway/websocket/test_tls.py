"""The gateway's own TLS: pages, sockets and their ends as over TCP, and what is no TLS handshake."""

import asyncio
import contextlib
import logging
import re
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from socket import create_connection
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.tls import ServerTls
from tests.gateway.websocket.conftest import Gateway, Start, ended
from tests.support.certificates import Certificate, certificate
from tests.support.faulty_upstream import HANDSHAKE, STEP, SWITCH, Upstream
from tests.support.raw import answering, dial, listening
from tests.support.websocket_frames import TEXT, frame

BIG = "x" * (1 << 20)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return asyncio.run(certificate(tmp_path_factory.mktemp("tls")))


@pytest.fixture
def pair(made: Certificate, tmp_path: Path) -> Certificate:
    """One for localhost, in files of the test's own."""
    return Certificate(Path(shutil.copy(made.file, tmp_path)), Path(shutil.copy(made.key, tmp_path)))


def client_of(pair: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.file))


async def start_tls(start: Start, pair: Certificate, backend: int, **options: Any) -> Gateway:
    files = {"tls_certificate": str(pair.file), "tls_certificate_key": str(pair.key)}
    return await start(backend, **{"host": "localhost", **files, **options})


def socket(gateway: Gateway, pair: Certificate, **options: Any) -> connect:
    url = f"wss://localhost:{gateway.port}/ws/x"
    return connect(url, ssl=client_of(pair), proxy=None, compression=None, max_size=None, **options)


@contextlib.asynccontextmanager
async def asking(gateway: Gateway, pair: Certificate) -> AsyncIterator[asyncio.StreamReader]:
    """A client that has sent its handshake."""
    reader, writer = await asyncio.open_connection("localhost", gateway.port, ssl=client_of(pair))
    writer.write(HANDSHAKE)
    try:
        yield reader
    finally:
        writer.close()


async def test_pages_and_api_are_served_by_tls(start: Start, pair: Certificate) -> None:
    heads: list[bytes] = []
    async with listening(answering(ANSWER, heads)) as port, aiohttp.ClientSession() as http:
        gateway = await start_tls(start, pair, port)
        assert gateway.url.startswith("https://")
        for path, text in (("/", "<title>page</title>"), ("/api/x", "ok")):
            async with http.get(f"https://localhost:{gateway.port}{path}", ssl=client_of(pair)) as response:
                assert (response.status, await response.text()) == (200, text)
    assert b"X-Forwarded-Proto: https\r\n" in heads[0]


@pytest.mark.parametrize(
    ("offered", "selected"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
    ids=["both", "http/1.1", "h2 alone", "none"],
)
async def test_of_what_a_client_offers_by_alpn_http_1_1_is_selected(
    start: Start, pair: Certificate, echo: int, offered: list[str], selected: str | None
) -> None:
    gateway = await start_tls(start, pair, echo)
    client = client_of(pair)
    if offered:
        client.set_alpn_protocols(offered)
    _, writer = await asyncio.open_connection("localhost", gateway.port, ssl=client)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == selected
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_large_messages_pass_both_ways_in_order(start: Start, pair: Certificate, echo: int) -> None:
    gateway = await start_tls(start, pair, echo)
    async with socket(gateway, pair) as client:
        for message in ("a", BIG, "b", BIG):
            await client.send(message)
            assert await client.recv() == message


async def test_the_end_of_the_upstream_reaches_the_client_with_a_close_frame(
    start: Start, pair: Certificate, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    gateway = await start_tls(start, pair, upstream.port)
    async with asking(gateway, pair) as client:
        backend = await upstream.accept()
        await backend.send(SWITCH)
        assert (await client.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await backend.send(frame(TEXT, b"last"))
        backend.reset()
        assert b"last" in await client.read()
    assert "UR-" in await ended(gateway, caplog)


async def test_the_end_of_the_client_reaches_the_upstream(start: Start, pair: Certificate, upstream: Upstream) -> None:
    gateway = await start_tls(start, pair, upstream.port)
    async with asking(gateway, pair):
        backend = await upstream.accept()
        await backend.send(SWITCH)
        await gateway.has(1)
    async with asyncio.timeout(STEP):
        # Up to the FIN.
        await backend.rest()
    backend.close()
    await gateway.has(0)


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_client_that_sends_on_behind_a_refusal_gets_it(start: Start, pair: Certificate, scheme: str) -> None:
    def upload() -> bytes:
        """Without a look at the response before all is sent, as browsers do."""
        with contextlib.ExitStack() as open_sockets:
            client = open_sockets.enter_context(create_connection(("localhost", gateway.port), timeout=STEP))
            if scheme == "https":
                client = open_sockets.enter_context(client_of(pair).wrap_socket(client, server_hostname="localhost"))
            client.sendall(b"POST / HTTP/1.1\r\nHost : a\r\nContent-Length: %d\r\n\r\n" % (8 << 20))
            for _ in range(8):
                client.sendall(bytes(1 << 20))
            return client.recv(1 << 16)

    gateway = await start_tls(start, pair, 1)
    assert (await asyncio.to_thread(upload)).split()[1] == b"400"


async def test_plain_http_is_told_to_use_https(start: Start, pair: Certificate) -> None:
    gateway = await start_tls(start, pair, 1)
    async with dial(gateway.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = await client.rest()
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"The plain HTTP request was sent to HTTPS port." in response


@pytest.mark.parametrize("first", [b"\x16", b"\x16\x03\x01\x00\x05abcde", b"\x00\x00", b"\xff" * 4096])
async def test_what_is_no_handshake_harms_no_other_client(
    start: Start, pair: Certificate, echo: int, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_tls(start, pair, echo)
    async with dial(gateway.port) as client:
        await client.send(first)
        async with socket(gateway, pair) as other:
            await other.send("a")
            assert await other.recv() == "a"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("first", [b"", b"\x16\x03"])
async def test_a_client_that_completes_no_handshake_is_closed_in_time(
    start: Start, pair: Certificate, first: bytes
) -> None:
    gateway = await start_tls(start, pair, 1, client_header_timeout=0.1)
    async with dial(gateway.port) as client, asyncio.timeout(STEP):
        await client.send(first)
        assert await client.ended()


async def test_a_handshake_in_pieces_completes(start: Start, pair: Certificate) -> None:
    gateway = await start_tls(start, pair, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_of(pair).wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with dial(gateway.port) as client, asyncio.timeout(STEP):
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        for byte in outgoing.read():
            await client.send(bytes((byte,)))
        while True:
            incoming.write(await client.exactly(1))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        # The first request in the same segment as the end of the handshake.
        tls.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await client.send(outgoing.read())
        status = b""
        while not status.endswith(b"\r\n"):
            incoming.write(await client.exactly(1))
            with contextlib.suppress(ssl.SSLWantReadError):
                status += tls.read(1)
    assert status == b"HTTP/1.1 200 OK\r\n"


async def test_tls_1_1_is_refused(start: Start, pair: Certificate) -> None:
    gateway = await start_tls(start, pair, 1)
    old = client_of(pair)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    # asyncio sends no alert for a handshake that it ends.
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("localhost", gateway.port, ssl=old)


@pytest.mark.parametrize(
    ("origin", "status"), [("https://localhost:{}", 101), ("http://localhost:{}", 403), ("https://other.example", 403)]
)
async def test_a_page_opens_a_socket_only_from_the_same_origin(
    start: Start, pair: Certificate, echo: int, origin: str, status: int
) -> None:
    # No trusted proxy, for which the client's own X-Forwarded-Proto would count.
    gateway = await start_tls(start, pair, echo, trusted_proxies=())
    async with aiohttp.ClientSession() as http:
        headers = {"Origin": origin.format(gateway.port)}
        handshake = http.ws_connect(f"https://localhost:{gateway.port}/ws/x", headers=headers, ssl=client_of(pair))
        if status == 101:
            await (await handshake).close()
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await handshake
            assert refused.value.status == status


async def test_a_proxy_in_front_may_have_pages_of_http(start: Start, pair: Certificate, echo: int) -> None:
    gateway = await start_tls(start, pair, echo)
    headers = {"Origin": f"http://localhost:{gateway.port}", "X-Forwarded-Proto": "http"}
    async with socket(gateway, pair, additional_headers=headers) as client:
        await client.send("a")
        assert await client.recv() == "a"


async def test_open_sockets_are_closed_in_order_at_the_end(start: Start, pair: Certificate, echo: int) -> None:
    gateway = await start_tls(start, pair, echo)
    async with socket(gateway, pair) as client:
        await client.send("a")
        await client.recv()
        gateway.drain()
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.GOING_AWAY


# The files -----------------------------------------------------------------------------------------------------------


async def test_a_renewed_certificate_serves_the_next_connection(
    start: Start, pair: Certificate, tmp_path: Path, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.common.web.tls._CHECK_SECONDS", 0.0)
    gateway = await start_tls(start, pair, echo)
    (tmp_path / "new").mkdir()
    new = await certificate(tmp_path / "new")
    async with socket(gateway, pair) as before:
        new.file.replace(pair.file)
        # The files are not replaced at once: between the two the old pair serves on.
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("localhost", gateway.port, ssl=client_of(pair))
        new.key.replace(pair.key)
        async with socket(gateway, pair) as after:
            for client in (before, after):
                await client.send("a")
                assert await client.recv() == "a"


async def test_metrics_have_the_date_on_which_the_certificate_expires(
    start: Start, pair: Certificate, tmp_path: Path, unused_tcp_port: int
) -> None:
    await start_tls(start, pair, 1, metrics_port=unused_tcp_port)
    async with aiohttp.request("GET", f"http://127.0.0.1:{unused_tcp_port}/metrics") as answer:
        (found,) = re.findall(
            r"^moorline_certificate_expiry_timestamp_seconds (\S+)$", await answer.text(), re.MULTILINE
        )
    two_days = 2 * 86400
    assert two_days - 3600 < float(found) - time.time() <= two_days


async def test_the_date_is_that_of_the_file_that_is_there(pair: Certificate, tmp_path: Path) -> None:
    tls = ServerTls(str(pair.file), str(pair.key))
    assert (tls.expiry(0.0) or 0.0) > time.time()
    old = await certificate(tmp_path, "old", expired=True)
    old.file.replace(pair.file)
    old.key.replace(pair.key)
    assert 0 < (tls.expiry(10.0) or 0.0) < time.time()


def _no_key(pair: Certificate) -> None:
    pair.key.write_text("nothing")


def _no_certificate(pair: Certificate) -> None:
    pair.file.write_text("nothing")


def _missing(pair: Certificate) -> None:
    pair.key.unlink()


def _cut(pair: Certificate) -> None:
    pair.file.write_bytes(pair.file.read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_key, 'tls_certificate_key: "{key}" holds no private key (PEM)'),
        (_no_certificate, 'tls_certificate: "{file}" holds no certificate (PEM)'),
        (_missing, 'tls_certificate_key: "{key}" cannot be read (No such file or directory)'),
        (_cut, 'tls_certificate: OpenSSL refuses "{file}" with "{key}" ('),
    ],
)
async def test_files_that_cannot_work_end_the_start_with_one_line(
    start: Start, pair: Certificate, spoil: Callable[[Certificate], None], words: str
) -> None:
    spoil(pair)
    with pytest.raises(UsageError) as error:
        await start_tls(start, pair, 1)
    assert str(error.value).startswith(words.format(key=pair.key, file=pair.file))


async def test_the_key_of_another_certificate_is_refused(start: Start, pair: Certificate, tmp_path: Path) -> None:
    other = await certificate(tmp_path, "other")
    with pytest.raises(UsageError, match='is not the key of the first certificate in "'):
        await start_tls(start, Certificate(pair.file, other.key), 1)


async def test_a_key_with_a_passphrase_is_refused_without_asking(start: Start, pair: Certificate) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", pair.key.with_suffix(".aes")
    )
    assert await process.wait() == 0
    with pytest.raises(UsageError, match="has a passphrase"):
        await start_tls(start, Certificate(pair.file, pair.key.with_suffix(".aes")), 1)


async def test_one_file_without_the_other_is_refused(start: Start, pair: Certificate) -> None:
    with pytest.raises(UsageError, match="tls_certificate_key: it is empty"):
        await start(1, tls_certificate=str(pair.file))
    with pytest.raises(UsageError, match="tls_certificate: it is empty"):
        await start(1, tls_certificate_key=str(pair.key))


async def test_a_certificate_that_clients_will_refuse_is_a_warning(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await start_tls(start, await certificate(tmp_path, "old", expired=True), 1)
    assert "certificate has expired" in caplog.text


async def test_a_key_that_every_user_may_read_is_a_warning(
    start: Start, pair: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    await start_tls(start, pair, 1)
    assert "every user" not in caplog.text
    pair.key.chmod(0o644)
    await start_tls(start, pair, 1)
    assert f'every user of this machine may read "{pair.key}"' in caplog.text
