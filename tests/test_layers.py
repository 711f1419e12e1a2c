"""What may import what, and what a pure module may not know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("gateway", "backend") for path in (ROOT / package).rglob("*.py"))
PURE = [path for path in MODULES if (ast.get_docstring(ast.parse(path.read_text())) or "").endswith("Pure.")]
IMPURE = {"asyncio", "aiohttp", "time", "os", "socket", "threading", "logging", "uvloop"}


def imports(path: Path) -> Iterator[str]:
    """Every module that this one names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield node.module or ""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_parts_know_only_their_common_ground(path: Path) -> None:
    for module in imports(path):
        ours, other = ("gateway", "backend") if name(path).startswith("gateway/") else ("backend", "gateway")
        if module.split(".")[0] != other:
            continue
        if ours == "backend" and module.startswith("gateway.common"):
            continue
        # The command line knows the names of all options.
        assert path.name == "__main__.py", module
        assert module == f"{other}.settings"


@pytest.mark.parametrize("path", [path for path in MODULES if "common" in path.parts], ids=name)
def test_the_common_ground_stands_on_nothing_of_the_parts(path: Path) -> None:
    for module in imports(path):
        assert module.split(".")[0] not in ("gateway", "backend") or module.startswith("gateway.common"), module


@pytest.mark.parametrize("path", PURE, ids=name)
def test_a_pure_module_knows_no_clock_no_loop_and_no_environment(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & IMPURE


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_is_at_most_300_lines_and_a_function_60(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
