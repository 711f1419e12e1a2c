"""The README and the pages of documentation are true: their options, paths, links, commands and Python."""

import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.options import BOOL, Spec, specs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.faults.catalogue import CATALOGUE, Phase
from moorline.gateway.run.commands import COMMANDS, CheckSettings, ServeSettings
from moorline.gateway.settings import Settings
from moorline.gateway.site.docs import PAGES
from tests.bench.__main__ import BENCHMARKS
from tests.bench.__main__ import main as run_bench
from tests.support.backends import Script, backend

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# Not those of an installed package: what they link to is in the checkout.
DOCS = ROOT / "gateway" / "docs"
FILES = (README, *(DOCS / f"{name}.md" for name in PAGES))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
ALL = "\n".join(TEXTS.values())
# Each part has these with a default of its own.
OWN = {"host", "port"}
COMMON = set(specs(CommonSettings)) - OWN


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", ALL, re.MULTILINE | re.DOTALL)


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
    section = TEXTS["options.md"].partition(f"## {heading}\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [_row(spec) for name, spec in specs(settings).items() if name in names]


def test_options_of_both_parts_have_one_meaning_and_one_default() -> None:
    assert all(specs(Settings)[name] == specs(BackendSettings)[name] for name in COMMON)


def test_extras_are_installed_from_the_clone_since_no_index_has_moorline() -> None:
    shown = re.findall(r'pip install "(.+)\[(\w+)\]"', ALL)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {extra for _, extra in shown} == set(extras)
    assert {folder for folder, _ in shown} == {"../moorline"}
    assert all(f"(`{extra}`)" in TEXTS["README.md"] for extra in extras)


def test_the_changelog_names_the_commands_that_there_are() -> None:
    programs = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### The programs\n\n- ")[2]
    named = re.findall(r"`(?:moorline\s+)?(\w+)`", programs.partition("\n- ")[0])
    assert set(named) - {"moorline"} == set(COMMANDS)


def test_every_page_is_listed_in_the_readme() -> None:
    assert sorted(path.stem for path in DOCS.iterdir()) == sorted(PAGES)
    assert all(f"(gateway/docs/{name}.md)" in TEXTS["README.md"] for name in PAGES)


def test_every_bench_is_listed_with_what_it_measures() -> None:
    section = TEXTS["performance.md"].partition("## What each bench measures\n")[2].partition("\n#")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(BENCHMARKS)


def test_every_figure_is_of_a_bench_that_exists() -> None:
    section = TEXTS["performance.md"].partition("## What it costs today\n")[2].partition("\n## ")[0]
    named = {*re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE), *re.findall(r"tests\.bench (\w+)", ALL)}
    assert "http" in named
    assert named <= set(BENCHMARKS)


def _benches() -> list[tuple[str, ...]]:
    """What the pages tell to run beyond the name of a bench: `chat --part stages`."""
    lines = re.findall(r"tests\.bench (\w+[^#`\n]*)", ALL) + re.findall(r"`(\w+ --[^`\n]+)`", TEXTS["performance.md"])
    return sorted({words for line in lines if (words := tuple(line.split()))[0] in BENCHMARKS and len(words) > 1})


@pytest.mark.parametrize("words", _benches(), ids=" ".join)
def test_the_options_of_a_bench_that_are_named_exist(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_bench([words[0], "--help"])
    known = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert ended.value.code == 0
    assert {word for word in words[1:] if not word.isdecimal()} <= known


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = TEXTS[path.name]
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    words = re.findall(r"`((?:gateway|backend|tests|nginx|\.ci|\.github)/[\w./-]*)`", text)
    assert [word for word in words if not (ROOT / word).exists()] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_link_to_a_heading_has_it(path: Path) -> None:
    for page, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", TEXTS[path.name]):
        text = TEXTS[Path(page).name or path.name]
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def _flags(command: Command) -> set[str]:
    found = {"--help", "--version", "--config"}
    for spec in command.specs().values():
        found |= {spec.flag, "--no-" + spec.flag[2:]} if spec.kind is BOOL else {spec.flag}
    return found


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    lines += [code for code in re.findall(r"`([^`\n]+)`", ALL) if code.startswith("moorline ")]
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
    given = set(re.findall(r"`(--[a-z-]+)", ALL))
    assert given <= set().union(*map(_flags, COMMANDS.values()))


def test_every_variable_is_an_option_or_the_openai_librarys() -> None:
    known = {spec.variable for command in COMMANDS.values() for spec in command.specs().values()}
    assert set(re.findall(r"\b(?:MOORLINE|OPENAI)_[A-Z_]+", ALL)) <= known | {
        "OPENAI_API_KEY",
        "OPENAI_API_KEY_FILE",
        "OPENAI_BASE_URL",
    }


def test_as_many_faults_are_promised_as_there_are() -> None:
    (promised,) = re.findall(r"(\d+) faults by name", TEXTS["README.md"])
    assert int(promised) == sum(fault.phase is not Phase.PROVIDER for fault in CATALOGUE.values())


def test_the_example_of_a_hook_builds_a_backend() -> None:
    found = _defined("authorize")
    assert isinstance(found["app"], web.Application)


@pytest.mark.parametrize(
    ("token", "patient", "status"),
    [("token-of-dr-who", "patient:4711", 200), ("token-of-dr-who", "patient:4712", 403), ("another", "x", 401)],
)
async def test_the_example_of_a_hook_decides_by_the_patient(
    tmp_path: Path, token: str, patient: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    running = backend(tmp_path, Script(), authorize=_defined("authorize")["authorize"])
    async with running as server, aiohttp.ClientSession(server.http, headers=headers) as http:
        answer = await http.get("/api/chat/s1/messages", params={"patient_id": patient})
        assert answer.status == status


async def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    await _defined("test_the_chat_starts_empty")["test_the_chat_starts_empty"](tmp_path)


def _defined(name: str) -> dict[str, Any]:
    """What the Python block that defines `name` defines."""
    (block,) = [block for block in _blocks("python") if f"def {name}(" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "documentation", "exec"), names)
    return names
