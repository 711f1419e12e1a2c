"""What `serve` runs for `--frontend-command` and `--backend-command`, as children of its supervisor.

`PORT` is what most servers listen at without an option. Those that do not know it announce their own address: the
front end's is followed; the backend's has to be `upstream`.
"""

import contextlib
import dataclasses
import socket
import sys
from collections.abc import Callable, Iterator, Mapping

from moorline.gateway.run.announced import port_of
from moorline.gateway.run.command import NOT_FOUND, UserCommand
from moorline.gateway.run.supervisor import Child, SpawnExtras
from moorline.gateway.settings import Settings

__all__ = ["CommandCallbacks", "backend_command", "free_port", "frontend_command"]

# A dev server has nothing to complete; an editor's save may have it busy.
_FRONTEND_STOP_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommandCallbacks:
    """What is called as the command of the front end or the backend starts and ends."""

    on_ready: Callable[[str], None]
    """With its address."""
    on_failed_start: Callable[[], None]
    expect: Callable[[bool], None]
    """With whether it may listen soon."""


def frontend_command(
    line: str,
    settings: Settings,
    environ: Mapping[str, str],
    callbacks: CommandCallbacks,
    *,
    follows_output: bool,
) -> Child:
    """The front end's dev server, which serves at `frontend` or, with `follows_output`, where it says that it does."""
    command = UserCommand(
        option="frontend_command",
        label="frontend",
        line=line,
        address=settings.frontend,
        follows_output=follows_output,
        log_format=settings.log_format,
    )
    drain = min(settings.drain, _FRONTEND_STOP_SECONDS)
    return _child("the front end", command, environ, drain, callbacks)


def backend_command(
    line: str,
    settings: Settings,
    environ: Mapping[str, str],
    callbacks: CommandCallbacks,
) -> Child:
    """A backend of the user's, which serves at the first `upstream`."""
    command = UserCommand(
        option="backend_command",
        label="backend",
        line=line,
        address=settings.upstream[0],
        follows_output=False,
        log_format=settings.log_format,
    )
    return _child("the backend", command, environ, settings.drain, callbacks)


def free_port() -> int:
    """A port of this machine that no program has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _child(
    name: str,
    command: UserCommand,
    environ: Mapping[str, str],
    drain: float,
    callbacks: CommandCallbacks,
) -> Child:
    lives = _Lives(callbacks.expect)

    def is_ready(facts: Mapping[str, str]) -> None:
        lives.is_ready = True
        callbacks.on_ready(facts["address"])

    return Child(
        name=name,
        command="command",
        message={"command": command},
        environ=_environ(environ, port_of(command.address)),
        drain=drain,
        on_ready=is_ready,
        on_failed_start=callbacks.on_failed_start,
        spawn_context=lives.life,
        refusals=NOT_FOUND,
    )


class _Lives:
    """Calls `expect` at the beginning of each life, and at the end of one that did not become ready: the next one may
    end as that did."""

    def __init__(self, expect: Callable[[bool], None]) -> None:
        self._expect = expect
        self.is_ready = False
        """In the present life."""

    @contextlib.contextmanager
    def life(self) -> Iterator[SpawnExtras]:
        self.is_ready = False
        self._expect(True)
        try:
            yield SpawnExtras()
        finally:
            if not self.is_ready:
                self._expect(False)


def _environ(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Programs see a pipe in place of the terminal: they would keep lines back, and leave colours out."""
    added = {"PORT": str(port), "PYTHONUNBUFFERED": "1"}
    if sys.stderr.isatty() and "NO_COLOR" not in environ:
        added["FORCE_COLOR"] = environ.get("FORCE_COLOR", "1")
    return {**environ, **added}
