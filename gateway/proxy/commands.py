"""Upstreams that `moorline serve` starts by a command: `--backend-command` and `--frontend-command`.

Their requests are held while the command starts, as at its restart after a crash. One that ends at its start may do so
until a person has corrected it: then nothing waits, and what waited is answered at once.
"""

from aiohttp import web

from moorline.gateway.keys import ROUTES, SETTINGS, UPSTREAMS
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.upstreams import Upstreams

__all__ = ["expect", "set_commands"]


def set_commands(app: web.Application) -> None:
    """Have the upstreams of the application know the commands that serve there."""
    settings = app[SETTINGS]
    app[UPSTREAMS].command = settings.backend_command
    if (frontend := app[ROUTES].frontend) is not None:
        frontend.upstreams.command = settings.frontend_command


def expect(app: web.Application, owner: Owner, *, expected: bool) -> None:
    """Whether the command of the backend or the front end may listen soon."""
    upstreams = _upstreams(app, owner)
    if upstreams is None or upstreams.is_expected is expected:
        return
    upstreams.is_expected = expected
    if not expected:
        app[RETRY_QUEUES][upstreams].wake_all()


def _upstreams(app: web.Application, owner: Owner) -> Upstreams | None:
    if owner is Owner.BACKEND:
        return app[UPSTREAMS]
    frontend = app[ROUTES].frontend
    return None if frontend is None else frontend.upstreams
