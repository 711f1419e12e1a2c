"""The name of a request's route, which holds no id of a patient or a session."""

import functools

from aiohttp import web

from moorline.gateway.common.web.aiohttp_private import route_of

__all__ = ["describe"]


def describe(request: web.Request) -> str:
    """The route of a request, for a log that must not name patients and sessions: `/api/chat/{session_id}/messages`."""
    return _name(route_of(request))


# Of the few that an application has; those of errors are made anew for each request.
@functools.lru_cache(maxsize=64)
def _name(route: web.AbstractRoute) -> str:
    return route.resource.canonical if route.resource is not None else "(no route)"
