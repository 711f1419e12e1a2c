"""Each module says in `__all__` what it offers."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / ".package" / "moorline"
MODULES = sorted(
    ".".join(("moorline", *path.relative_to(ROOT).with_suffix("").parts))
    for package in ("gateway", "backend")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_offers_exists_and_is_listed(module: str) -> None:
    loaded = importlib.import_module(module)
    offered = loaded.__all__
    assert len(set(offered)) == len(offered)
    assert [name for name in offered if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_private_name_stays_in_its_module(module: str) -> None:
    source = (ROOT / Path(*module.split(".")[1:])).with_suffix(".py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "moorline":
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert [name for name in private if name != "__version__"] == []
