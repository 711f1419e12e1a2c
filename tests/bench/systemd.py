"""The units of nginx/ under a real systemd: `python -m tests.bench systemd [--restarts N] [--rate N]`.

systemd runs as process 1 of a machine of its own (tests/support/booted.py), with the units as they are, all their
hardening and socket activation; only the limit of the watchdog is shorter. People chat through systemd's socket
meanwhile, and clients open sockets at a steady rate. Each line tells what was done and what it came to; the status is 1
where one of them failed.
"""

import argparse
import asyncio
import contextlib
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from tests.bench.processes import raise_file_limit
from tests.bench.restarts import Dialling
from tests.support.booted import Booted, booted, installed, missing
from tests.support.chat_client import ChatClient, dialled
from tests.support.nginx import SOURCE
from tests.support.openai_server import OpenAIServer, finish, openai_server, says

__all__ = ["Units", "main", "measure"]

_GATEWAY, _BACKEND, _SOCKET = "moorline-gateway.service", "moorline-backend.service", "moorline-gateway.socket"
_PORT = 4321
_TOML = "/etc/moorline/moorline.toml"
# A busy machine takes longer to start a backend than one has patience with by default.
_OPTIONS = '[gateway]\nconnect_retry = "30s"\nmax_connections_per_address = "off"\nmax_requests_per_address = "off"\n'
_MISTAKE = "[gateway]\nupstream = 8\n"
_WATCHDOG = 6.0
_SETTLE = 60.0
_ANSWER = "Take a deep breath."


class _Model(OpenAIServer):
    """The same short answer to each message."""

    async def next_reply(self) -> tuple[Any, ...]:
        return (says("Take "), says("a deep breath."), finish("stop"))


class Units:
    """Both units on their machine, and the people who chat."""

    def __init__(self, machine: Booted, rate: float) -> None:
        self.machine = machine
        self.dialling = Dialling(_PORT, rate)
        self.people = [self._person(number) for number in range(20)]
        self.said = 0
        self.interrupted = 0

    def _person(self, number: int) -> ChatClient:
        url = f"ws://127.0.0.1:{_PORT}/ws/chat/patient:{number}/{number}"

        return ChatClient(lambda: dialled(url), rng=random.Random(number))

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """People chat and sockets are opened, until the context ends; then each message has its answer."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in self.people]
            stop = asyncio.Event()
            talking = [tasks.create_task(self._talk(each, stop)) for each in self.people]
            dialling = tasks.create_task(self.dialling.run())
            yield
            stop.set()
            async with asyncio.timeout(_SETTLE):
                await asyncio.gather(*talking)
            for each in (dialling, *running):
                each.cancel()

    async def _talk(self, person: ChatClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await person.say(f"message {self.said}")
            if answer.finish == "stop":
                assert answer.content == _ANSWER, answer
            else:
                # Of a backend that was killed.
                assert _ANSWER.startswith(answer.content), answer
                self.interrupted += 1
            self.said += 1
            await asyncio.sleep(0.2)

    @property
    def outages(self) -> int:
        """How often a person's socket had to be opened again."""
        return sum(len(each.outages) for each in self.people)

    async def main_pid(self, unit: str) -> str:
        return await self.machine.show(unit, "MainPID")

    async def _state(self, unit: str) -> str:
        return await self.machine.show(unit, "ActiveState")

    async def replaced(self, unit: str, pid: str) -> float:
        """Wait for another main process that is ready; after how many seconds."""
        began = monotonic()
        async with asyncio.timeout(_SETTLE):
            while await self.main_pid(unit) in (pid, "0") or await self._state(unit) != "active":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return monotonic() - began


# What is done, and what it must come to -------------------------------------------------------------------------------

_Step = Callable[[Units], Awaitable[str]]


async def _started(units: Units) -> str:
    for unit in (_BACKEND, _GATEWAY):
        uid = await units.machine.show(unit, "UID")
        assert int(uid) > 60_000, f"{unit} runs as {uid}"
        assert await units.machine.show(unit, "NRestarts") == "0"
        _, limits = await units.machine.run("cat", f"/proc/{await units.main_pid(unit)}/limits")
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits
    return "both units are active, as accounts that exist while they run, and people chat"


async def _reload(units: Units) -> str:
    before, pid = units.outages, await units.main_pid(_GATEWAY)
    began = monotonic()
    await units.machine.systemctl("reload", _GATEWAY)
    await units.machine.logged(_GATEWAY, "the new processes serve")
    took = monotonic() - began
    await _a_round(units)
    assert units.outages == before, "a socket ended"
    assert await units.main_pid(_GATEWAY) == pid
    return f"systemctl reload: {len(units.people)} sockets of chats, none ended; {took:.1f} s"


async def _broken_reload(units: Units) -> str:
    before = units.outages
    await units.machine.write(_TOML, _MISTAKE)
    await units.machine.systemctl("reload", _GATEWAY)
    await units.machine.logged(_GATEWAY, "nothing is changed")
    await units.machine.write(_TOML, _OPTIONS)
    await _a_round(units)
    assert units.outages == before, "a socket ended"
    (line,) = [line for line in await units.machine.journal(_GATEWAY) if "nothing is changed" in line]
    return f'systemctl reload with a mistake: "{line}", no socket ended'


def _restarts(count: int) -> _Step:
    async def restarts(units: Units) -> str:
        before = len(units.dialling.seconds)
        for _ in range(count):
            await units.machine.systemctl("restart", _GATEWAY)
            async with asyncio.timeout(_SETTLE):
                await units.dialling.answered(more=units.dialling.rate / 2)
        took = units.dialling.seconds[before:]
        return f"systemctl restart {count} times: {len(took)} handshakes, the slowest {max(took):.1f} s"

    return restarts


async def _killed(units: Units) -> str:
    pid = await units.main_pid(_GATEWAY)
    await units.machine.run("kill", "-KILL", pid)
    took = await units.replaced(_GATEWAY, pid)
    return f"kill -9 of the gateway: the next one is ready after {took:.1f} s"


def _stopped(unit: str) -> _Step:
    async def stopped(units: Units) -> str:
        pid = await units.main_pid(unit)
        await units.machine.run("kill", "-STOP", pid)
        took = await units.replaced(unit, pid)
        return f"kill -STOP of {unit}: WatchdogSec={_WATCHDOG:g}s, the next one is ready after {took:.1f} s"

    return stopped


async def _backend_restarts(units: Units) -> str:
    before = units.said
    await units.machine.systemctl("restart", _BACKEND)
    await _a_round(units)
    return f"systemctl restart of the backend: {units.said - before} messages meanwhile, each answered once"


async def _commands(units: Units) -> str:
    moorline = "/opt/moorline/bin/moorline"
    for command in (f"{moorline} revoke nurse.one", f'{moorline} backup "$(mktemp -d)/chats.db"'):
        status, printed = await units.machine.run("sh", "-c", f"cd /var/lib/moorline && {command}")
        assert status == 0, printed
    return f"moorline revoke and backup as root in /var/lib/moorline: {printed}"


async def _mistake(units: Units) -> str:
    await units.machine.write(_TOML, _MISTAKE)
    with contextlib.suppress(RuntimeError):
        await units.machine.systemctl("restart", _GATEWAY)
    assert await units.machine.show(_GATEWAY, "ExecMainStatus") == "2"
    # Waiting connections have it started again at once, so that systemd gives both units up.
    async with asyncio.timeout(_SETTLE):
        while await units.machine.show(_SOCKET, "ActiveState") != "failed":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    result = await units.machine.show(_SOCKET, "Result")
    await units.machine.write(_TOML, _OPTIONS)
    await units.machine.systemctl("reset-failed", _GATEWAY, _SOCKET)
    await units.machine.systemctl("restart", _SOCKET, _GATEWAY)
    return f"systemctl restart with a mistake: status 2, the socket unit: {result}; mended, both serve again"


async def _end(units: Units) -> str:
    await units.machine.systemctl("stop", _GATEWAY, _BACKEND)
    for unit in (_GATEWAY, _BACKEND):
        assert (result := await units.machine.show(unit, "Result")) == "success", f"{unit}: {result}"
        assert (await units.machine.show(unit, "ExecMainStatus")) == "0"
    return "systemctl stop: status 0"


async def _a_round(units: Units) -> None:
    """Until each person has had another answer."""
    due = units.said + 2 * len(units.people)
    async with asyncio.timeout(_SETTLE):
        while units.said < due:  # noqa: ASYNC110 - thousands of them
            await asyncio.sleep(0.02)


# All of it ------------------------------------------------------------------------------------------------------------


async def measure(restarts: int, rate: float, venv: Path) -> int:
    """Print a line for each step; how many failed."""
    raise_file_limit(1 << 16)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        async with openai_server(_Model()) as model, booted(Path(name), venv, SOURCE / "systemd") as machine:
            await _configure(machine, model)
            units = Units(machine, rate)
            began = monotonic()
            await machine.systemctl("start", _BACKEND, _GATEWAY)
            print(f"systemctl start: both ready after {monotonic() - began:.1f} s")
            async with units.under_load():
                await _a_round(units)
                for each in (_started, _reload, _broken_reload, _restarts(restarts), _commands):
                    failed += await _failures(each, units)
                # A backend that drains answers a handshake with 503; what a killed process holds is reset, and what
                # waits for a stopped one ends with it.
                for each in (_backend_restarts, _killed, _stopped(_GATEWAY), _stopped(_BACKEND)):
                    failed += await _failures(each, units, may_refuse=True)
                await _a_round(units)
            gaps = sum(each.gaps for each in units.people)
            print(f"{units.said} messages, each answered once, {units.interrupted} in part; {gaps} gaps")
            waiting = asyncio.create_task(Dialling(_PORT, 1.0).run())
            failed += await _failures(_mistake, units)
            waiting.cancel()
            await asyncio.wait([waiting])
            failed += await _failures(_end, units)
            if failed:
                for unit in (_GATEWAY, _BACKEND):
                    print(f"--- {unit}", *(await machine.journal(unit))[-40:], sep="\n")
    return failed


async def _failures(step: _Step, units: Units, *, may_refuse: bool = False) -> int:
    """Take the step, and print what it came to and which handshakes were refused meanwhile."""
    failed, before = 0, len(units.dialling.refused)
    try:
        print(await step(units), flush=True)
        async with asyncio.timeout(_SETTLE):
            await units.dialling.answered(more=0)
    except (AssertionError, RuntimeError, TimeoutError) as error:
        failed += 1
        print(f"FAILED {step.__name__}: {type(error).__name__} {error}", flush=True)
    if refused := units.dialling.refused[before:]:
        failed += not may_refuse
        what = "handshakes refused" if may_refuse else "FAILED, handshakes refused"
        print(f"  {what}: {len(refused)}, {' '.join(sorted(set(refused)))}", flush=True)
    return failed


async def _configure(machine: Booted, model: OpenAIServer) -> None:
    await machine.write("/etc/moorline/openai-api-key", "sk-of-the-measurement\n")
    await machine.run("chmod", "600", "/etc/moorline/openai-api-key")
    await machine.write("/etc/moorline/backend.env", f"OPENAI_BASE_URL={model.base_url}\n")
    await machine.write(_TOML, _OPTIONS)
    for unit in (_GATEWAY, _BACKEND):
        await machine.write(f"/etc/systemd/system/{unit}.d/watchdog.conf", f"[Service]\nWatchdogSec={_WATCHDOG:g}s\n")
    await machine.systemctl("daemon-reload")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench systemd", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--rate", type=float, default=300.0, help="handshakes a second")
    parser.add_argument("--venv", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if why := missing():
        print(f"systemd: not here, {why}")
        return 0
    # The machine ends with this process, whatever ends it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.venv is not None:
        return 1 if asyncio.run(measure(given.restarts, given.rate, given.venv)) else 0
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        # The machine's network is the measurement's own: the units have ports that may be in use here.
        within = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
        again = (sys.executable, "-m", "tests.bench", "systemd", *arguments, f"--venv={installed(Path(folder))}")
        return subprocess.run([*within, *again], check=False).returncode
