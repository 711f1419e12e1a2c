"""A path fits the template that aiohttp's router would choose for it."""

from collections.abc import Sequence

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from moorline.gateway.proxy.templates import Templates

TEMPLATES = (
    "/api/chat/{session_id}/messages",
    "/api/chat/{session_id}",
    "/ws/{path:.*}",
    "/docs",
    "/{path:.*}",
    "/api/{path:.*}",
    "/chat/{patient_id}",
)
PATHS = (
    "/api/chat/s1/messages",
    "/api/chat/s1",
    "/api/chat/s1/more",
    "/api/chat/",
    "/api/",
    "/api//x",
    "/ws/chat/p1/s1",
    "/chat/p1",
    "/chat/p1/s1",
    "/ws",
    "/docs",
    "/docs/",
)


@pytest.mark.parametrize("templates", [TEMPLATES, TEMPLATES[::-1], TEMPLATES[:4]])
@pytest.mark.parametrize("path", PATHS)
async def test_a_path_fits_the_template_that_the_router_chooses(path: str, templates: Sequence[str]) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise NotImplementedError

    app = web.Application()
    routes = [app.router.add_route("*", template, handler) for template in templates]
    chosen = (await app.router.resolve(make_mocked_request("GET", path))).route
    place = Templates(templates).find(path)
    assert (chosen if chosen in routes else None) is (None if place is None else routes[place])


def test_without_templates_no_path_fits() -> None:
    assert Templates(()).find("/api/") is None
