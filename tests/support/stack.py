"""The whole in this process on free ports: a backend, and a gateway in front of it.

async with stack(tmp_path) as started:
    started.script.put("Good ", "morning.", None)
    async with socket(started.gateway) as client:
        ...
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from moorline.backend.responder import Answer
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support.backends import Script, backend

__all__ = ["SOCKET", "Stack", "socket", "stack"]

SOCKET = "/ws/chat/patient:demo/s1"


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """Where both parts listen, and what the model says next, where no other responder is given."""

    gateway: str
    backend: str
    script: Script


@contextlib.asynccontextmanager
async def stack(
    folder: Path,
    *,
    gateway: dict[str, Any] | None = None,
    backend_options: dict[str, Any] | None = None,
    responder: Answer | None = None,
) -> AsyncIterator[Stack]:
    """A backend with its database in `folder`, and a gateway; both with options of their own."""
    script = Script()
    async with backend(folder, responder or script, **{"drain": 0.2, **(backend_options or {})}) as behind:
        settings = Settings(
            **{"host": "127.0.0.1", "port": 0, "upstream": (behind.http,), "drain": 2.0, **(gateway or {})}
        )
        async with server.running(settings) as front:
            yield Stack(front.addresses[0], behind.http, script)


def socket(url: str, path: str = SOCKET, **options: Any) -> connect:
    """A WebSocket client that is not ours, on the server at `url` (http or https)."""
    return connect(url.replace("http", "ws", 1) + path, **{"ping_interval": None, "proxy": None, **options})
