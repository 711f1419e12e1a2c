"""The documentation names everything that the backend speaks."""

import html
import json
import re
from typing import Any

import pytest

from moorline.backend.app import create_app
from moorline.backend.errors import ErrorCode
from moorline.backend.protocol.codec import type_of
from moorline.backend.protocol.docs import docs_page, openapi_document
from moorline.backend.protocol.models import CLIENT, SERVER, SOCKET_PATH, MessageEvent, Send
from moorline.backend.settings import Settings
from tests.support.backends import Script

SCHEMAS = openapi_document()["components"]["schemas"]


@pytest.mark.parametrize("message", [*CLIENT, *SERVER], ids=lambda message: message.__name__)
def test_the_page_names_every_message_and_its_members(message: type[Any]) -> None:
    page = html.unescape(docs_page())
    assert (message.__doc__ or "without a meaning") in page
    assert type_of(message) in page
    for name, member in SCHEMAS[message.__name__]["properties"].items():
        assert name in page
        assert member.get("description", "") in page


def test_the_page_names_the_sockets_path_and_needs_no_script() -> None:
    assert SOCKET_PATH in docs_page()
    assert "<script" not in docs_page()


def test_the_page_names_every_error_code() -> None:
    assert all(f"<code>{code}</code>" in docs_page() for code in ErrorCode)


def test_openapi_lists_the_socket_and_a_schema_for_each_message() -> None:
    document = openapi_document()
    messages = document["paths"][SOCKET_PATH]["get"]["x-websocket"]
    assert (len(messages["client"]), len(messages["server"])) == (len(CLIENT), len(SERVER))


def test_every_reference_in_openapi_leads_somewhere() -> None:
    document = openapi_document()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])


def test_openapi_says_which_members_are_always_there_and_none_may_be_null() -> None:
    assert SCHEMAS[Send.__name__]["required"] == ["type", "message", "client_msg_id"]
    assert set(SCHEMAS[MessageEvent.__name__]["properties"]) - set(SCHEMAS[MessageEvent.__name__]["required"]) == {
        "error",
        "parts",
        "usage",
    }
    assert '"null"' not in json.dumps(SCHEMAS)


async def test_openapi_lists_every_route_of_the_backend() -> None:
    app = create_app(Settings(), responder=Script())
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    paths = openapi_document()["paths"]
    listed = {(method, path) for path, operations in paths.items() for method in operations}
    assert served - listed == {("get", "/docs"), ("get", "/openapi.json")}
    assert listed <= served
