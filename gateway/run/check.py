"""`moorline check`: ask one question as a browser would, hop by hop, and time each hop.

The question is asked in a session of its own, `check-<random>`, which is erased afterwards.
"""

import asyncio
import json
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from moorline.gateway.common.errors import UsageError
from moorline.gateway.run.verdicts import Cause, Failure, Hop, Side, Step, conclusion, verdict

# Imported by the hops that need it: a name without an address and a port without a listener are found without.
if TYPE_CHECKING:
    import aiohttp

__all__ = ["check", "main", "probe"]

_HOP_TIMEOUT = 10.0
# A model may think for a while before it says its first word; people give up at about this time.
_ANSWER_TIMEOUT = 60.0
_PATIENT = "patient:check"
_QUESTION = "This is a test of the connection. Please answer with one word."


class _HopFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


def main(url: str, backend: str | None, *, backend_is_named: bool) -> int:
    """`moorline check`; the exit status."""
    return asyncio.run(check(url, backend, backend_is_named=backend_is_named))


async def check(
    url: str, backend: str | None, *, backend_is_named: bool, answer_timeout: float = _ANSWER_TIMEOUT
) -> int:
    """Print what each hop did; 0 where the question was answered, else 1.

    A backend at a guessed address may be elsewhere: that it is not reached there is no fault if the gateway answers.
    """
    through = await _report(Side.GATEWAY, url, answer_timeout)
    straight = await _report(Side.BACKEND, backend, answer_timeout) if backend else None
    broken = conclusion(through, straight, backend_is_named=backend_is_named)
    if broken is None:
        print("Everything answers." if straight is None or straight[-1].failure is None else _elsewhere(url))
        return 0
    side, step = broken
    assert step.failure is not None
    found = verdict(side, step.hop, step.failure)
    print(f"Broken: {step.hop}, {side}: {step.failure}\n  usual cause: {found.cause}\n  next step:   {found.next_step}")
    return 1


def _elsewhere(url: str) -> str:
    return f"{url} answers. Its backend is at another address than the one tried; name it with --backend URL."


async def _report(side: Side, url: str, answer_timeout: float) -> list[Step]:
    print(f"{side}: {url}")
    steps = []
    async for step in probe(url, answer_timeout=answer_timeout, moorline=side is Side.GATEWAY):
        steps.append(step)
        said = f"FAILED: {step.failure}" if step.failure else step.detail
        print(f"  {step.hop:<14}{step.seconds * 1000:9.1f} ms  {said}", flush=True)
    print()
    return steps


async def probe(
    url: str, *, hop_timeout: float = _HOP_TIMEOUT, answer_timeout: float = _ANSWER_TIMEOUT, moorline: bool = False
) -> AsyncIterator[Step]:
    """The hops to an answer from `url`, up to the first that fails. A gateway is `moorline`; a backend need not be."""
    target = _parse(url)
    session_id = f"check-{secrets.token_hex(8)}"
    running = _Probe(target, session_id, hop_timeout, answer_timeout, moorline=moorline)
    try:
        for hop, action in running.hops():
            if hop is Hop.HTTP:
                running.open_client()
            began = time.perf_counter()
            try:
                detail = await action()
            except Exception as error:
                yield Step(hop, time.perf_counter() - began, failure=_failure_of(error))
                return
            yield Step(hop, time.perf_counter() - began, detail)
    finally:
        await running.end()


def _parse(url: str) -> SplitResult:
    try:
        target = urlsplit(url if "://" in url else f"http://{url}")
        valid = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f'"{url}" is not an address; write for example http://localhost:4321')
    return target


class _Probe:
    """One question to one server."""

    def __init__(
        self,
        target: SplitResult,
        session_id: str,
        hop_timeout: float,
        answer_timeout: float,
        *,
        moorline: bool,
    ) -> None:
        self._host = target.hostname or ""
        self._tls = target.scheme == "https"
        self._port = target.port or (443 if self._tls else 80)
        self._origin = f"{target.scheme}://{target.netloc}"
        self._base = self._origin + target.path.rstrip("/")
        self._session_id = session_id
        self._hop_timeout = hop_timeout
        self._answer_timeout = answer_timeout
        self._moorline = moorline
        self._open_client: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._asked = False

    def open_client(self) -> None:
        """Before the first hop that speaks HTTP."""
        import aiohttp

        self._open_client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._hop_timeout))

    @property
    def _client(self) -> "aiohttp.ClientSession":
        assert self._open_client is not None
        return self._open_client

    def hops(self) -> list[tuple[Hop, Callable[[], Awaitable[str]]]]:
        """What to do, in order."""
        return [
            (Hop.NAME, self._name),
            (Hop.TCP, self._tcp),
            (Hop.HTTP, self._http),
            (Hop.UPGRADE, self._upgrade),
            (Hop.ANSWER, self._answer),
        ]

    async def end(self) -> None:
        """Leave no trace."""
        if self._socket is not None:
            await self._socket.close()
        if self._asked:
            await self._erase()
        if self._open_client is not None:
            await self._open_client.close()

    async def _erase(self) -> None:
        import aiohttp

        # Where this fails, the hop that failed has been reported already.
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._client.delete(f"{self._base}/api/chat/{self._session_id}"):
                pass

    async def _name(self) -> str:
        async with asyncio.timeout(self._hop_timeout):
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _tcp(self) -> str:
        async with asyncio.timeout(self._hop_timeout):
            _, writer = await asyncio.open_connection(self._host, self._port)
        address = str(writer.get_extra_info("peername")[0])
        writer.close()
        return f"{address} port {self._port}"

    async def _http(self) -> str:
        url = f"{self._base}/api/chat/{self._session_id}/messages"
        async with self._client.get(url, allow_redirects=False) as response:
            # Another backend may have no such path; what counts here is that there is a response.
            if response.status >= 500 or response.status == 421:
                raise _HopFailed(Failure(Cause.STATUS, status=response.status))
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
                known = response.status == 200 and json.loads(await response.text()) == {"status": "ok"}
            except ValueError:
                known = False
            if not known:
                raise _HopFailed(Failure(Cause.NOT_MOORLINE, detail=f"/healthz: HTTP {response.status}"))

    async def _upgrade(self) -> str:
        scheme, _, rest = self._base.partition("://")
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws/chat/{_PATIENT}/{self._session_id}"
        async with asyncio.timeout(self._hop_timeout):
            self._socket = await self._client.ws_connect(url, origin=self._origin)
        return "101 Switching Protocols"

    async def _answer(self) -> str:
        import aiohttp

        assert self._socket is not None
        self._asked = True
        await self._socket.send_json({"message": _QUESTION})
        async with asyncio.timeout(self._answer_timeout):
            while True:
                frame = await self._socket.receive()
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    raise _HopFailed(Failure(Cause.CLOSED, detail=f"close code {self._socket.close_code}"))
                message = json.loads(frame.data)
                if not isinstance(message, dict):
                    raise _HopFailed(Failure(Cause.NOT_HTTP))
                if message.get("type") == "error":
                    raise _HopFailed(Failure(Cause.ERROR, code=str(message.get("code"))))
                if message.get("type") == "message":
                    return f"{len(str(message.get('content')))} characters"


def _failure_of(error: Exception) -> Failure:
    """What an exception of asyncio or aiohttp means; their order matters, the particular before the general."""
    match error:
        case _HopFailed():
            return error.failure
        case TimeoutError():
            return Failure(Cause.TIMEOUT)
        case socket.gaierror():
            return Failure(Cause.UNKNOWN)
        case ConnectionRefusedError():
            return Failure(Cause.REFUSED)
    if type(error).__module__.startswith("aiohttp") and (failure := _client_failure(error)) is not None:
        return failure
    match error:
        case ssl.SSLError():
            return Failure(Cause.TLS)
        case ConnectionResetError():
            return Failure(Cause.CLOSED)
        case ValueError():
            return Failure(Cause.NOT_HTTP)
        case OSError():
            return Failure(Cause.REFUSED if "refused" in str(error).lower() else Cause.UNREACHABLE)
    raise error


def _client_failure(error: Exception) -> Failure | None:
    """The same for the exceptions that are aiohttp's own."""
    import aiohttp

    match error:
        case aiohttp.WSServerHandshakeError():
            # aiohttp also raises this for a 101 whose headers are no WebSocket's.
            return Failure(Cause.STATUS, status=error.status)
        case aiohttp.ClientSSLError():
            return Failure(Cause.TLS)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return Failure(Cause.CLOSED)
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return Failure(Cause.NOT_HTTP)
    return None
