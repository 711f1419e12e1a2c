"""Traces: one from the browser's request to the provider, sent to a collector that may be absent, down or hang."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from moorline.backend.llm import OpenAIResponder
from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common import tracing
from moorline.gateway.common.logs import hashed
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support.backends import backend, hello, receive_until, say
from tests.support.collector import Collector, Received, collector
from tests.support.openai_server import DONE, OpenAIServer, Status, finish, openai_server, says, usage
from tests.support.process import run_program, started
from tests.support.stack import socket

API = "/api/chat/s1/messages"
SOCKET = "/ws/chat/{patient_id}/{session_id}"
TEXT = "a word that no trace may hold"
OUTSIDE = "00-11111111111111111111111111111111-2222222222222222-01"
MESSAGE = {"type": "send", "message": TEXT, "client_msg_id": "7c1f5a5e-6a0e-4b3d-9a77-0d2b6f0b9a11"}
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
# Seconds, also those of all attempts together.
GIVES_UP = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@contextlib.asynccontextmanager
async def recording(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> AsyncIterator[None]:
    """This process sends its spans there."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **FAST, **variables}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    tracing.start("moorline", environ)
    try:
        yield
    finally:
        # In a thread: the collector is of this loop.
        await asyncio.to_thread(tracing.stop)
        # One that goes on trying would use Python's one `random` beside later tests, which Hypothesis refuses.
        for thread in threading.enumerate():
            if thread.name == "moorline-tracing":
                await asyncio.to_thread(thread.join)


@contextlib.asynccontextmanager
async def chat(folder: Path, model: OpenAIServer, **options: object) -> AsyncIterator[str]:
    """The address of a gateway before a backend that asks `model`."""
    settings = BackendSettings(model="m1", temperature=0.5)
    responder = OpenAIResponder(settings, api_key="sk-secret", base_url=model.base_url)
    async with backend(folder, responder) as behind:
        gateway = Settings(host="127.0.0.1", port=0, upstream=(behind.http,), drain=2.0, **options)  # type: ignore[arg-type]
        async with server.running(gateway) as front:
            yield front.addresses[0]


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as started_server:
        started_server.reply(says("Good "), says("morning."), finish("stop"), usage(7, 2), DONE)
        yield started_server


def both(collected: Collector) -> tuple[Received, Received]:
    """The spans of a GET of the messages, at the gateway and at the backend."""
    one, other = [span for span in collected.spans if span.name == "GET /api/chat/{session_id}/messages"]
    return (one, other) if other.parent == one.id else (other, one)


async def ask(url: str) -> str:
    """The answer to a message."""
    async with socket(url) as client:
        await hello(client)
        await say(client, **MESSAGE)
        return str((await receive_until(client, "message"))[-1]["content"])


@pytest.fixture
async def collected(tmp_path: Path, model: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector that has all spans of one message over a socket."""
    async with collector() as listening:
        async with recording(monkeypatch, listening.url), chat(tmp_path, model) as url:
            await ask(url)
        yield listening


async def test_one_trace_leads_from_the_request_to_the_provider(collected: Collector, model: OpenAIServer) -> None:
    gateway, behind = [await collected.named(f"GET {route}") for route in ("/ws/{path}", SOCKET)]
    message, run, call = [await collected.named(name) for name in ("message", "run", "chat m1")]
    tunnel = await collected.span(lambda span: span.name.startswith("WebSocket "))
    assert gateway.parent == b""
    assert [behind.parent, message.parent, run.parent, call.parent] == [gateway.id, behind.id, message.id, run.id]
    assert tunnel.parent == gateway.id
    assert {span.trace for span in (gateway, behind, message, run, call, tunnel)} == {gateway.trace}
    assert gateway.attributes["http.response.status_code"] == 101
    assert [trace.rpartition("-")[0] for trace in model.traces] == [f"00-{call.trace.hex()}-{call.id.hex()}"]


def test_nothing_is_added_to_a_span_that_has_ended(collected: Collector, caplog: pytest.LogCaptureFixture) -> None:
    # The library warns of each such attempt, and a socket's span ends long before its handler.
    records = caplog.get_records("setup")
    assert [record.getMessage() for record in records if record.name.startswith("opentelemetry")] == []


async def test_a_call_has_the_names_of_the_conventions_for_generative_ai(
    collected: Collector, model: OpenAIServer
) -> None:
    call = await collected.named("chat m1")
    port = int(model.base_url.split(":")[2].split("/")[0])
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m1",
        "gen_ai.request.max_tokens": 1024,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.conversation.id": hashed("s1"),
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": port,
    }


async def test_no_text_and_no_id_is_in_a_trace(
    tmp_path: Path, model: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.reply(Status(500, body={"error": {"message": f"{TEXT} patient:demo"}}))
    async with collector() as collected:
        running = chat(tmp_path, model)
        async with recording(monkeypatch, collected.url), running as url, aiohttp.ClientSession(url) as http:
            for number in range(2):
                body = {"patient_id": "patient:demo", "client_msg_id": f"m{number}", "message": TEXT}
                async with http.post("/api/chat/session-one/messages", json=body) as response:
                    assert response.status == 202
                await _ended(http)
        failed = await collected.span(lambda span: span.name == "chat m1" and span.failed)
        assert failed.attributes["error.type"] == "llm_unavailable"
    sent = b"".join(collected.bodies)
    for private in (TEXT, "Good morning", "patient:demo", "session-one", "sk-secret"):
        assert private.encode() not in sent


async def _ended(http: aiohttp.ClientSession) -> None:
    """Return when no answer is under way."""
    path = "/api/chat/session-one/messages"
    async with asyncio.timeout(20):
        while True:
            async with http.get(path, params={"patient_id": "patient:demo"}) as response:
                rows = await response.json()
            if rows and all(row["role"] == "user" or row["finish"] for row in rows) and rows[-1]["role"] != "user":
                return


async def test_a_method_that_a_client_may_choose_freely_is_not_in_the_name_of_a_span(
    tmp_path: Path, model: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collector() as collected:
        running = chat(tmp_path, model)
        async with recording(monkeypatch, collected.url), running as url, aiohttp.request("PURGE", url + API):
            pass
        span = await collected.span(lambda span: span.parent == b"" and span.name.startswith("HTTP /api/"))
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "PURGE"


@pytest.mark.parametrize("proxies", [("127.0.0.0/8",), ()], ids=["trusted", "untrusted"])
async def test_the_trace_of_the_client_counts_where_a_trusted_proxy_names_it(
    tmp_path: Path, model: OpenAIServer, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...]
) -> None:
    async with collector() as collected:
        running = chat(tmp_path, model, trusted_proxies=proxies)
        async with recording(monkeypatch, collected.url), running as url, aiohttp.ClientSession(url) as http:
            headers = {"traceparent": OUTSIDE, "tracestate": "other=1"}
            async with http.get(API, params={"patient_id": "p"}, headers=headers) as response:
                assert response.status == 200
        first, second = both(collected)
    assert (first.trace.hex() in OUTSIDE) == bool(proxies)
    assert second.trace == first.trace


# The collector --------------------------------------------------------------------------------------------------------


# 503 is tried again, with longer and longer pauses.
@pytest.mark.parametrize("status", [None, 503], ids=["hangs", "503"])
async def test_a_collector_that_takes_nothing_delays_neither_an_answer_nor_the_end(
    tmp_path: Path,
    model: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int | None,
) -> None:
    monkeypatch.setattr(tracing, "_STOP_SECONDS", 0.2)
    async with collector(status=status) as collected, recording(monkeypatch, collected.url, **GIVES_UP):
        async with chat(tmp_path, model) as url:
            assert await ask(url) == "Good morning."
            await collected.until_asked()
        began = time.monotonic()
        tracing.stop()
        assert time.monotonic() - began < 8
    assert "the collector does not answer" in caplog.text


async def test_a_collector_that_is_down_costs_spans_alone(
    tmp_path: Path, model: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recording(monkeypatch, "http://127.0.0.1:1", **GIVES_UP), chat(tmp_path, model) as url:
        assert await ask(url) == "Good morning."


async def test_serve_sends_the_spans_of_both_programs(tmp_path: Path) -> None:
    async with collector() as collected:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collected.url, **FAST}
        options = ("--port", "0", "--backend-port", "0")
        async with started("moorline", "serve", *options, cwd=tmp_path, env=environ) as program:
            url = await program.page()
            async with aiohttp.ClientSession(url) as http, http.get(API, params={"patient_id": "p"}) as response:
                assert response.status == 200
            assert await program.stop() == 0
        gateway, behind = both(collected)
    assert (gateway.service, behind.service) == ("moorline-gateway", "moorline-backend")
    assert behind.parent == gateway.id


# Off ------------------------------------------------------------------------------------------------------------------


async def test_nothing_of_opentelemetry_is_imported_without_a_collector(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(
        "import sys\n"
        "from moorline.gateway.common import tracing\n"
        "import moorline.gateway.app, moorline.backend.app, moorline.backend.llm\n"
        "tracing.start('x', {'OTEL_SERVICE_NAME': 'y'})\n"
        "with tracing.current(tracing.begin('a', parent={})) as span:\n"
        "    assert span is tracing.NO_SPAN and tracing.outgoing() == {}\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    status, out, err = await run_program("probe", cwd=tmp_path)
    assert (status, out, err) == (0, "[]\n", "")


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=str,
)
def test_the_standard_variables_turn_traces_off(environ: dict[str, str]) -> None:
    tracing.start("moorline", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **environ})
    assert not tracing.is_on()


def test_a_collector_without_the_library_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    tracing.start("moorline", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert not tracing.is_on()
    assert 'pip install "../moorline[otel]"' in caplog.text
