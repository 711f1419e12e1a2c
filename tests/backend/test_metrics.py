"""What Prometheus reads of a backend: each series after answers of which everything is known."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.listen import listen
from tests.backend.test_runs import asked, with_model
from tests.support.backends import STEP, Script, backend, hello, receive_until, say
from tests.support.openai_server import DONE, Fault, Status, error, finish, openai_server, says, usage

SECRET = "words-of-a-patient"


async def scrape(port: int) -> dict[str, float]:
    """Each sample by its name and its labels in alphabetical order."""
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    assert SECRET not in text
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()) if name != "le")
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def until(port: int, sample: str, value: float = 1) -> dict[str, float]:
    """All samples, once this one has its value: a run counts a moment after its end was sent."""
    async with asyncio.timeout(STEP):
        while (samples := await scrape(port)).get(sample) != value:
            pass
    return samples


async def test_an_answer_is_counted_with_its_times(tmp_path: Path, unused_tcp_port: int) -> None:
    async with (
        openai_server() as model,
        with_model(tmp_path, model, metrics_port=unused_tcp_port) as server,
        server.socket(SECRET) as socket,
    ):
        model.reply(says("Good "), says("day."), finish("stop"), usage(12, 3), DONE)
        await hello(socket)
        await say(socket, type="send", message=SECRET, client_msg_id="c1")
        await receive_until(socket, "message")
        samples = await until(unused_tcp_port, 'moorline_runs_ended_total{code="",finish="stop"}')
    assert samples["moorline_first_token_seconds_count"] == samples["moorline_run_seconds_count"] == 1
    assert 0 < samples["moorline_first_token_seconds_sum"] <= samples["moorline_run_seconds_sum"] < STEP
    assert samples["moorline_answer_characters_per_second_count"] == 1
    assert samples["moorline_answer_characters_per_second_sum"] >= len("Good day.") / STEP
    assert (samples['moorline_tokens_total{kind="input"}'], samples['moorline_tokens_total{kind="output"}']) == (12, 3)
    assert samples["moorline_commits_total"] >= 2
    assert samples["moorline_database_up"] == 1


@pytest.mark.parametrize(
    ("reply", "finish_and_code"),
    [
        ([Status(401, error("x"))], ("error", "llm_misconfigured")),
        ([Status(404, error("x"))], ("error", "llm_misconfigured")),
        ([Status(429, error("x"))], ("error", "llm_busy")),
        ([Status(500, error("x"))], ("error", "llm_unavailable")),
        ([says("Good "), Fault.RESET], ("error", "llm_unavailable")),
        ([says("Good "), Fault.STALL], ("error", "llm_unavailable")),
        ([says("Good ")], ("interrupted", "")),
        ([says("Good "), finish("length")], ("length", "")),
    ],
    ids=["wrong key", "unknown model", "quota", "server error", "reset", "stall", "cut", "length"],
)
async def test_a_fault_of_the_model_leaves_a_trace(
    tmp_path: Path, unused_tcp_port: int, reply: list[object], finish_and_code: tuple[str, str]
) -> None:
    finish_label, code = finish_and_code
    async with (
        openai_server() as model,
        with_model(tmp_path, model, metrics_port=unused_tcp_port, llm_read_timeout=0.6) as server,
        server.socket() as socket,
    ):
        model.reply(*reply)
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await until(unused_tcp_port, f'moorline_runs_ended_total{{code="{code}",finish="{finish_label}"}}')


async def test_what_is_under_way_shows(tmp_path: Path, unused_tcp_port: int) -> None:
    script = Script("Good ")
    running = backend(tmp_path, script, metrics_port=unused_tcp_port, max_runs=1)
    async with running as server, server.socket() as one, server.socket("s2") as two:
        await asked(one)
        await hello(two)
        await say(two, type="send", message="Hi", client_msg_id="c1")
        samples = await until(unused_tcp_port, "moorline_runs_waiting")
        assert (samples["moorline_runs_answering"], samples["moorline_sessions_read"]) == (1, 2)
        script.put("day.", None, "Yes.", None)
        await receive_until(two, "message")
        samples = await until(unused_tcp_port, 'moorline_runs_ended_total{code="",finish="stop"}', 2)
        assert (samples["moorline_runs_answering"], samples["moorline_runs_waiting"]) == (0, 0)


async def test_a_database_that_does_not_answer_shows(tmp_path: Path, unused_tcp_port: int) -> None:
    async with backend(tmp_path, Script(), metrics_port=unused_tcp_port) as server:
        await server.log.close()
        assert (await scrape(unused_tcp_port))["moorline_database_up"] == 0


async def test_a_port_that_is_taken_is_one_line(tmp_path: Path, unused_tcp_port: int) -> None:
    taken = listen("127.0.0.1", unused_tcp_port, option="metrics_port")
    with pytest.raises(UsageError, match=f"^metrics_port: {unused_tcp_port} is in use on 127.0.0.1"):
        async with backend(tmp_path, Script(), metrics_port=unused_tcp_port):
            pass
    for sock in taken:
        sock.close()
