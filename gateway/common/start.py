"""What every program of moorline prints when it has started."""

import asyncio
import sys
from collections.abc import Mapping

from moorline import __version__
from moorline.gateway.common import logs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.output import Output

__all__ = ["print_start"]

# Until a reader that had no room is asked again.
_RETRY_SECONDS = 0.1


async def print_start(settings: CommonSettings, facts: Mapping[str, str]) -> None:
    """Print what a person, or with `log_format=json` a program, wants to know once a program accepts connections.

    Return when the reader has it. One that does not read holds up this coroutine alone; a full disk, or a reader that
    has gone, gets nothing.
    """
    output = Output(sys.stdout)
    output.write([f"{_block(settings, facts)}\n"])
    while output.waits:
        await asyncio.sleep(_RETRY_SECONDS)
        output.write([])


def _block(settings: CommonSettings, facts: Mapping[str, str]) -> str:
    if settings.log_format == "json":
        return logs.json_line("started", {"version": __version__, **facts})
    width = max(map(len, facts))
    rows = (f"  {name.ljust(width)}  {fact}" for name, fact in facts.items())
    return "\n".join([f"moorline {__version__}", "", *rows, ""])
