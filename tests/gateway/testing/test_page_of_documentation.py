"""`gateway/docs/testing.md`: its table of faults is the catalogue, and its examples pass."""

import re

import pytest

from moorline.gateway.faults.catalogue import CATALOGUE, Fault
from moorline.gateway.site.docs import DOCS
from tests.gateway.testing.project import Project
from tests.support import needs

PAGE = (DOCS / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.partition("### The faults")[0], re.MULTILINE | re.DOTALL)
# As pytest-playwright's, with the browser that is there.
BROWSER = """
import shutil

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()
"""
INDEX = """<!doctype html>
<title>Chat</title>
<p id="status">Connecting</p>
<script>
function connect() {
  const socket = new WebSocket(`ws://${location.host}/ws/echo`)
  const show = text => { document.getElementById("status").textContent = text }
  socket.onopen = () => { show("Connected"); socket.send("hello") }
  socket.onclose = () => { show("Reconnecting"); setTimeout(connect, 100) }
}
connect()
</script>
"""


def row(fault: Fault) -> str:
    parameters = (f"`{name}`" if value is None else f"`{name}={value}`" for name, value in fault.parameters.items())
    return f"| `{fault.name}` | {fault.side.value} | {', '.join(parameters) or '-'} | {fault.does} |"


def test_the_table_of_faults_is_the_catalogue() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [row(fault) for fault in CATALOGUE.values()]


@needs.chromium
@pytest.mark.timeout(180)
def test_the_examples_pass(project: Project) -> None:
    examples = "\n".join(block for block in BLOCKS if "pytest_plugins" not in block)
    project.conftest(BROWSER)
    project.test(examples.replace('moorline_faults("all")', 'moorline_faults("restart", "wrong_accept", "vanish")'))
    (project.folder / "dist").mkdir()
    (project.folder / "dist" / "index.html").write_text(INDEX, encoding="utf-8")
    out = project.run()
    assert "7 passed" in out, out
    assert "  survived 3 of 3" in out


def test_the_set_up_of_a_test_is_three_lines() -> None:
    (first, *_) = [block for block in BLOCKS if "async def test_" in block]
    body = first.partition("async def test_")[2].splitlines()
    set_up = [line for line in body[1:] if "moorline" in line]
    assert len(set_up) + len(["pytest_plugins"]) <= 3
