"""A fault of the catalogue between sockets and a server: `python -m tests.support.hop URL FAULT [NAME=VALUE ...]`.

It passes everything on to the server at URL, except what the fault forbids, and prints `passing http://HOST:PORT`.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from tests.support.faults import faulted


async def _main(url: str, fault: str, parameters: Sequence[str]) -> None:
    given = dict(each.split("=", 1) for each in parameters)
    async with faulted(
        url, fault, path="/ws/", **{name: json.loads(value) for name, value in given.items()}
    ) as passing:
        print("passing", passing, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
