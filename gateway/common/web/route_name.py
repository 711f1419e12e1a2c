"""The name of a request's route, which holds no id of a patient or a session."""

from aiohttp import web

__all__ = ["describe"]


def describe(request: web.Request) -> str:
    """The route of a request, for a log that must not name patients and sessions: `/api/chat/{session_id}/messages`."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(no route)"
