"""Asking the other workers of this gateway, where there are any."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from moorline.gateway.keys import SIBLINGS
from moorline.gateway.siblings import Answers

__all__ = ["ask_others"]


async def ask_others(app: web.Application, message: Mapping[str, Any], *, seconds: float) -> Answers:
    """What they say, within so many seconds."""
    return await app[SIBLINGS].ask(message, seconds=seconds) if SIBLINGS in app else Answers()
