"""Tests that hang, in a pytest run of its own with this project's configuration."""

from pathlib import Path

import pytest

from tests.support.process import ROOT, run_program

# Each process that pytest-xdist starts imports all plugins: seconds on a busy machine.
SECONDS = 150
pytestmark = pytest.mark.timeout(SECONDS * 1.5)

# The second is what an exception from a signal handler, as pytest-timeout's, does not end: the inner task stores it.
HANGING = """
import asyncio
import time

import pytest

@pytest.fixture
def cleaned_up():
    yield
    print("the fixture has cleaned up")

async def test_waits_for_ever(cleaned_up):
    await asyncio.Event().wait()

@pytest.mark.timeout(1)
async def test_never_returns_to_the_loop():
    async def busy():
        while True:
            time.sleep(0.01)
    while True:
        await asyncio.wait([asyncio.create_task(busy())])

def test_passes():
    pass
"""
HANGING_FIXTURE = """
import threading

import pytest

@pytest.fixture
def never_ready():
    threading.Event().wait()

def test_uses_it(never_ready):
    pass
"""


async def run(folder: Path, source: str, *options: str) -> str:
    """All that pytest prints."""
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.support.time_limit"]\n', encoding="utf-8")
    (folder / "test_example.py").write_text(source, encoding="utf-8")
    # Without Hypothesis and the others, which each of the processes would import.
    plugins = ("-ppytest_asyncio.plugin", "-pxdist.plugin", "-ppytest_timeout")
    options = (*plugins, f"--rootdir={folder}", f"-c{ROOT}/pyproject.toml", *options, str(folder))
    status, out, err = await run_program(
        "pytest", *options, cwd=ROOT, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, patience=SECONDS
    )
    assert status == 1
    return out + err


async def test_each_test_that_hangs_fails_with_its_stack_and_the_others_run(tmp_path: Path) -> None:
    output = await run(tmp_path, HANGING, "-n1", "-otimeout=5")
    assert ">       await asyncio.Event().wait()" in output
    assert "cancelled after 4 s" in output
    assert "the fixture has cleaned up" in output
    assert "in busy\n" in output
    assert "crashed while running 'test_example.py::test_never_returns_to_the_loop'" in output
    assert "2 failed, 1 passed" in output


async def test_a_fixture_that_hangs_ends_the_run_with_its_stack(tmp_path: Path) -> None:
    output = await run(tmp_path, HANGING_FIXTURE, "-n0", "-otimeout=1")
    assert "in never_ready\n" in output
