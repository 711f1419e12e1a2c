"""The README is true: its options, its paths, its commands and its Python."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from moorline.backend.program import BACKEND
from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.options import BOOL, Spec, specs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.run.check import CheckSettings
from moorline.gateway.run.cli import CHECK, GATEWAY, SERVE, ServeSettings
from moorline.gateway.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {command.name: command for command in (SERVE, GATEWAY, BACKEND, CHECK)}
# Each part has these with a default of its own.
OWN = {"host", "port"}
COMMON = set(specs(CommonSettings)) - OWN


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _row(spec: Spec) -> str:
    default = spec.show(spec.default)
    off = " (or `off`)" if spec.can_be_off and spec.default is not None else ""
    return f"| `{spec.name}` | {f'`{default}`' if default else '-'} | {spec.meaning}{off} |"


@pytest.mark.parametrize(
    ("heading", "settings", "names"),
    [
        ("Gateway", Settings, set(specs(Settings)) - COMMON),
        ("Backend", BackendSettings, set(specs(BackendSettings)) - COMMON),
        ("Both", Settings, COMMON),
        ("Only `moorline serve`", ServeSettings, set(specs(ServeSettings))),
        ("Only `moorline check`", CheckSettings, set(specs(CheckSettings))),
    ],
)
def test_the_table_of_options_is_that_of_the_settings(heading: str, settings: type[Any], names: Iterable[str]) -> None:
    section = README.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [_row(spec) for name, spec in specs(settings).items() if name in names]


def test_options_of_both_parts_have_one_meaning_and_one_default() -> None:
    assert all(specs(Settings)[name] == specs(BackendSettings)[name] for name in COMMON)


def test_every_file_that_is_named_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    words = re.findall(r"`((?:gateway|backend|tests|nginx|\.ci|\.github)/[\w./-]*)`", README)
    assert len(links) > 10
    assert [path for path in {*links, *words} if not (ROOT / path).exists()] == []


def test_every_link_within_the_page_has_its_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def _flags(command: Command) -> set[str]:
    found = {"--help", "--version", "--config"}
    for spec in command.specs().values():
        found |= {spec.flag, "--no-" + spec.flag[2:]} if spec.kind is BOOL else {spec.flag}
    return found


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    lines += [code for code in re.findall(r"`([^`\n]+)`", README) if code.startswith("moorline ")]
    words = [shlex.split(line.rpartition("&& uv run ")[2], comments=True) for line in lines]
    # Without the variables before the command.
    bare = [line[next(i for i, word in enumerate(line) if "=" not in word) :] for line in words]
    return [line[1:] for line in bare if line[0] == "moorline"]


@pytest.mark.parametrize("arguments", _commands(), ids=" ".join)
def test_every_command_and_its_flags_exist(arguments: list[str]) -> None:
    name = arguments[0] if arguments and not arguments[0].startswith("-") else "serve"
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert name in COMMANDS
    assert given <= _flags(COMMANDS[name])


def test_every_flag_in_the_text_exists() -> None:
    given = set(re.findall(r"`(--[a-z-]+)", README))
    assert given <= set().union(*map(_flags, COMMANDS.values()))


def test_every_variable_is_an_option_or_the_openai_librarys() -> None:
    known = {spec.variable for command in COMMANDS.values() for spec in command.specs().values()}
    assert set(re.findall(r"\b(?:MOORLINE|OPENAI)_[A-Z_]+", README)) <= known | {"OPENAI_API_KEY", "OPENAI_BASE_URL"}


def test_the_example_of_a_hook_builds_a_gateway() -> None:
    found = _defined("authorize")
    assert isinstance(found["app"], web.Application)


async def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    await _defined("test_the_chat_starts_empty")["test_the_chat_starts_empty"](tmp_path)


def _defined(name: str) -> dict[str, Any]:
    """What the Python block that defines `name` defines."""
    (block,) = [block for block in _blocks("python") if f"def {name}(" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names
