"""The documentation names everything that the backend speaks."""

import html
import json
import re

import pytest
from moorline.backend.errors import ErrorCode
from moorline.backend.protocol.docs import docs_page, openapi_document
from moorline.backend.protocol.messages import CLIENT, SERVER, SOCKET_PATH, Message


@pytest.mark.parametrize("message", [*CLIENT, *SERVER], ids=lambda message: message.type)
def test_the_page_names_every_message_and_its_members(message: Message) -> None:
    page = html.unescape(docs_page())
    assert message.meaning in page
    assert all(field.name in page for field in message.fields)


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
