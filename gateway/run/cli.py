"""The command line: `moorline [serve | gateway | backend | check]`, and `python -m moorline`."""

import sys

try:
    import contextlib
    import dataclasses
    import os
    import secrets
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moorline.backend.settings import Settings as BackendSettings
    from moorline.gateway.common import logs
    from moorline.gateway.common.config.command import Command
    from moorline.gateway.common.config.commandline import (
        SUPERVISOR,
        WORKER,
        Given,
        guarded,
        read,
        version,
    )
    from moorline.gateway.common.config.options import BOOL, PORT, did_you_mean, option, specs, variables
    from moorline.gateway.common.config.settings import CommonSettings
    from moorline.gateway.common.errors import UnsupportedLibrary, UsageError
    from moorline.gateway.common.supervised import lifeline
    from moorline.gateway.common.web.listen import reserved
    from moorline.gateway.common.web.server import run
    from moorline.gateway.run import check, serve, server, workers
    from moorline.gateway.run.check import CheckSettings
    from moorline.gateway.settings import Settings
except KeyboardInterrupt:
    # Ctrl-C while the libraries were read, which takes a third of a second.
    sys.exit(130)
except UnsupportedLibrary as error:
    print(f"moorline: {error}", file=sys.stderr)
    sys.exit(2)

__all__ = ["main"]

_BACKEND_PORT = 8000
_CHECK_OPTIONS = frozenset(specs(CheckSettings))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What only `moorline serve` has."""

    backend_port: int | None = option(
        None, PORT, "the backend's port (default: 8000, or a free one if that is taken)", group="Backend and page"
    )
    reload: bool = option(False, BOOL, "start the backend again when its sources change")


SERVE = Command(
    name="serve",
    summary="Start everything: the page, the gateway in front, and a supervised backend process behind it.",
    options={"serve": ServeSettings, "gateway": Settings, "backend": BackendSettings},
    # Its backend is its own.
    hidden=frozenset({"upstream"}),
    examples=(
        ("moorline", "the chat page on http://localhost:4321"),
        ("moorline serve --frontend dist/", "your own page"),
        ("OPENAI_API_KEY=... moorline serve --model gpt-5-mini", "with a model that answers"),
    ),
)
GATEWAY = Command(
    name="gateway",
    summary="Start the gateway alone, in front of a backend that runs elsewhere.",
    options={"gateway": Settings},
    examples=(
        ("moorline gateway --upstream http://127.0.0.1:8000 --frontend dist/", "your own page and backend on one port"),
    ),
)
CHECK = Command(
    name="check",
    summary="Follow a question through the gateway and straight to the backend, and say which hop is broken.",
    options={"check": CheckSettings, "gateway": Settings},
    # Where the gateway is, and its backend; nothing else of it matters here.
    hidden=frozenset(specs(Settings)) - {"host", "port", "upstream"},
    arguments=(("URL", "the gateway's address (default: http://localhost:4321, or as configured)"),),
    examples=(
        ("moorline check", "the parts on this machine"),
        ("moorline check https://chat.example.com", "what a user meets"),
    ),
)
_OVERVIEW = """\
Usage: moorline [COMMAND] [OPTIONS]

A single-port gateway and chat backend for streaming LLM chat over WebSockets that hold.

Commands
  serve     page, gateway and a supervised backend, on one port (the default)
  gateway   the gateway alone, in front of a backend of yours
  backend   the chat backend alone
  check     what is wrong between here and the answer, hop by hop

Examples
  moorline                                the chat page on http://localhost:4321
  moorline serve --frontend dist/         your own page
  moorline check                          why is there no answer?

`moorline COMMAND --help` shows the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names; the exit status."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(_OVERVIEW, end="")
        return 0
    if argv[:1] in (["-V"], ["--version"]):
        print(f"moorline {version()}")
        return 0
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "serve"
    if name not in _COMMANDS:
        raise UsageError(f"{name}: there is no such command{did_you_mean(name, _COMMANDS)}")
    return _COMMANDS[name](argv, os.environ)


def _serve(argv: list[str], environ: Mapping[str, str]) -> int:
    if any(argument.partition("=")[0] == "--upstream" for argument in argv):
        raise UsageError("--upstream: serve starts a backend of its own; `moorline gateway` takes yours")
    given = read(SERVE, argv, environ=environ, elsewhere=_CHECK_OPTIONS)
    own_names = frozenset(ServeSettings.__dataclass_fields__)
    settings = given.load(Settings, "gateway", elsewhere=frozenset({"upstream"}))
    # The two options of `serve` stand in the backend's table.
    own_table = {name: value for name, value in given.tables.get("backend", {}).items() if name in own_names}
    own = dataclasses.replace(given, tables={"backend": own_table}).load(ServeSettings, "backend")
    backend = _for_both(given).load(BackendSettings, "backend", elsewhere=frozenset({"host", "port"}) | own_names)
    with _backend_port(own.backend_port) as port:
        backend = dataclasses.replace(
            backend,
            port=port,
            drain=settings.drain,
            # Without a key of the user's, one for both: the same chat is the same word in both parts' lines.
            log_key=settings.log_key or secrets.token_hex(),
        )
        settings = dataclasses.replace(settings, upstream=(f"http://{backend.host}:{port}",), log_key=backend.log_key)
        logs.setup(settings)
        inherited = {name: value for name, value in environ.items() if not name.startswith("MOORLINE_")}
        return run(serve.serve(settings, {**inherited, **variables(backend)}, reload=own.reload))


def _for_both(given: Given) -> Given:
    """What stands in [gateway] under a name of both parts, in [backend] too where that has none of its own.

    Flags and variables reach both parts. Nobody who lets a page in at the gateway wants the backend behind it to
    refuse that page.
    """
    shared = {name: value for name, value in given.tables.get("gateway", {}).items() if name in specs(CommonSettings)}
    return dataclasses.replace(
        given, tables={**given.tables, "backend": shared | dict(given.tables.get("backend", {}))}
    )


@contextlib.contextmanager
def _backend_port(wanted: int | None) -> Iterator[int]:
    """A port that is kept for the backend; UsageError where the user insists on one that is taken."""
    with contextlib.ExitStack() as kept:
        try:
            asked = _BACKEND_PORT if wanted is None else wanted
            port = kept.enter_context(reserved("127.0.0.1", asked, option="backend_port"))
        except UsageError:
            if wanted is not None:
                raise
            port = kept.enter_context(reserved("127.0.0.1", 0))
        yield port


def _gateway(argv: list[str], environ: Mapping[str, str]) -> int:
    given = read(GATEWAY, argv, environ=environ, others=(BackendSettings, ServeSettings), elsewhere=_CHECK_OPTIONS)
    settings = given.load(Settings, "gateway")
    supervisor = lifeline(environ.get(SUPERVISOR))
    if supervisor is not None:
        role = workers.Role.of(environ.get(WORKER, ""))
        logs.setup(settings, worker=role.number)
        return run(workers.work(settings, role, supervisor))
    logs.setup(settings)
    return run(server.run(settings) if settings.workers == 1 else workers.run(settings, environ))


def _backend(argv: list[str], environ: Mapping[str, str]) -> int:
    # Its libraries are not read for the other commands.
    from moorline.backend import program

    return program.run_backend(argv, environ)


def _check(argv: list[str], environ: Mapping[str, str]) -> int:
    given = read(CHECK, argv, environ=environ, others=(Settings, BackendSettings, ServeSettings))
    settings = given.load(Settings, "gateway")
    own = given.load(CheckSettings, "check")
    if given.arguments:
        # Somebody else's gateway; where its backend is, and whether it can be reached from here, is not known.
        return run(check.check(given.arguments[0], own.backend or None, backend_is_named=True))
    url = f"http://{_reached_at(settings.host)}:{settings.port}"
    return run(check.check(url, own.backend or settings.upstream[0], backend_is_named=bool(own.backend)))


def _reached_at(host: str) -> str:
    """The host of an address that reaches what listens on `host` of this machine."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


_COMMANDS: dict[str, Callable[[list[str], Mapping[str, str]], int]] = {
    "serve": _serve,
    "gateway": _gateway,
    "backend": _backend,
    "check": _check,
}
