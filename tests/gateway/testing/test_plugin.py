"""The plugin in other people's test runs: pytest in a process of its own, in a project of its own."""

import pytest

from tests.gateway.testing.project import Project

# Each starts pytest in a process of its own, some of them more than one.
pytestmark = pytest.mark.timeout(180)

APP = """
import asyncio
import pytest
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError


def app():
    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/ws/echo", echo)
    return application


async def once(url):
    async with connect(url, proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
"""
MARKED = (
    APP
    + """
@pytest.mark.moorline_faults("reset", "close", "delay", "drop_pong", "reset_handshake", path="/ws/")
async def test_the_first_try_succeeds(moorline):
    async with moorline.gateway(upstream=app()) as gw:
        await once(gw.ws_url("/ws/echo"))
"""
)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_marked_test_runs_under_each_fault_and_a_table_says_what_it_survives(project: Project, workers: str) -> None:
    project.test(MARKED)
    out = project.run(*(("-n", workers) if workers != "0" else ()))
    table = out.partition("moorline: faults that the tests survive")[2].splitlines()
    rows = {line.split("  ")[1]: line for line in table if line.startswith("  ")}
    found = {name: line.split()[len(name.split())] for name, line in rows.items() if not name.startswith("survived ")}
    assert found == {
        "no fault": "survived",
        "reset_handshake": "survived",
        "reset": "FAILED",
        "close": "survived",
        "delay": "survived",
        "drop_pong": "survived",
    }
    assert "  survived 4 of 5" in table


def test_the_report_of_a_failed_test_tells_of_its_sockets(project: Project) -> None:
    project.test(
        APP
        + """
async def test_it(moorline):
    async with moorline.gateway(upstream=app()) as gw, gw.faults.reset(side="upstream", after_bytes=1):
        await once(gw.ws_url("/ws/echo"))


async def test_that_passes(moorline):
    async with moorline.gateway(upstream=app()) as gw:
        await once(gw.ws_url("/ws/echo"))
"""
    )
    out = project.run("--tb=short")
    assert "1 failed, 1 passed" in out
    assert out.count("moorline: the sockets of this test") == 1
    assert "reset(after_bytes=1) on the side of the upstream met a WebSocket" in out
    assert "WebSocket closed: " in out


# What is in the mark, and whether the test has the fixture.
MISTAKES = {
    ('"rest"', "moorline"): "rest: there is no such fault; did you mean reset?",
    ('"all", without=["rest"]', "moorline"): "rest: there is no such fault",
    ('"all", only=1', "moorline"): (
        "moorline_faults: there is no option only; there are side, path, resets_after, without"
    ),
    ('"all"', ""): "moorline_faults needs the fixture moorline; add it as argument",
}


def test_a_mistake_in_a_mark_is_one_line(project: Project) -> None:
    for number, (mark, fixture) in enumerate(MISTAKES):
        test = f"@pytest.mark.moorline_faults({mark})\nasync def test_it({fixture}):\n    pass\n"
        project.test(f"import pytest\n\n{test}", f"test_{number}.py")
    out = project.run()
    assert project.returncode != 0
    for number, words in enumerate(MISTAKES.values()):
        assert f"test_{number}.py::test_it: {words}" in out


def test_a_fault_that_no_connection_met_is_not_counted(project: Project) -> None:
    project.test('import pytest\n\n@pytest.mark.moorline_faults("reset")\ndef test_it(moorline):\n    pass\n')
    out = project.run()
    assert "  reset              not met " in out
    assert "  survived 0 of 0; 1 were not met" in out


def test_other_asynchronous_runners_have_it_too(project: Project) -> None:
    project.test(
        APP
        + """
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio"])
def anyio_backend(request):
    return request.param


async def test_it(moorline):
    async with moorline.gateway(upstream=app()) as gw:
        await once(gw.ws_url("/ws/echo"))
"""
    )
    assert "1 passed" in project.run("-o", "asyncio_mode=strict")


def test_the_plugin_imports_nothing_large_before_it_is_used(project: Project) -> None:
    project.test('import sys\n\ndef test_it():\n    assert not {"aiohttp", "openai", "uvicorn"} & set(sys.modules)\n')
    assert "1 passed" in project.run()
