"""What the command line gives each part, and what it warns of."""

import pytest

from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.commandline import Config, read
from moorline.gateway.run.commands import (
    BACKEND,
    CHECK,
    GATEWAY,
    SERVE,
    TABLES,
    BackendSettings,
    ServeSettings,
    Settings,
)


def started(command: Command, *arguments: str, **environ: str) -> Config:
    return read(command, arguments, environ=environ, tables=TABLES)


def test_an_option_that_both_parts_have_reaches_both_and_the_port_the_gateway_alone() -> None:
    config = started(SERVE, "--log-level", "debug", "--port", "1", MOORLINE_DRAIN="3s")
    for settings in (config[Settings], config[BackendSettings]):
        assert (settings.log_level, settings.drain) == ("debug", 3.0)
    assert (config[Settings].port, config[BackendSettings].port) == (1, BackendSettings().port)


def test_the_options_of_serve_are_its_own() -> None:
    config = started(SERVE, "--reload", "--backend-port", "9")
    assert config[ServeSettings] == ServeSettings(reload=True, backend_port=9)


@pytest.mark.parametrize(
    ("arguments", "places"),
    [
        (["--log-key", "secret"], "MOORLINE_LOG_KEY or moorline.toml"),
        (["--database", "postgresql://me:secret@db/chats"], "~/.pgpass, MOORLINE_DATABASE or moorline.toml"),
        (["--database", "postgresql://db/chats?password=secret"], "~/.pgpass, MOORLINE_DATABASE or moorline.toml"),
    ],
)
def test_a_secret_in_an_argument_is_a_warning_that_names_better_places(
    arguments: list[str], places: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started(BACKEND, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"moorline: warning: {arguments[0]}: every user of this machine can read it")
    assert line.endswith(f"keep the secret in {places}")
    assert "secret@" not in line


@pytest.mark.parametrize(
    ("header", "warnings"),
    [("Authorization: Bearer x", 1), ("cookie: session=x", 1), ("X-Forwarded-For: 10.0.0.7", 0)],
)
def test_a_header_with_a_credential_in_an_argument_is_a_warning(
    header: str, warnings: int, capsys: pytest.CaptureFixture[str]
) -> None:
    started(CHECK, "--header", header)
    assert capsys.readouterr().err.count("keep the secret in MOORLINE_HEADER") == warnings


@pytest.mark.parametrize("command", [GATEWAY, SERVE])
def test_a_secret_in_a_variable_or_none_in_an_argument_is_no_warning(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    started(command, "--log-level", "info", MOORLINE_LOG_KEY="secret")
    started(BACKEND, "--database", "postgresql://me@db/chats?sslmode=verify-full")
    assert capsys.readouterr().err == ""
