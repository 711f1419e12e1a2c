"""The configuration, read again while the program runs: by a process of its own.

That process is started as the program was, with the same arguments and environment, and with the code as it is
installed now: what it accepts, the next processes of the gateway accept. It also makes the application, and with it
loads the user's own modules, which this process may have in an older form.
"""

import asyncio
import contextlib
import logging
import pickle
import socket
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from moorline.gateway.common.config.options import changed
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.supervised import SUPERVISOR, Parent, packed
from moorline.gateway.run.supervisor import module_command

__all__ = ["Configuration", "answer"]

log = logging.getLogger("moorline.supervisor")

#: From a command, its arguments and the environment to the settings of each section, by class.
Configured = Callable[[str, Sequence[str], MutableMapping[str, str]], Mapping[type[Any], Any]]

_LENGTH = 8
# Where a hook of the user's does not return at its import.
_SECONDS = 60.0
_COMMAND = "configuration"


class Configuration:
    """How the program was started."""

    def __init__(self, command: str, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._command = command
        self._argv = list(argv)
        self._environ = dict(environ)

    async def read(self) -> dict[type[Any], Any]:
        """The settings of each section, by class.

        Raises:
            UsageError: they cannot be used, or the installed version does not start.
            OSError: the system has no process or descriptor left.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *module_command(_COMMAND),
                    env={**self._environ, SUPERVISOR: str(theirs.fileno())},
                    stdin=DEVNULL,
                    stderr=PIPE,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            writer.write(packed({"command": self._command, "argv": self._argv}))
            async with asyncio.timeout(_SECONDS):
                answered, (_, said) = await asyncio.gather(_answer(reader), process.communicate())
        except TimeoutError:
            raise UsageError(f"the configuration was not read within {_SECONDS:g}s") from None
        finally:
            writer.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        *lines, last = said.decode(errors="replace").strip().split("\n")
        if answered is None:
            raise UsageError(last.removeprefix("moorline: ") or f"status {process.returncode}")
        for line in filter(None, [*lines, last]):
            # As at a start: an option that counts for nothing, or a gateway that is open to all.
            log.warning("%s", line.removeprefix("moorline: warning: "))
        try:
            return {kind: kind(**fields) for kind, fields in pickle.loads(answered)["sections"]}
        except (AttributeError, ImportError, TypeError) as error:
            # A class that was moved, or an option that this version lacks.
            raise UsageError(f"the installed version cannot be started by the running one: {error}") from None


async def _answer(reader: asyncio.StreamReader) -> bytes | None:
    """None where it has ended without one."""
    try:
        size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def answer(parent: Parent, environ: MutableMapping[str, str], configured: Configured) -> int:
    """Be the process that reads, as the command line does; the exit status."""
    from moorline.gateway.app import create_app
    from moorline.gateway.run.commands import BackendSettings, ServeSettings, Settings

    message = parent.receive()
    sections = configured(message["command"], message["argv"], environ)
    # As it is served, so that what would end a worker, or the backend at its start, ends this process instead.
    create_app(sections[Settings])
    if ServeSettings in sections and not sections[ServeSettings].backend_command:
        from moorline.backend.app import create_app as create_backend

        create_backend(sections[BackendSettings])
    parent.send({"sections": [(kind, changed(settings)) for kind, settings in sections.items()]})
    return 0
