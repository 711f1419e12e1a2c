"""What a `.env` beside moorline.toml gives, and that no other one is read."""

from pathlib import Path

import pytest

from moorline.gateway.common.config.commandline import read
from moorline.gateway.common.config.dotenv import parse_dotenv
from moorline.gateway.common.errors import UsageError
from moorline.gateway.run.commands import COMMANDS, TABLES, BackendSettings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\n\n# a comment\nB = two words # said\n", {"A": "1", "B": "two words"}),
        ("export A='a # b'\nB=\"c\" # d\n", {"A": "a # b", "B": "c"}),
        ("A=\nB=a#b\r\n", {"A": "", "B": "a#b"}),
    ],
)
def test_lines_are_read_as_other_tools_do(text: str, found: dict[str, str]) -> None:
    assert parse_dotenv(text) == found


def test_a_line_that_is_none_is_named_by_its_number_alone() -> None:
    with pytest.raises(ValueError, match=r"^line 2 is not NAME=VALUE$"):
        parse_dotenv("A=1\nsk-secret\n")


def project(folder: Path, *, toml: bool = True) -> Path:
    folder.mkdir()
    (folder / ".env").write_text("OPENAI_API_KEY=sk-1\nMOORLINE_MODEL=llama\n", encoding="utf-8")
    if toml:
        (folder / "moorline.toml").write_text("", encoding="utf-8")
    return folder


def test_the_file_beside_moorline_toml_counts_less_than_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(project(tmp_path / "here") / "moorline.toml")
    monkeypatch.chdir(project(tmp_path / "elsewhere", toml=False))
    environ = {"OPENAI_API_KEY": "sk-2"}
    found = read(COMMANDS["backend"], ["--config", config], environ=environ, tables=TABLES)
    assert found[BackendSettings].model == "llama"
    assert found.environ == {"OPENAI_API_KEY": "sk-2", "MOORLINE_MODEL": "llama"}
    assert str(tmp_path / "here" / ".env") in found.file.values()


def test_a_byte_order_mark_is_none_of_a_files_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moorline.toml").write_text('[backend]\nmodel = "llama"\n', encoding="utf-8-sig")
    Path(".env").write_text("OPENAI_API_KEY=sk-1\n", encoding="utf-8-sig")
    found = read(COMMANDS["backend"], [], environ={}, tables=TABLES)
    assert (found[BackendSettings].model, found.environ) == ("llama", {"OPENAI_API_KEY": "sk-1"})


def test_without_moorline_toml_no_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path / "elsewhere", toml=False))
    assert read(COMMANDS["backend"], [], environ={}, tables=TABLES).environ == {}


def test_a_bad_line_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path / "here"))
    Path(".env").write_text("sk-secret", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^\.env: line 1 is not NAME=VALUE$"):
        read(COMMANDS["backend"], [], environ={}, tables=TABLES)
