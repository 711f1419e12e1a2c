"""What may import what, what a pure module may not know, and the words that all of them use."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ROOT = CHECKOUT / ".package" / "moorline"
MODULES = sorted(path for package in ("gateway", "backend") for path in (ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Each file is read once: there are a thousand tests here."""
    return ast.parse(path.read_text(encoding="utf-8"))


# The first paragraph of their docstring says so.
PURE = [path for path in MODULES if (ast.get_docstring(tree(path)) or "").split("\n\n")[0].endswith("Pure.")]
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


# Words ----------------------------------------------------------------------------------------------------------------

PAGES = [*(ROOT / "gateway" / "docs").glob("*.md"), CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md"]
# Homely ones, and the field's in their place.
WORDS = {
    r"nobody|somebody|whoever": "a client, a caller, a process",
    r"farewells?": "a Close frame",
    r"(?:request|response|answer)'s head|heads? of (?:a|the) (?:request|response)": "headers",
    r"knock\w*": "retry",
    r"dribbl\w*": "slow, byte by byte",
    r"le(?:ts?|tting) (?:in|go)": "accept, close",
    r"(?:is|are|was|were) let (?:in|go)": "accepted, closed",
    r"(?:log|database|upstream) is (?:away|back)": "unavailable, restored",
}


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_the_words_are_those_of_the_field(path: Path) -> None:
    assert homely(path.read_text(encoding="utf-8")) == {}


def homely(text: str) -> dict[str, str]:
    """The words of this text that are not the field's, and what to write."""
    return {word: better for word, better in WORDS.items() if re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)}


# Libraries ------------------------------------------------------------------------------------------------------------

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = [each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra]
# Of the users of `moorline.testing`, who have both: one runs their tests, the other their application.
THEIRS = ["pytest", "uvicorn"]
# The names under which their modules are imported, and where these are from.
LIBRARIES: Mapping[str, list[str]] = packages_distributions()


def normal(requirement: str) -> str:
    """The name alone: `pyjwt` for `PyJWT[crypto]>=2.10`."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def undeclared(paths: Iterable[Path], declared: Iterable[str]) -> set[str]:
    """The libraries that these modules import and that are installed only because another one needs them."""
    found = {imported.partition(".")[0] for path in paths for imported in imports(path)}
    found -= sys.stdlib_module_names | {"moorline", "tests"}
    known = set(map(normal, declared))
    return {library for library in found if known.isdisjoint(map(normal, LIBRARIES.get(library, ())))}


def test_each_library_that_is_imported_is_declared() -> None:
    declared = [*PROJECT["project"]["dependencies"], *EXTRAS]
    assert undeclared(MODULES, [*declared, *THEIRS]) == set()


def test_each_library_that_the_tests_import_is_declared() -> None:
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    assert undeclared(TESTS, declared) == set()


def test_the_tests_have_each_extra() -> None:
    assert set(EXTRAS) <= set(PROJECT["dependency-groups"]["dev"])
