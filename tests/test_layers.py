"""What may import what, and what a pure module may not know."""

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / ".package" / "moorline"
MODULES = sorted(path for package in ("gateway", "backend") for path in (ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Each file is read once: there are a thousand tests here."""
    return ast.parse(path.read_text(encoding="utf-8"))


PURE = [path for path in MODULES if (ast.get_docstring(tree(path)) or "").endswith("Pure.")]
IMPURE = {"asyncio", "aiohttp", "time", "os", "socket", "threading", "logging", "uvloop"}
# The order in which a byte meets the gateway's rooms; `common`, below all of them, is both parts' ground.
ROOMS = ("testing", "run", "check", "inspector", "site", "proxy", "faults", "tunnel", "common")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that this one imports, wherever the import stands, and the names that it takes."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    """`moorline.gateway.proxy`, `moorline.gateway.proxy.headers`"""
    return "moorline." + name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(path: Path) -> str:
    """`gateway.proxy`; a file beside the rooms is one for itself."""
    return ".".join(module(path).split(".")[1:3])


OURS = {module(path): path for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_is_imported_under_a_name_that_a_user_has(path: Path) -> None:
    assert not {imported.split(".")[0] for imported in imports(path)} & {"gateway", "backend", "tests"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_parts_know_only_their_common_ground(path: Path) -> None:
    for imported in imports(path):
        if name(path).startswith("backend/"):
            if imported.startswith("moorline.gateway"):
                assert imported.startswith("moorline.gateway.common"), imported
        elif imported.startswith("moorline.backend"):
            # The command line has the options of both, and starts both. A new configuration is tried on both.
            program = name(path) in ("gateway/run/cli.py", "gateway/run/configuration.py")
            options = name(path) in ("gateway/run/commands.py", "gateway/run/serve.py")
            assert program or (options and imported.startswith("moorline.backend.settings")), imported


@pytest.mark.parametrize("path", [path for path in MODULES if "common" in path.relative_to(ROOT).parts], ids=name)
def test_the_common_ground_stands_on_nothing_of_the_parts(path: Path) -> None:
    for imported in imports(path):
        common = imported.startswith("moorline.gateway.common") or imported == "moorline.__version__"
        assert not imported.startswith("moorline.") or common, imported


@pytest.mark.parametrize("path", [path for path in MODULES if "tunnel" in path.relative_to(ROOT).parts], ids=name)
def test_a_tunnel_does_not_know_aiohttp(path: Path) -> None:
    assert "aiohttp" not in {imported.split(".")[0] for imported in imports(path)}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module(path): {imported for imported in imports(path) if imported in OURS} for path in MODULES}
    for package in graph:
        # A package's docstring and its modules are no circle.
        graph[package].discard(package)
    assert list(TopologicalSorter(graph).static_order())


def test_no_room_imports_one_above_it() -> None:
    for path in MODULES:
        part, _, own = room(path).partition(".")
        if part != "gateway" or own not in ROOMS:
            continue
        above = {f"gateway.{other}" for other in ROOMS[: ROOMS.index(own)]} - {"gateway.site"}
        climbs = {room(OURS[imported]) for imported in imports(path) if imported in OURS} & above
        assert not climbs, f"{name(path)} imports {climbs}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_pytest_is_imported_by_the_plugin_alone(path: Path) -> None:
    if name(path) != "gateway/testing/plugin.py":
        assert not {"pytest", "moorline.gateway.testing.plugin"} & set(imports(path))


@pytest.mark.parametrize("path", PURE, ids=name)
def test_a_pure_module_knows_no_clock_no_loop_and_no_environment(path: Path) -> None:
    assert not {imported.split(".")[0] for imported in imports(path)} & IMPURE


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_function_has_at_most_60_lines(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
