"""The other end of the line to a supervisor, in the process that it keeps alive: see `gateway/run/supervisor.py`."""

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Mapping

from moorline.gateway.common.config.commandline import SUPERVISOR
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.server import Running

__all__ = ["lifeline", "supervised"]


log = logging.getLogger("moorline.supervised")


def lifeline(text: str | None) -> int | None:
    """The descriptor of the socket to the supervisor; None without one."""
    if text is None:
        return None
    try:
        if stat.S_ISSOCK(os.fstat(int(text)).st_mode):
            return int(text)
    except (ValueError, OverflowError, OSError):
        pass
    raise UsageError(f'{SUPERVISOR}: "{text}" is no socket of moorline serve, which alone sets it; unset it')


async def supervised(started: Running, facts: Mapping[str, str], stop: asyncio.Event, number: int) -> None:
    """Report to the supervisor; wait for a signal, or for the end of the line, which asks to end at once."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
    try:
        writer.write(json.dumps(facts).encode() + b"\n")
        stopped, gone = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(_end_of_file(reader))
        await asyncio.wait([stopped, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            log.info("the connection to the parent process has ended: ending at once")
            started.draining.begin(0)
        for future in (stopped, gone):
            future.cancel()
    finally:
        writer.close()


async def _end_of_file(reader: asyncio.StreamReader) -> None:
    try:
        await reader.read()
    except OSError:
        # A killed supervisor may have left our report unread: the kernel then says reset instead of end of file.
        return
