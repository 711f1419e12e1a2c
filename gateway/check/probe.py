"""What a server that accepts connections does with a question, as a browser would ask it.

The question is asked in a session of its own, `check-<random>`, which is erased afterwards. A server that is not
moorline's is asked nothing: its socket is opened, and a Ping sent. A socket that has ended is looked up at the gateway
that it may have passed, by its X-Request-ID.
"""

import asyncio
import dataclasses
import json
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, quote

import aiohttp
from yarl import URL

from moorline.gateway.check.address import ProbeOptions, port_of
from moorline.gateway.check.reach import network_failure
from moorline.gateway.check.services import service_of
from moorline.gateway.check.verdicts import PATIENT, Failure, FailureKind, Hop, Step
from moorline.gateway.check.websocket import HopFailed, Message, Target, WebSocket
from moorline.gateway.common.config.units import format_duration
from moorline.gateway.common.errors import UsageError
from moorline.gateway.explain import explain

__all__ = ["ask"]

_BANNER_TIMEOUT = 2.0
# Far beyond what a network or a busy server takes for one frame.
_SLOW_PONG = 2.0
_HELD_BACK = (
    "a proxy in between holds frames back for a time (nginx: proxy_buffering off), or the server's event loop was "
    "blocked."
)
_QUESTION = "This is a test of the connection. Please answer with one word."
_AFTER = {"after": "0", "epoch": "", "wait": "0"}
_VERSION_1 = "version 1 of the protocol alone: no resume, and a page that needs version 2 gets no answer"
# Of a response's body: what moorline sends here is shorter.
_MOST_BODY = 1 << 20
# Of a socket that was open, by the other side.
_ENDS = (FailureKind.CLOSED, FailureKind.FIN, FailureKind.RESET, FailureKind.CUT, FailureKind.IDLE)
# What nginx says to plain HTTP at a TLS port.
_PLAIN_TO_TLS = b"plain HTTP request was sent to HTTPS port"
# OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, and those of another name.
_EXPIRED = 10
_OTHER_NAME = (62, 64)


def ask(
    target: SplitResult,
    on_step: Callable[[Step], None],
    options: ProbeOptions,
    *,
    moorline: bool,
) -> None:
    """Follow the hops behind the connection, up to the first that fails, and hand each to `on_step`."""

    async def run() -> None:
        await _ask(_Probe(target, options, moorline=moorline), on_step)

    asyncio.run(run())


async def _ask(probe: "_Probe", on_step: Callable[[Step], None]) -> None:
    try:
        for hop, action in probe.hops():
            began = time.perf_counter()
            try:
                detail = await action()
            except Exception as error:
                seconds = time.perf_counter() - began
                on_step(Step(hop, seconds, failure=await probe.with_details(_failure_of(error))))
                return
            seconds = time.perf_counter() - began
            on_step(Step(hop, seconds, detail, note=await probe.note(hop)))
    finally:
        await probe.end()


class _Probe:
    """One question to one server."""

    def __init__(self, target: SplitResult, options: ProbeOptions, *, moorline: bool) -> None:
        self._host = target.hostname or ""
        tls = target.scheme in ("https", "wss")
        self._port = port_of(target)
        self._tls = _client_tls(options.certificate) if tls else None
        # As a browser sends it: of an internationalized name its ASCII form.
        self._authority = URL(f"http://{target.netloc.rpartition('@')[2]}").raw_authority
        self._origin = f"{'https' if tls else 'http'}://{self._authority}"
        self._base = self._origin + target.path.rstrip("/")
        self._session_id = f"check-{secrets.token_hex(8)}"
        self._options = options
        self._foreign = bool(options.path) or target.scheme in ("ws", "wss")
        self._path = f"{target.path.rstrip('/')}/ws/chat/{PATIENT}/{self._session_id}"
        if self._foreign:
            self._path = options.path or target._replace(scheme="", netloc="", path=target.path or "/").geturl()
        self._moorline = moorline and not self._foreign
        self._socket: WebSocket | None = None
        self._early: list[Message] = []
        """What came before the Pong."""
        self._has_asked = False
        self._pong_seconds = 0.0
        self._client = aiohttp.ClientSession(
            # With the authorities of this moment; aiohttp's own context is made when it is imported.
            connector=aiohttp.TCPConnector(ssl=self._tls or True),
            timeout=aiohttp.ClientTimeout(total=options.hop_timeout),
            headers=options.headers,
        )

    def hops(self) -> Sequence[tuple[Hop, Callable[[], Awaitable[str]]]]:
        """What to do, in order."""
        hops: list[tuple[Hop, Callable[[], Awaitable[str]]]] = [
            (Hop.HTTP, self._http),
            (Hop.UPGRADE, self._upgrade),
        ]
        if not self._foreign:
            hops.append((Hop.ANSWER, self._answer))
        if self._options.idle is not None:
            hops.append((Hop.IDLE, self._idle))
        return hops

    async def end(self) -> None:
        """Leave no trace."""
        if self._socket is not None:
            await self._socket.close()
        if self._has_asked:
            await self._erase()
        await self._client.close()

    async def _erase(self) -> None:
        # Where this fails, the hop that failed has been reported already.
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._client.delete(f"{self._base}/api/chat/{self._session_id}"):
                pass

    # Hops -------------------------------------------------------------------------------------------------------------

    async def _http(self) -> str:
        if self._tls is not None:
            await self._handshake_of_tls()
        try:
            return await self._request()
        except TimeoutError as error:
            if await self._answers_at_its_end():
                raise HopFailed(Failure(FailureKind.BUFFERED)) from error
            raise
        except (aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if self._tls is None and await self._speaks_tls():
                raise HopFailed(Failure(FailureKind.SPEAKS_TLS)) from error
            answers = isinstance(error, aiohttp.ClientResponseError)
            # Redis ends a connection that sends it a Host header, and answers this.
            service = await self._banner(b"GET / HTTP/1.1\r\nHost: check\r\n\r\n" if answers else b"PING\r\n")
            if answers or service:
                raise HopFailed(Failure(FailureKind.NOT_HTTP, detail=service)) from error
            raise

    @property
    def _url(self) -> str:
        """Of the first request."""
        path = self._path if self._foreign else ""
        return f"{self._origin}{path}" if path else f"{self._base}/api/chat/{self._session_id}/messages"

    async def _request(self) -> str:
        async with self._client.get(self._url, allow_redirects=False) as response:
            if response.status == 400 and _PLAIN_TO_TLS in await _body(response):
                # A gateway passes on what its upstream says.
                raise HopFailed(
                    Failure(FailureKind.SPEAKS_TLS if await self._speaks_tls() else FailureKind.UPSTREAM_SPEAKS_TLS)
                )
            # Another backend may have no such path; what counts here is that there is a response.
            if not self._foreign and (response.status >= 500 or response.status == 421):
                raise HopFailed(Failure.refused(response.status, response.headers, await _body(response)))
            known = response.content_type.endswith("json") and "X-Request-ID" in response.headers
        if self._moorline and not known:
            await self._recognize()
        return f"{response.status} {response.reason}"

    async def _recognize(self) -> None:
        """Ask for /healthz, whose answer is moorline's own: every web server has a page or a 404 for a chat's path.

        Only where the first response left it open: a proxy in front may hide /healthz, as nginx/ does.
        """
        async with self._client.get(f"{self._base}/healthz", allow_redirects=False) as response:
            try:
                known = response.status == 200 and _parsed(await _body(response)) == {"status": "ok"}
            except ValueError:
                known = False
            if not known:
                raise HopFailed(Failure(FailureKind.NOT_MOORLINE, detail=f"/healthz: HTTP {response.status}"))

    async def _upgrade(self) -> str:
        try:
            self._socket = await self._open_socket(self._options.origin or self._origin)
        except HopFailed as error:
            if error.failure.kind is FailureKind.STATUS:
                raise HopFailed(await self._explained(error.failure)) from error
            raise
        began = time.perf_counter()
        await self._pong()
        self._pong_seconds = time.perf_counter() - began
        return f"101 Switching Protocols, Pong after {self._pong_seconds * 1000:.1f} ms"

    async def _pong(self) -> None:
        assert self._socket is not None
        try:
            async with asyncio.timeout(self._options.hop_timeout):
                await self._socket.ping()
                while not (message := await self._socket.receive()).is_pong:
                    self._early.append(message)
        except TimeoutError:
            raise HopFailed(Failure(FailureKind.NO_PONG)) from None

    async def _open_socket(self, origin: str) -> WebSocket:
        target = Target(self._host, self._port, self._authority, self._tls)
        headers = {**({"Origin": origin} if origin else {}), **self._options.headers}
        async with asyncio.timeout(self._options.hop_timeout):
            return await WebSocket.open(target, self._path, headers)

    async def _explained(self, failure: Failure) -> Failure:
        """A refusal, with what further requests tell of its cause."""
        if failure.status == 403:
            with suppress(HopFailed, TimeoutError, OSError):
                await (await self._open_socket("")).close()
                return dataclasses.replace(failure, kind=FailureKind.ORIGIN)
        if failure.status in (200, 400, 405) and failure.status == await self._status_of_a_get():
            return dataclasses.replace(failure, kind=FailureKind.NO_SOCKET)
        return failure

    async def _status_of_a_get(self) -> int:
        try:
            async with self._client.get(f"{self._origin}{self._path}", allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def _answer(self) -> str:
        assert self._socket is not None
        self._has_asked = True
        try:
            async with asyncio.timeout(self._options.answer_timeout):
                await self._socket.send_text(json.dumps({"message": _QUESTION}))
                answer = await self._first_answer()
        except TimeoutError:
            # A server that still answers a Ping waits for its model.
            await self._pong()
            raise
        return f"{answer}; {_VERSION_1}" if await self._is_version_1() else answer

    async def _first_answer(self) -> str:
        assert self._socket is not None
        while True:
            frame = self._early.pop(0) if self._early else await self._socket.receive()
            message = _parsed(frame.payload)
            if not isinstance(message, dict):
                raise HopFailed(Failure(FailureKind.NOT_HTTP))
            if message.get("type") == "error":
                raise HopFailed(Failure(FailureKind.ERROR, code=str(message.get("code"))))
            if message.get("type") == "message":
                return f"{len(str(message.get('content')))} characters"

    async def with_details(self, failure: Failure) -> Failure:
        """With what moorline's parts know of it: a backend of its database, a gateway of a socket's end."""
        if failure.kind is FailureKind.TIMEOUT or failure.code == "internal":
            said = (await self._json(f"{self._base}/readyz")).get("database")
            return dataclasses.replace(failure, database=said) if isinstance(said, str) and said != "ok" else failure
        if self._socket is not None and failure.kind in _ENDS:
            return dataclasses.replace(failure, gateway_cause=await self._cause_of_end(self._socket))
        return failure

    async def _cause_of_end(self, ended: WebSocket) -> str:
        """A gateway's code for it, `UR-idle`; empty where there is no gateway of moorline's, or it tells causes to its
        own machine alone (`tell_causes`)."""
        # The gateway knows it once both connections have ended.
        await ended.close()
        self._socket = None
        if not ended.request_id:
            return ""
        base = self._origin if self._foreign else self._base
        code = (await self._json(f"{base}/-/ended/{quote(ended.request_id, safe='')}")).get("cause")
        return code if isinstance(code, str) and explain(code) is not None else ""

    async def note(self, hop: Hop) -> str:
        """What a person should know of a hop that went well."""
        if hop is Hop.UPGRADE and self._pong_seconds > _SLOW_PONG:
            return f"But the first Pong came after {self._pong_seconds:.1f} s: {_HELD_BACK}"
        return await self._note_of_model() if hop is Hop.ANSWER else ""

    async def _note_of_model(self) -> str:
        """Whether the answer came from a model, where moorline's backend is asked directly."""
        model = (await self._json(f"{self._base}/readyz")).get("model")
        name = str(model.get("name", "")) if isinstance(model, dict) else ""
        step = "set it where the backend starts, or give it a responder of your own (--responder)"
        return f"But no model answered ({name}): {step}." if name.startswith("none") else ""

    async def _is_version_1(self) -> bool:
        """As the chat client finds it: a backend of version 1 ignores the position, and sends a list of rows."""
        url = f"{self._base}/api/chat/{self._session_id}/messages"
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._client.get(url, params={**_AFTER, "patient_id": PATIENT}) as response:
                return response.status == 200 and isinstance(_parsed(await _body(response)), list)
        return False

    async def _json(self, url: str) -> Mapping[str, Any]:
        """The object that moorline has at an address of its own; empty where it is another server."""
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._client.get(url, allow_redirects=False) as response:
                said = _parsed(await _body(response))
                return said if isinstance(said, dict) else {}
        return {}

    async def _idle(self) -> str:
        """Send nothing but what a browser sends by itself: the Pongs to the server's Pings."""
        assert self._socket is not None
        assert self._options.idle is not None
        pings = self._socket.pings
        try:
            async with asyncio.timeout(self._options.idle):
                while True:
                    await self._socket.receive()
        except TimeoutError:
            await self._pong()
        except HopFailed as error:
            seconds = time.perf_counter() - self._socket.last
            raise HopFailed(Failure(FailureKind.IDLE, detail=f"after {seconds:.1f} s: {error.failure}")) from error
        return (
            f"open after {format_duration(self._options.idle)}, with {self._socket.pings - pings} Pings of the server's"
        )

    # What else listens there ------------------------------------------------------------------------------------------

    async def _handshake_of_tls(self) -> None:
        async with asyncio.timeout(self._options.hop_timeout):
            try:
                _, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            except ssl.SSLCertVerificationError as error:
                raise HopFailed(Failure(_certificate(error), detail=str(error.verify_message or ""))) from None
            except ssl.SSLError as error:
                raise HopFailed(Failure(FailureKind.NO_TLS, detail=str(error.reason or "").lower())) from None
            except ConnectionResetError:
                raise HopFailed(Failure(FailureKind.NO_TLS, detail="reset")) from None
            writer.transport.abort()

    async def _speaks_tls(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(_BANNER_TIMEOUT):
                _, writer = await asyncio.open_connection(self._host, self._port, ssl=context)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def _answers_at_its_end(self) -> bool:
        """Whether a response that is the connection's last comes, where others do not.

        The other is asked for once more: a server that was only slow answers both.
        """
        return await self._answers("close") and not await self._answers("keep-alive")

    async def _answers(self, connection: str) -> bool:
        target = self._url.removeprefix(self._origin)
        lines = (f"GET {target} HTTP/1.1", f"Host: {self._authority}", f"Connection: {connection}", "", "")
        seconds = min(_BANNER_TIMEOUT, self._options.hop_timeout)
        said = await self._first_bytes("\r\n".join(lines).encode(), seconds, self._tls)
        return said.startswith(b"HTTP/")

    async def _banner(self, question: bytes) -> str:
        """Which service it is, where the first bytes that it sends tell."""
        return service_of(await self._first_bytes(question, _BANNER_TIMEOUT, None))

    async def _first_bytes(self, question: bytes, seconds: float, tls: ssl.SSLContext | None) -> bytes:
        """What comes first on a connection of its own; nothing where that does not come in time."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=tls)
                try:
                    writer.write(question)
                    return await reader.read(256)
                finally:
                    writer.transport.abort()
        return b""


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Its beginning, where it is longer than `_MOST_BODY`."""
    try:
        return await response.content.readexactly(_MOST_BODY)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _parsed(text: bytes) -> Any:
    """The value of JSON.

    Raises:
        ValueError: it is none, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _client_tls(certificate: str) -> ssl.SSLContext:
    """What a browser accepts, or this one certificate and no other."""
    if not certificate:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except OSError as error:
        raise UsageError(f'tls_certificate: "{certificate}" cannot be read ({error.strerror})') from None
    return context


def _certificate(error: ssl.SSLCertVerificationError) -> FailureKind:
    if error.verify_code == _EXPIRED:
        return FailureKind.CERTIFICATE_EXPIRED
    return FailureKind.CERTIFICATE_NAME if error.verify_code in _OTHER_NAME else FailureKind.CERTIFICATE_UNKNOWN


def _failure_of(error: Exception) -> Failure:
    """What an exception of asyncio or aiohttp means; their order matters, the particular before the general."""
    match error:
        case HopFailed():
            return error.failure
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure(FailureKind.TLS)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return Failure(FailureKind.CLOSED)
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError() | ValueError():
            return Failure(FailureKind.NOT_HTTP)
        case OSError():
            return network_failure(error)
    raise error
