"""One gateway for each set of options on standard input, all in this process; their ports on standard output.

As nginx serves every row from one process, and as nginx is apart from the test's own process: what the test is busy
with does not delay the gateway. It ends with its standard input.
"""

import asyncio
import contextlib
import json
import logging
import sys
from typing import Any

from moorline.gateway.app import create_app
from moorline.gateway.common.loop import run
from moorline.gateway.common.web import server
from moorline.gateway.settings import Settings

_EVERYBODY: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "allowed_origins": ("*",), "drain": 0.5}


async def main() -> None:
    async with contextlib.AsyncExitStack() as running:
        ports = []
        for options in json.loads(sys.stdin.readline()):
            options["upstream"] = tuple(options["upstream"])
            settings = Settings(**{**_EVERYBODY, **options})
            started = await running.enter_async_context(server.running(create_app(settings), settings))
            ports.append(started.port)
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    run(main())
