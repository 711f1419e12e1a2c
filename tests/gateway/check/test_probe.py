"""`moorline check` against real servers, each with one fault."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSCloseCode, web

from moorline.gateway.check import probe
from moorline.gateway.check.address import ProbeOptions
from moorline.gateway.check.hops import follow
from moorline.gateway.check.report import check
from moorline.gateway.check.verdicts import Failure, FailureKind, Hop, Side, Step, conclusion, verdict
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.server import running
from moorline.gateway.explain import explain
from moorline.gateway.settings import Settings
from tests.support.faulty_upstream import Fault, faulty_upstream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def empty(request: web.Request) -> web.Response:
    return web.json_response([])


async def healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def answering(*frames: dict[str, str]) -> Handler:
    """A socket that says these frames when it is asked, then waits."""

    async def handle(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        for frame in frames:
            await ws.send_json(frame)
        await ws.receive()
        return ws

    return handle


def refusing(status: int) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status)

    return handle


HEALTHY = answering({"type": "status", "status": "thinking"}, {"type": "ping"}, {"type": "message", "content": "Hello"})


@asynccontextmanager
async def server(
    chat: Handler = HEALTHY, api: Handler = empty, erased: list[str] | None = None, prefix: str = ""
) -> AsyncIterator[str]:
    async def erase(request: web.Request) -> web.Response:
        if erased is not None:
            erased.append(request.match_info["session"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get(prefix + "/ws/chat/{patient}/{session}", chat)
    app.router.add_get(prefix + "/api/chat/{session}/messages", api)
    app.router.add_delete(prefix + "/api/chat/{session}", erase)
    app.router.add_get(prefix + "/healthz", healthy)
    async with running(app, Settings(host="127.0.0.1", port=0, drain=0.1)) as started:
        yield started.addresses[0]


async def failure(url: str, *, hop_timeout: float = 5, answer_timeout: float = 5) -> tuple[Hop, str]:
    """The hop that failed and its usual cause."""
    options = ProbeOptions(hop_timeout=hop_timeout, answer_timeout=answer_timeout)
    steps = await asyncio.to_thread(follow, url, options=options)
    failure = steps[-1].failure
    assert failure is not None
    return steps[-1].hop, verdict(Side.BACKEND, steps[-1].hop, failure).cause


# What works -----------------------------------------------------------------------------------------------------------


async def test_every_hop_of_a_healthy_server_is_timed_and_the_session_is_erased() -> None:
    erased: list[str] = []
    async with server(erased=erased) as url:
        steps = await asyncio.to_thread(follow, url)
    assert [step.hop for step in steps] == [hop for hop in Hop if hop is not Hop.IDLE]
    assert all(step.failure is None and step.seconds > 0 for step in steps)
    (session,) = erased
    assert session.startswith("check-")


async def test_check_prints_each_hop_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    async with server() as gateway, server() as backend:
        assert await asyncio.to_thread(check, gateway, backend, backend_is_named=True) == 0
    out = capsys.readouterr().out
    assert out.count("101 Switching Protocols") == 2
    assert out.count(" ms ") == 10
    assert out.endswith("Everything answers.\n")


async def test_check_names_the_broken_hop_its_cause_and_the_next_step_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    async with server(api=refusing(502)) as gateway:
        assert (
            await asyncio.to_thread(check, gateway, f"http://127.0.0.1:{unused_tcp_port}", backend_is_named=False) == 1
        )
    assert capsys.readouterr().out.endswith(
        "Broken: TCP, straight to the backend: connection refused\n"
        "  usual cause: the backend is down, or it listens on another port\n"
        "  next step:   start it: moorline backend\n"
    )


async def test_a_backend_at_a_guessed_address_is_no_fault_where_the_gateway_answers(unused_tcp_port: int) -> None:
    async with server() as gateway:
        backend = f"http://127.0.0.1:{unused_tcp_port}"
        assert await asyncio.to_thread(check, gateway, backend, backend_is_named=False) == 0
        assert await asyncio.to_thread(check, gateway, backend, backend_is_named=True) == 1


async def test_a_refusal_is_not_put_down_to_a_backend_at_a_guessed_address(
    unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with server(refusing(401)) as gateway, server(refusing(503)) as other:
        for backend in (f"http://127.0.0.1:{unused_tcp_port}", other):
            assert await asyncio.to_thread(check, gateway, backend, backend_is_named=False) == 1
            assert "Broken: upgrade, through the gateway: HTTP 401\n" in capsys.readouterr().out


# What is broken -------------------------------------------------------------------------------------------------------


async def test_a_name_without_address() -> None:
    hop, cause = await failure("http://no-such-host.invalid")
    assert (hop, "DNS" in cause) == (Hop.NAME, True)


async def test_a_backend_that_is_down(unused_tcp_port: int) -> None:
    hop, cause = await failure(f"http://127.0.0.1:{unused_tcp_port}")
    assert (hop, "down" in cause) == (Hop.TCP, True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault.CLOSE, "ended the connection"), (Fault.NOT_HTTP, "another program"), (Fault.SILENT, "hangs")],
)
async def test_a_port_that_speaks_no_http(fault: Fault, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_BANNER_TIMEOUT", 0.2)
    async with faulty_upstream(fault) as port:
        hop, cause = await failure(f"http://127.0.0.1:{port}", hop_timeout=0.3)
    assert (hop, words in cause) == (Hop.HTTP, True)


async def test_an_upgrade_without_an_answer() -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with server(chat=silent) as url:
        hop, cause = await failure(url, hop_timeout=0.2)
    assert (hop, "does not answer the handshake" in cause) == (Hop.UPGRADE, True)


async def test_a_port_that_speaks_no_tls() -> None:
    async with server() as url:
        hop, cause = await failure(url.replace("http:", "https:"))
    assert (hop, "plain HTTP" in cause) == (Hop.HTTP, True)


@pytest.mark.parametrize(
    ("status", "words"),
    [(502, "the backend is down"), (504, "does not answer"), (503, "limit"), (421, "allowed_hosts"), (500, "failed")],
)
async def test_an_http_status_that_tells_what_is_wrong(status: int, words: str) -> None:
    async with server(api=refusing(status)) as url:
        hop, cause = await failure(url)
    assert hop is Hop.HTTP
    assert words in cause


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "wrong path"),
        (403, "access was refused, with and without Origin"),
        (400, "strips Upgrade"),
        (426, "strips Upgrade"),
        (200, "strips"),
    ],
)
async def test_a_refused_upgrade(status: int, words: str) -> None:
    async with server(chat=refusing(status)) as url:
        hop, cause = await failure(url)
    assert hop is Hop.UPGRADE
    assert words in cause


async def test_an_origin_that_the_server_does_not_know_is_sent() -> None:
    async def strict(request: web.Request) -> web.StreamResponse:
        return await HEALTHY(request) if request.headers.get("Origin") == "x" else web.Response(status=403)

    async with server(chat=strict) as url:
        assert (await failure(url))[0] is Hop.UPGRADE


async def test_a_model_that_says_nothing() -> None:
    async with server(answering({"type": "status", "status": "thinking"})) as url:
        hop, cause = await failure(url, answer_timeout=0.1)
    assert (hop, "no answer from the model" in cause) == (Hop.ANSWER, True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("llm_misconfigured", "refused the key"),
        ("llm_unavailable", "no answer from the model"),
        ("internal", "could not"),
    ],
)
async def test_a_model_that_fails(code: str, words: str) -> None:
    async with server(answering({"type": "error", "code": code, "message": "Sorry."})) as url:
        hop, cause = await failure(url)
    assert hop is Hop.ANSWER
    assert words in cause


async def test_a_socket_that_closes_instead_of_answering() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.close(code=WSCloseCode.INTERNAL_ERROR)
        return ws

    async with server(handle) as url:
        steps = await asyncio.to_thread(follow, url)
    assert str(steps[-1].failure) == "closed without an answer (close code 1011)"


@pytest.mark.parametrize(
    ("said", "code"), [('{"cause": "UR-idle"}', "UR-idle"), ('{"cause": "XX"}', None), ("no", None)]
)
async def test_a_gateway_on_the_way_is_asked_why_the_socket_ended(
    capsys: pytest.CaptureFixture[str], said: str, code: str | None
) -> None:
    async def socket(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        ws.headers["X-Request-ID"] = "a/b"
        await ws.prepare(request)
        await ws.close(code=1014)
        return ws

    async def ended(request: web.Request) -> web.Response:
        assert request.rel_url.raw_path == "/-/ended/a%2Fb"
        return web.Response(text=said)

    app = web.Application()
    app.router.add_get("/ws", socket)
    app.router.add_get("/-/ended/{id}", ended)
    async with running(app, Settings(host="127.0.0.1", port=0, drain=0.1)) as started:
        url = started.addresses[0]
        await asyncio.to_thread(
            check, url, None, backend_is_named=False, options=ProbeOptions(path="/ws"), as_json=True
        )
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert (broken["hop"], broken.get("gateway_cause")) == ("upgrade", code)


@pytest.mark.parametrize("text", ["hello?", "[]", "[" * 10_000])
async def test_frames_that_are_no_chat_s(text: str) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str(text)
        await ws.receive()
        return ws

    async with server(handle) as url:
        hop, cause = await failure(url)
    assert (hop, "not those of a chat" in cause) == (Hop.ANSWER, True)


async def test_an_error_page_without_an_end_is_read_in_part() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=502)
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    async with server(api=endless) as url:
        hop, cause = await failure(url)
    assert (hop, "the backend is down" in cause) == (Hop.HTTP, True)


# Conclusions ----------------------------------------------------------------------------------------------------------


def steps(failing: Hop | None) -> list[Step]:
    """The steps of a question that fails at this hop."""
    order = list(Hop)
    whole = order if failing is None else order[: order.index(failing) + 1]
    return [Step(hop, 0.001, failure=Failure(FailureKind.TIMEOUT) if hop is failing else None) for hop in whole]


@pytest.mark.parametrize(
    ("through", "straight", "broken"),
    [
        (Hop.TCP, Hop.TCP, (Side.GATEWAY, Hop.TCP)),
        (Hop.HTTP, Hop.TCP, (Side.BACKEND, Hop.TCP)),
        (Hop.UPGRADE, None, (Side.GATEWAY, Hop.UPGRADE)),
        (Hop.ANSWER, Hop.ANSWER, (Side.BACKEND, Hop.ANSWER)),
    ],
)
def test_the_nearest_hop_to_the_cause_is_named(through: Hop, straight: Hop | None, broken: tuple[Side, Hop]) -> None:
    found = conclusion(steps(through), steps(straight), backend_is_named=True)
    assert found is not None
    assert (found[0], found[1].hop) == broken


async def test_who_may_open_one_chat_alone_is_told_which_one_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    opened = []

    async def refuse(request: web.Request) -> web.Response:
        opened.append(request.match_info["patient"])
        return web.Response(status=403)

    async with server(refuse) as gateway:
        await asyncio.to_thread(check, gateway, None, backend_is_named=False)
    assert f"a chat of {opened[0]}, which both have to allow" in capsys.readouterr().out
    page = Path(__file__).parents[3] / "gateway" / "docs" / "troubleshooting.md"
    assert f"`{opened[0]}`" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("hop", Hop)
@pytest.mark.parametrize("kind", FailureKind)
def test_there_is_a_verdict_on_everything(side: Side, hop: Hop, kind: FailureKind) -> None:
    found = verdict(side, hop, Failure(kind, status=418, code="new"))
    assert found.cause
    assert found.next_step


async def test_an_origin_that_alone_is_refused_is_named() -> None:
    async def strict(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403) if "Origin" in request.headers else await HEALTHY(request)

    async with server(chat=strict) as url:
        hop, cause = await failure(url)
    assert (hop, "without Origin it is accepted" in cause) == (Hop.UPGRADE, True)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENETUNREACH, FailureKind.OFFLINE), (errno.EHOSTUNREACH, FailureKind.UNREACHABLE)]
)
def test_a_machine_without_a_network_is_named(monkeypatch: pytest.MonkeyPatch, code: int, kind: FailureKind) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(code, "no route")

    monkeypatch.setattr("socket.socket.connect", unreachable)
    steps = follow("http://127.0.0.1:1")
    assert (steps[-1].hop, steps[-1].failure) == (Hop.TCP, Failure(kind))


def test_a_full_database_is_distinguished_from_a_limit() -> None:
    failure = Failure.refused(503, {}, b'{"code": "internal", "detail": "Something went wrong on our side."}')
    assert "locked, read-only, full or down" in verdict(Side.BACKEND, Hop.HTTP, failure).cause


def test_what_the_gateway_knows_of_a_failure_is_the_verdict() -> None:
    failure = Failure.refused(502, {}, b'{"cause": "UX-connect", "detail": "The backend cannot be reached."}')
    told = explain("UX-connect")
    assert told is not None
    assert verdict(Side.GATEWAY, Hop.HTTP, failure).next_step == told.next_step
    assert str(failure) == "HTTP 502: The backend cannot be reached."


def test_a_client_that_ended_before_the_gateway_is_no_verdict() -> None:
    known = Failure(FailureKind.IDLE, detail="after 3.0 s", gateway_cause="CF-idle")
    assert str(known) == "the silent socket was cut (after 3.0 s); the gateway's cause is CF-idle"
    assert verdict(Side.GATEWAY, Hop.IDLE, known) == verdict(Side.GATEWAY, Hop.IDLE, Failure(FailureKind.IDLE))


@pytest.mark.parametrize(
    ("given", "words"),
    [({"header": "no colon"}, "Authorization: Bearer TOKEN"), ({"path": "ws"}, "does not begin with a slash")],
)
def test_an_option_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ProbeOptions.of(**{"origin": "", "path": "", "header": "", "idle": None, **given})
