"""The command line: `moorline COMMAND`, see `_OVERVIEW`, and `python -m moorline`.

Each command imports the libraries that it needs, so that help, `--version` and a mistake are answered at once: aiohttp
takes a quarter of a second.
"""

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.gateway.common.config.commandline import Config

__all__ = ["main"]

_OVERVIEW = """\
Usage: moorline [COMMAND] [OPTIONS]

A single-port gateway and chat backend for streaming LLM chat over WebSockets that hold.

Commands
  serve     page, gateway and a supervised backend, on one port (the default)
  gateway   the gateway alone, in front of a backend of yours
  backend   the chat backend alone
  check     what is wrong between here and the answer, hop by hop
  explain   why a socket ended, by the code in its log line
  backup    all chats in one file, also while they go on
  restore   the database from such a file
  revoke    end what a principal has open, and refuse the tokens that it has

Examples
  moorline                                the chat page on http://localhost:4321
  moorline serve --frontend dist/         your own page
  moorline check                          why is there no answer?

`moorline COMMAND --help` shows the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names; the exit status."""
    from moorline.gateway.common.program import run_cli

    return run_cli(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    from moorline import __version__
    from moorline.gateway.common.errors import UsageError

    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(_OVERVIEW, end="")
        return 0
    if argv[:1] in (["-V"], ["--version"]):
        print(f"moorline {__version__}")
        return 0
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "serve"
    command = (_COMMANDS | _INTERNAL).get(name)
    if command is None:
        from moorline.gateway.common.config.options import did_you_mean

        raise UsageError(f"{name}: there is no such command{did_you_mean(name, _COMMANDS)}")
    if name in _SERVING:
        from moorline.gateway.common.program import hold_reloads

        hold_reloads()
    return command(argv, os.environ)


def _config(name: str, argv: Sequence[str], environ: MutableMapping[str, str]) -> "Config":
    from moorline.gateway.common.config.commandline import read
    from moorline.gateway.run.commands import COMMANDS, TABLES

    config = read(COMMANDS[name], argv, environ=environ, tables=TABLES)
    # The provider's and the database's libraries, and child processes, find there what `.env` says.
    environ.update(config.environ)
    return config


def configured(name: str, argv: Sequence[str], environ: MutableMapping[str, str]) -> Mapping[type[Any], Any]:
    """The settings of `serve` or `gateway`, by class, checked together."""
    from moorline.gateway.run.commands import BackendSettings, ServeSettings, Settings
    from moorline.gateway.run.exposed import check_frontend

    config = _config(name, argv, environ)
    settings = config[Settings]
    private = {**config.file, **settings.files()}
    if name != "serve":
        check_frontend(settings.frontend_folder, private)
        return {Settings: settings}
    backend = config[BackendSettings]
    if key := environ.get("OPENAI_API_KEY_FILE"):
        private[f'OPENAI_API_KEY_FILE: "{key}"'] = key
    check_frontend(settings.frontend_folder, {**private, **backend.files()})
    return {Settings: settings, BackendSettings: backend, ServeSettings: config[ServeSettings]}


def _import_aiohttp() -> None:
    from moorline.gateway.common.web.authorities import import_aiohttp

    import_aiohttp()


def _serve(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.common.systemd import Systemd
    from moorline.gateway.run.commands import BackendSettings, ServeSettings, Settings

    systemd = Systemd.of(environ)
    started = dict(environ)
    config = configured("serve", argv, environ)
    from moorline.gateway.run import serve
    from moorline.gateway.run.configuration import Configuration

    configuration = Configuration("serve", argv, started)
    return serve.main(config[Settings], config[BackendSettings], config[ServeSettings], environ, configuration, systemd)


def _gateway(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.common.supervised import Parent

    if (parent := Parent.of(environ)) is not None:
        _import_aiohttp()
        from moorline.gateway.run import workers

        return workers.run_worker(parent)
    from moorline.gateway.common.systemd import Systemd
    from moorline.gateway.run.commands import Settings

    systemd = Systemd.of(environ)
    started = dict(environ)
    settings = configured("gateway", argv, environ)[Settings]
    _import_aiohttp()
    from moorline.gateway.run import server
    from moorline.gateway.run.configuration import Configuration

    return server.main(settings, environ, Configuration("gateway", argv, started), systemd)


def _backend(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.common.supervised import Parent

    if (parent := Parent.of(environ)) is not None:
        _import_aiohttp()
        from moorline.backend import program

        return program.run_supervised(parent)
    from moorline.gateway.common.systemd import Systemd
    from moorline.gateway.run.commands import BackendSettings

    systemd = Systemd.of(environ)
    settings = _config("backend", argv, environ)[BackendSettings]
    _import_aiohttp()
    from moorline.backend import program

    return program.run_backend(settings, systemd)


def _command(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """For `serve` alone: see `gateway/run/command.py`."""
    from moorline.gateway.common.errors import UsageError
    from moorline.gateway.common.supervised import Parent

    if (parent := Parent.of(environ)) is None:
        raise UsageError("command: there is no such command")
    from moorline.gateway.run import command

    return command.run_command(parent)


def _configuration(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """For a reload alone: see `gateway/run/configuration.py`."""
    from moorline.gateway.common.errors import UsageError
    from moorline.gateway.common.supervised import Parent

    if (parent := Parent.of(environ)) is None:
        raise UsageError("configuration: there is no such command")
    from moorline.gateway.run import configuration

    return configuration.answer(parent, environ, configured)


def _check(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    import dataclasses

    from moorline.gateway.run.commands import CheckSettings, ServeSettings, Settings

    config = _config("check", argv, environ)
    settings, own, serve = config[Settings], config[CheckSettings], config[ServeSettings]
    from moorline.gateway.check.address import ProbeOptions
    from moorline.gateway.check.report import check

    options = ProbeOptions.of(origin=own.origin, path=own.path, header=own.header, idle=own.idle)
    if config.arguments:
        # Not known: which backend this gateway has, and whether it can be reached from here.
        return check(config.arguments[0], own.backend or None, backend_is_named=True, options=options, as_json=own.json)
    url = f"{settings.scheme}://{_reached_at(settings.host)}:{settings.port}"
    options = dataclasses.replace(options, certificate=settings.tls_certificate)
    guessed = f"http://127.0.0.1:{serve.backend_port}" if serve.backend_port else settings.upstream[0]
    backend, is_named = own.backend or guessed, bool(own.backend)
    return check(url, backend, backend_is_named=is_named, options=options, as_json=own.json)


def _explain(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.common.config.options import did_you_mean
    from moorline.gateway.common.errors import UsageError
    from moorline.gateway.explain import codes, explain

    wanted = _config("explain", argv, environ).arguments
    for code in [code for name in wanted for code in codes(name) or [name]] or codes():
        found = explain(code)
        if found is None:
            raise UsageError(f"{code}: there is no such code{did_you_mean(code, codes())}; moorline explain lists all")
        print(f"{code}: {found.what}\n  when:        {found.when}")
        print(f"  usual cause: {found.usual_cause}\n  next step:   {found.next_step}")
    return 0


def _backup(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.run.commands import BackendSettings

    config = _config("backup", argv, environ)
    from moorline.backend import backup

    return backup.backup(config[BackendSettings].database, list(config.arguments))


def _restore(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.run.commands import BackendSettings

    config = _config("restore", argv, environ)
    from moorline.backend import backup

    return backup.restore(config[BackendSettings].database, list(config.arguments))


def _revoke(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    from moorline.gateway.run.commands import BackendSettings

    config = _config("revoke", argv, environ)
    from moorline.backend import revoke

    return revoke.revoke(config[BackendSettings].database, list(config.arguments))


def _reached_at(host: str) -> str:
    """The host of an address that reaches what listens on `host` of this machine."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


_Command = Callable[[Sequence[str], MutableMapping[str, str]], int]
_COMMANDS: dict[str, _Command] = {
    "serve": _serve,
    "gateway": _gateway,
    "backend": _backend,
    "check": _check,
    "explain": _explain,
    "backup": _backup,
    "restore": _restore,
    "revoke": _revoke,
}
_INTERNAL: dict[str, _Command] = {"command": _command, "configuration": _configuration}
# A reload is asked of all processes of a service, where a manager signals it.
_SERVING = {"serve", "gateway", "backend", "configuration"}
