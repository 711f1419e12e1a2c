"""/-/faults: arm, list and end the faults of a gateway with the option `faults`, in all its workers."""

import contextlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from moorline.gateway.common.errors import UsageError
from moorline.gateway.errors import Unavailable
from moorline.gateway.inspector.others import ask_others
from moorline.gateway.inspector.viewers import check_control
from moorline.gateway.keys import LIVE_FAULTS

__all__ = ["add_faults", "answer", "arm_as_others", "merged"]

_SECONDS = 2.0
_NO_STORE = {"Cache-Control": "no-store"}
_OFF = "Faults are off here; start the gateway with --faults, in development and tests alone."


def add_faults(app: web.Application) -> None:
    """Add its addresses to the gateway's."""
    app.router.add_get("/-/faults", list_faults)
    app.router.add_post("/-/faults", arm)
    app.router.add_delete("/-/faults", disarm_all)
    app.router.add_delete("/-/faults/{id}", disarm)


async def list_faults(request: web.Request) -> web.Response:
    """The catalogue, and what is armed, each with how many connections have met it."""
    _check(request)
    from moorline.gateway.faults.live import catalogue

    others = await ask_others(request.app, {"faults": None}, seconds=_SECONDS)
    armed = merged([request.app[LIVE_FAULTS].armed(), *others.bodies])
    return web.json_response({"catalogue": catalogue(), "armed": armed, "silent": others.silent}, headers=_NO_STORE)


async def arm(request: web.Request) -> web.Response:
    """One fault, from now on; see `LiveFaults.arm`."""
    _check(request)
    try:
        wanted = json.loads(await request.text())
        if not isinstance(wanted, dict):
            raise UsageError('write an object, for example {"fault": "reset"}')
        wanted = {**wanted, "id": secrets.token_hex(4)}
        armed = request.app[LIVE_FAULTS].arm(wanted)
    except (UsageError, ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    others = await ask_others(request.app, {"arm": wanted}, seconds=_SECONDS)
    if not all(others.bodies):
        # A connection would meet it or not by the worker that it came to.
        request.app[LIVE_FAULTS].disarm(wanted["id"])
        await ask_others(request.app, {"disarm": wanted["id"]}, seconds=_SECONDS)
        raise Unavailable("A worker could not arm it, and its log says why; it is armed in none.")
    return web.json_response({**armed, "silent": others.silent}, status=201, headers=_NO_STORE)


async def disarm(request: web.Request) -> web.Response:
    """End one fault; what it held back is passed on."""
    _check(request)
    wanted = request.match_info["id"]
    was_armed = request.app[LIVE_FAULTS].disarm(wanted)
    others = await ask_others(request.app, {"disarm": wanted}, seconds=_SECONDS)
    if not (was_armed or any(others.bodies)):
        raise web.HTTPNotFound(text="No such fault is armed.")
    return web.Response(status=204)


async def disarm_all(request: web.Request) -> web.Response:
    """End all of them."""
    _check(request)
    _disarm_all(request.app)
    await ask_others(request.app, {"disarm_all": None}, seconds=_SECONDS)
    return web.Response(status=204)


async def arm_as_others(app: web.Application) -> None:
    """Arm what the other workers have armed: this one may be started in the place of one that had it."""
    others = await ask_others(app, {"faults": None}, seconds=_SECONDS)
    for each in merged(others.bodies):
        with contextlib.suppress(UsageError):
            app[LIVE_FAULTS].arm({name: value for name, value in each.items() if name != "met"})


def answer(app: web.Application, message: Mapping[str, Any]) -> Any:
    """What another worker asks, or the parent at a reload: the same, of this one alone."""
    faults = app[LIVE_FAULTS]
    match message:
        case {"faults": _}:
            return list(faults.armed())
        case {"lasting_faults": _}:
            return list(faults.lasting())
        case {"arm": wanted}:
            return faults.arm(wanted)
        case {"disarm": wanted}:
            return faults.disarm(wanted)
        case _:
            return _disarm_all(app)


def merged(of_all: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What is armed, each once, with the connections of all workers."""
    found: dict[str, dict[str, Any]] = {}
    for each in (each for of_one in of_all for each in of_one or ()):
        met = found.get(each["id"], {"met": 0})["met"]
        found[each["id"]] = {**each, "met": met + each["met"]}
    return list(found.values())


def _disarm_all(app: web.Application) -> bool:
    faults = app[LIVE_FAULTS]
    for each in faults.armed():
        faults.disarm(each["id"])
    return True


def _check(request: web.Request) -> None:
    check_control(request)
    if LIVE_FAULTS not in request.app:
        raise web.HTTPForbidden(text=_OFF)
