"""A project that is tested with moorline: a folder, and pytest as its developers run it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.process import PYTHONPATH

__all__ = ["Project"]

_INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
# Of the plugins that are installed for this repository's tests, those that a project with such tests has: Hypothesis
# and the others take longer to import than most of these runs last.
_PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin", "-p", "xdist.plugin")
_PLUGIN = 'pytest_plugins = ["moorline.testing"]\n'


class Project:
    """Its tests are written by `test`, and run by `run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write("pytest.ini", _INI)
        self._write("conftest.py", _PLUGIN)
        self.returncode = -1

    def conftest(self, text: str) -> None:
        self._write("conftest.py", _PLUGIN + text)

    def test(self, text: str, name: str = "test_it.py") -> None:
        self._write(name, text)

    def run(self, *options: str) -> str:
        """What pytest prints."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *_PLUGINS, *options],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": PYTHONPATH,
                "PYTEST_ADDOPTS": "",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=170,
        )
        self.returncode = done.returncode
        return done.stdout

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
