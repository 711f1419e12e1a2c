"""How often a test with `moorline.testing` fails by chance: `python -m tests.bench flakes [--runs N] [--processes N]`.

The examples of the documentation that need no browser run so often, in a project of their own, by pytest-xdist. None
may fail; the exit status is 0 then.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from moorline.gateway.site.docs import DOCS
from tests.gateway.testing.project import Project

__all__ = ["main", "run"]

_RUNS = 1000
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Each of these blocks has a test; the one that runs under every fault takes seconds of its own.
_EXAMPLES = ("test_a_reset_is_an_error_and_the_next_socket_works", "test_a_used_up_quota_is_an_error_of_its_own")
_REPEATED = """
import pytest


@pytest.fixture(params=range({}), autouse=True)
def _repeated(request):
    pass
"""


def run(folder: Path, *, runs: int, processes: int) -> str:
    """pytest's last line."""
    blocks = _BLOCK.findall((DOCS / "testing.md").read_text(encoding="utf-8"))
    examples = [block for block in blocks if any(name in block for name in _EXAMPLES)]
    assert len(examples) == len(_EXAMPLES)
    project = Project(folder)
    project.conftest(_REPEATED.format(runs // len(examples)))
    project.test("\n".join(examples))
    return project.run("-q", "-n", str(processes)).strip().rpartition("\n")[2]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench flakes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=_RUNS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        began = time.monotonic()
        last = run(Path(folder), runs=given.runs, processes=given.processes)
    print(f"{given.processes} processes, {time.monotonic() - began:.1f} s by the clock: {last}")
    return 0 if last.startswith(f"{given.runs} passed in ") else 1
