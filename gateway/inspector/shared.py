"""What one gateway process tells of its sockets, and what all workers of one gateway tell together."""

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from moorline.gateway.common.web.server import begin_drain
from moorline.gateway.inspector import faults
from moorline.gateway.inspector.others import ask_others
from moorline.gateway.inspector.rows import Row, ended_row, open_row, sentence
from moorline.gateway.keys import DRAINING, GATEWAY_ID, LIVE_FAULTS, ROUTES, SIBLINGS
from moorline.gateway.proxy.commands import expect
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.tunnels import TUNNELS

__all__ = ["View", "all_views", "answering", "end_of", "own_view"]

# A worker that hangs is shown as silent, and does not hold up the others for longer.
_VIEW_SECONDS = 1.0
# From what a client sees of an end to the gateway's own: the other connection is closed, too.
_END_SECONDS = 2.0


async def answering(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that answers the other workers."""
    if SIBLINGS not in app:
        yield
        return
    async with app[SIBLINGS].answering(functools.partial(_answer, app)):
        if LIVE_FAULTS in app:
            await faults.arm_as_others(app)
        yield


async def _answer(app: web.Application, message: Mapping[str, Any]) -> Any:
    match message:
        case {"view": start, "since": since}:
            return dataclasses.asdict(own_view(app, start, since))
        case {"end": request_id}:
            return await _own_end(app, request_id)
        case {"frontend": address}:
            return app[ROUTES].move_frontend(address)
        case {"drain": seconds}:
            return begin_drain(app[DRAINING], seconds)
        case {"owner": owner, "expected": expected}:
            return expect(app, Owner[owner], expected=expected)
        case _:
            return faults.answer(app, message)


# One view of all sockets ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What one process sees."""

    gateway: str
    """Its id, new at each start: by it the ends are counted."""
    open: list[Row]
    ended: list[Row]
    upstreams: list[Row]
    faults: list[Row] | None
    """What is armed; None without the option `faults`."""


def own_view(app: web.Application, start: float, since: Mapping[str, int]) -> View:
    """All open sockets, and those that ended `since` these numbers. `start` is a time on the loop's clock, which all
    processes of a machine share.
    """
    tunnels, now = app[TUNNELS], asyncio.get_running_loop().time()
    own = app[GATEWAY_ID]
    return View(
        gateway=own,
        open=[dict(open_row(socket, tunnel, start)) for socket, tunnel in tunnels.open_sockets()],
        ended=[dict(ended_row(each, start)) for each in tunnels.ends.since(since.get(own, 0))],
        upstreams=[
            {"url": each.url, "connections": each.connections, "down": group.is_down(each, now)}
            for group in app[ROUTES].upstreams
            for each in group
        ],
        faults=list(app[LIVE_FAULTS].armed()) if LIVE_FAULTS in app else None,
    )


async def all_views(app: web.Application, start: float, since: Mapping[str, int]) -> tuple[list[View], int]:
    """What each worker sees, and how many of them did not answer."""
    answers = await ask_others(app, {"view": start, "since": since}, seconds=_VIEW_SECONDS)
    return [own_view(app, start, since), *(View(**body) for body in answers.bodies if body)], answers.silent


# One end --------------------------------------------------------------------------------------------------------------


async def end_of(app: web.Application, request_id: str) -> Row | None:
    """Why this socket ended, whichever worker had it; waits for an end that is under way."""
    found = await _own_end(app, request_id)
    if found is None:
        answers = await ask_others(app, {"end": request_id}, seconds=_END_SECONDS + _VIEW_SECONDS)
        found = next((body for body in answers.bodies if body), None)
    return found


async def _own_end(app: web.Application, request_id: str) -> Row | None:
    tunnels, clock = app[TUNNELS], asyncio.get_running_loop().time
    until = clock() + _END_SECONDS
    while (found := tunnels.ends.find(request_id)) is None and clock() < until and tunnels.holds(request_id):
        await tunnels.ends.next(until - clock())
    return None if found is None else dict(sentence(found))
