"""How long a process that starts is waited for, with small processes in the place of whole programs."""

import asyncio
import os
import sys
from typing import Any

import pytest

from moorline.gateway.run import supervisor
from moorline.gateway.run.supervisor import Child, Supervisor
from tests.support.process import PATIENCE


def a_part(monkeypatch: pytest.MonkeyPatch, script: str, **options: Any) -> Child:
    """What is kept alive: a process that runs this."""
    monkeypatch.setattr(supervisor, "module_command", lambda command: [sys.executable, "-c", script])
    callbacks = {"on_ready": lambda facts: None, **options}
    return Child(name="a part", command="", message={}, environ=os.environ, drain=1.0, **callbacks)


async def test_a_start_that_is_slow_and_lives_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
import os, socket, time
parent = socket.socket(fileno=int(os.environ["MOORLINE_SUPERVISOR"]))
for _ in range(16):
    parent.send(b"\\n")
    time.sleep(0.3)
parent.send(b"{}\\n")
time.sleep(3600)
"""
    ready = asyncio.Event()
    kept = Supervisor(a_part(monkeypatch, script, start_timeout=3.0, on_ready=lambda facts: ready.set()))
    running = asyncio.create_task(kept.run())
    async with asyncio.timeout(PATIENCE):
        await ready.wait()
        kept.stop()
        assert await running == 0
    assert caplog.text == ""


async def test_a_start_that_gives_no_sign_of_life_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()
    part = a_part(monkeypatch, "import time; time.sleep(3600)", start_timeout=0.5, on_failed_start=failed.set)
    kept = Supervisor(part)
    running = asyncio.create_task(kept.run())
    async with asyncio.timeout(PATIENCE):
        await failed.wait()
        kept.stop()
        await running
    assert caplog.messages == [
        "a part has given no sign of life for 500ms at its start (start_timeout): killing it",
        "a part ended with status -9; starting it again in 0.25s",
    ]
