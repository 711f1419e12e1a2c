"""No credential stands in what `serve` prints, answers, counts, keeps or shows of itself.

In no line of any level, no traceback, error, metric, file, argument and URL, in nothing of the inspector and of
`check`, and in the environment of no process that does not need it, whichever way it was given.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.support.openai_server import Status, error, openai_server
from tests.support.process import children, run_program, started

#: What the operator configures.
CONFIGURED = {
    "MOORLINE_JWT_KEY": "configured-key-of-32-bytes-or-more",
    "MOORLINE_LOG_KEY": "configured-log-key",
    "MOORLINE_INSPECTOR_TOKEN": "configured-inspector-token",
    "OPENAI_API_KEY": "sk-configured-provider",
}


def token(key: str = CONFIGURED["MOORLINE_JWT_KEY"]) -> str:
    return jwt.encode({"sub": "dr-who", "exp": time.time() + 3600}, key, algorithm="HS256")


#: What clients send, right and wrong.
GOOD, FORGED, BROKEN = token(), token("another key of 32 bytes or more!"), "not-even-a-token-7391"
SENT = (GOOD, FORGED, BROKEN, "never-issued-ticket-5512", "wrong-inspector-token-8843")


def parts(credential: str) -> list[str]:
    """What of it must not be found: all of it and, of a token, its claims and its signature."""
    return [credential, *(part for part in credential.split(".")[1:] if len(part) > 16)]


async def use(address: str, issued: list[str]) -> AsyncIterator[str]:
    """What the server answers to each credential, at each address that takes one and in each way; `issued` gets the
    ticket that one of them was exchanged for, whose answer is not among these."""
    path = "/api/chat/s1/messages?patient_id=p1"
    async with aiohttp.ClientSession(address) as http:
        for given in SENT:
            ways: tuple[dict[str, str], ...] = (
                {"Authorization": f"Bearer {given}"},
                {"Authorization": f"Basic {given}"},
                {"Cookie": f"session={given}"},
            )
            for headers in ways:
                for url in (path, "/-/moorline/none", "/api/unknown", "/ws/chat/p1/s1", "/docs"):
                    async with http.get(url, headers={**headers, "X-Forwarded-For": "203.0.113.9"}) as answer:
                        yield f"{answer.headers} {await answer.text()}"
            for kind in ("jwt", "ticket"):
                yield await opened(address, f"moorline.{kind}.{given}")
        headers = {"Authorization": f"Bearer {GOOD}"}
        async with http.post("/api/ticket", json={"patient_id": "p1"}, headers=headers) as answer:
            issued.append((await answer.json())["ticket"])
        for _ in range(2):
            yield await opened(address, f"moorline.ticket.{issued[0]}")
        message = {"patient_id": "p1", "message": "Hello", "client_msg_id": "c1"}
        async with http.post(path.partition("?")[0], json=message, headers=headers) as answer:
            yield await answer.text()
        async with http.get(f"{path}&after=1&wait=5&epoch=", headers=headers) as answer:
            yield await answer.text()


async def opened(address: str, subprotocol: str) -> str:
    """What a handshake with this subprotocol is answered."""
    try:
        names: Any = ["moorline", subprotocol]
        async with connect(f"{address.replace('http', 'ws', 1)}/ws/chat/p1/s1", subprotocols=names, proxy=None) as chat:
            return f"{chat.response.headers if chat.response else ''}"
    except InvalidStatus as refused:
        return f"{refused.response.headers} {refused.response.body!r}"
    except WebSocketException as failed:
        return str(failed)


async def scraped(log: str) -> str:
    """All metrics of the addresses that the log names."""
    found = ""
    for url in re.findall(r"http://127\.0\.0\.1:\d+/metrics", log):
        async with aiohttp.request("GET", url) as answer:
            found += await answer.text()
    return found


async def inspected(address: str) -> str:
    """The inspector's page, and what it shows of sockets that are open and that ended."""
    token = CONFIGURED["MOORLINE_INSPECTOR_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"}
    found = ""
    names: Any = ["moorline", f"moorline.jwt.{GOOD}"]
    async with (
        connect(f"{address.replace('http', 'ws', 1)}/ws/chat/p1/s1", subprotocols=names, proxy=None),
        aiohttp.ClientSession(address, headers=headers) as http,
    ):
        for path in ("/-/moorline", "/-/faults"):
            async with http.get(path) as answer:
                found += f"{answer.headers} {await answer.text()}"
        async with http.get("/-/moorline/events") as answer:
            async with asyncio.timeout(10):
                while not ('"phase"' in found and '"usual_cause"' in found):
                    found += (await answer.content.readline()).decode()
    return found


async def checked(folder: Path, address: str) -> str:
    """What `moorline check` prints of a server whose clients send a token, right or wrong."""
    found = ""
    for given in (GOOD, FORGED):
        environ = {"MOORLINE_HEADER": f"Authorization: Bearer {given}", "MOORLINE_IDLE": "off"}
        _, out, err = await run_program("moorline", "check", address, cwd=folder, env=environ)
        found += out + err
    return found


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and theirs."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def shown(kind: str, pids: list[int]) -> str:
    """What /proc shows of these processes."""
    return "".join(Path(f"/proc/{pid}/{kind}").read_bytes().replace(b"\0", b" ").decode() for pid in pids)


def kept(folder: Path) -> dict[str, str]:
    """The files that it has left, by name."""
    return {path.name: path.read_bytes().decode("latin-1") for path in folder.iterdir() if path.is_file()}


@pytest.mark.timeout(120)
async def test_no_credential_is_found_in_anything_that_comes_out(tmp_path: Path) -> None:
    options = ("--port", "0", "--backend-port", "0", "--metrics-port", "0", "--workers", "2", "--log-level", "debug")
    files = ("--audit-log", "audit.jsonl", "--faults")
    async with openai_server() as model:
        # A provider that quotes the key, as some do; the second message is that of `check`.
        for _ in range(2):
            model.reply(Status(401, error(f"invalid_api_key: {CONFIGURED['OPENAI_API_KEY']}")))
        environ = {**CONFIGURED, "OPENAI_BASE_URL": model.base_url, "MOORLINE_JWT_COOKIE": "session"}
        # Each process that is aborted prints where it was, as a crash in a library would.
        environ["PYTHONFAULTHANDLER"] = "1"
        async with started("moorline", "serve", *options, *files, cwd=tmp_path, env=environ) as program:
            await program.line("database")
            address = await program.page()
            issued: list[str] = []
            answers = [answer async for answer in use(address, issued)]
            async with asyncio.timeout(30):
                await program.line("llm_misconfigured")
            metrics, inspector = await scraped(program.err), await inspected(address)
            check = await checked(tmp_path, address)
            processes = descendants(program.pid)
            arguments = shown("cmdline", [program.pid, *processes])
            given = {
                name: [pid for pid in processes if CONFIGURED[name] in shown("environ", [pid])] for name in CONFIGURED
            }
            for pid in processes:
                os.kill(pid, signal.SIGABRT)
            await program.lines("Fatal Python error", len(processes))
            assert await program.stop() == 0
    files_left = kept(tmp_path)
    outputs = {
        "log": program.out + program.err,
        "answers": "".join(answers),
        "metrics": metrics,
        "inspector": inspector,
        "check": check,
        "arguments": arguments,
        **files_left,
    }
    assert "dr-who" not in outputs["log"]
    assert {"moorline_sockets_open", "moorline_database_up"} <= set(re.findall(r"moorline_\w+", metrics))
    assert "backend" in arguments
    # The model's client takes its key from there, in the backend alone.
    assert {name: len(pids) for name, pids in given.items() if pids} == {"OPENAI_API_KEY": 1}
    assert {"audit.jsonl", "moorline.db", "moorline.db-erased"} <= files_left.keys()
    assert "401" in check
    for where, text in outputs.items():
        for credential in (*CONFIGURED.values(), *SENT, *issued):
            for part in parts(credential):
                assert part not in text, f"{where}: {part}"
