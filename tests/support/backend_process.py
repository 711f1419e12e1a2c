"""A backend as a process of its own, which a test may kill, on a database that stays."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.support.openai_server import OpenAIServer
from tests.support.process import Program, started

__all__ = ["BackendProcess", "backend_process"]


class BackendProcess:
    """Where it listens, and the process itself."""

    def __init__(self, http: str, program: Program) -> None:
        self.http = http
        self.program = program

    def socket(self, session: str = "s1", patient: str = "patient:demo", **options: Any) -> connect:
        """A client of another make."""
        url = f"{self.http.replace('http', 'ws', 1)}/ws/chat/{patient}/{session}"
        return connect(url, ping_interval=None, proxy=None, **options)


@contextlib.asynccontextmanager
async def backend_process(folder: Path, model: OpenAIServer, *arguments: str) -> AsyncIterator[BackendProcess]:
    """`moorline backend` with its database in `folder`, asking `model`."""
    environ = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": model.base_url}
    async with started("moorline", "backend", "--port", "0", *arguments, cwd=folder, env=environ) as program:
        address = re.search(r"http://[\d.]+:\d+", await program.line("backend", "http://"))
        assert address is not None
        yield BackendProcess(address[0], program)
