"""/docs and /openapi.json, made from the definitions that the backend parses and encodes by. Pure."""

import dataclasses
import functools
import html
import typing
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue

from moorline.backend.errors import CATALOGUE, CloseCode
from moorline.backend.parts import Data, Source, Status
from moorline.backend.protocol.codec import adapter, type_of
from moorline.backend.protocol.http import OPERATIONS, Operation
from moorline.backend.protocol.models import CLIENT, ID, SERVER, SOCKET_PATH, Id, MessageRow, Problem

__all__ = ["docs_page", "openapi_document"]

_VERSION = "2"
_REF = "#/components/schemas/{model}"
_MODELS = list(
    dict.fromkeys(
        [*CLIENT, *SERVER, Source, Status, Data, Id, Problem]
        + [model for each in OPERATIONS for model in (each.query, each.body, each.answer) if model is not None]
    )
)


class _Generate(GenerateJsonSchema):
    """A member that is None is left out, so no schema has null; a member has no title beside its name."""

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@functools.cache
def _schemas() -> tuple[dict[str, JsonSchemaValue], dict[Any, JsonSchemaValue]]:
    """The schemas by name, and of each model where to find its own."""
    mode: JsonSchemaMode = "validation"
    found, document = adapter(Id).json_schemas(
        [(number, mode, adapter(model)) for number, model in enumerate(_MODELS)],
        ref_template=_REF,
        schema_generator=_Generate,
    )
    schemas = document["$defs"]
    for model in filter(_is_message, _MODELS):
        # Constants have defaults, but are always in the JSON.
        required = [each.name for each in dataclasses.fields(model) if each.default is not None]
        schemas[model.__name__]["required"] = required
    return schemas, {model: found[number, mode] for number, model in enumerate(_MODELS)}


def _is_message(model: object) -> bool:
    return dataclasses.is_dataclass(model)


def _members(model: type[Any]) -> Iterable[tuple[str, JsonSchemaValue, bool]]:
    """Name, schema and whether it must be there, of each member but `type`."""
    schema = _schemas()[0][model.__name__]
    required = schema.get("required", ())
    return [(name, each, name in required) for name, each in schema["properties"].items() if name != "type"]


# /openapi.json --------------------------------------------------------------------------------------------------------


@functools.cache
def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1. It cannot describe WebSockets: the socket is a GET that switches protocols, with its messages."""
    paths: dict[str, dict[str, Any]] = {SOCKET_PATH: {"get": _socket_operation()}}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "moorline chat", "version": _VERSION},
        "paths": paths,
        "components": {"schemas": _schemas()[0]},
    }


def _socket_operation() -> dict[str, Any]:
    refs = _schemas()[1]
    return {
        "summary": "The chat's WebSocket: text frames, one JSON object each.",
        "parameters": _path_parameters(SOCKET_PATH),
        "responses": {"101": {"description": "Switching to WebSocket"}, "default": _problem_response()},
        "x-websocket": {
            "client": [refs[model] for model in CLIENT],
            "server": [refs[model] for model in SERVER],
            "close_codes": {str(int(code)): code.name.lower() for code in CloseCode},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": operation.meaning}
    if operation.answer is not None:
        answer["content"] = {"application/json": {"schema": _schemas()[1][operation.answer]}}
    query = () if operation.query is None else _members(operation.query)
    shown: dict[str, Any] = {
        "summary": operation.meaning,
        "parameters": _path_parameters(operation.path)
        + [{"name": name, "in": "query", "required": required, **_described(each)} for name, each, required in query],
        "responses": {str(operation.status): answer, "default": _problem_response()},
    }
    if operation.body is not None:
        schema = _schemas()[1][operation.body]
        shown["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schema}},
        }
    return shown


def _described(member: JsonSchemaValue) -> dict[str, Any]:
    """A parameter's description stands beside its schema."""
    schema = {name: each for name, each in member.items() if name != "description"}
    return {"description": member["description"], "schema": schema}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _schemas()[1][Id]}
        for name in ("patient_id", "session_id")
        if f"{{{name}}}" in path
    ]


def _problem_response() -> dict[str, Any]:
    return {
        "description": "A refusal, RFC 9457, with its code",
        "content": {"application/problem+json": {"schema": _schemas()[1][Problem]}},
    }


# /docs ----------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: .5rem 0 1.5rem }
th, td { border: 1px solid #8888; padding: .3rem .6rem; text-align: left; vertical-align: top }
code { font-family: ui-monospace, monospace }
p code, h2 code { overflow-wrap: anywhere }
td:first-child code { white-space: nowrap }
td:nth-child(n+3) { min-width: 12rem }
"""


@functools.cache
def docs_page() -> str:
    """The documentation as one page, readable without JavaScript."""
    row = ", ".join(_shown_name(name, required=required) for name, _, required in _members(MessageRow))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>moorline chat: the interface</title><style>{_STYLE}</style></head>
<body>
<h1>moorline chat: the interface</h1>
<p>Machine-readable: <a href="/openapi.json"><code>/openapi.json</code></a></p>
<h2>WebSocket <code>{SOCKET_PATH}</code></h2>
<p>Text frames, one JSON object each. Ids match <code>{html.escape(ID)}</code>. A socket speaks version 1 until its
first frame is a version 2 <code>hello</code>. A client that sends no frame within a second is taken to speak version 1
until then, so a client of version 2 ignores frames before the <code>hello</code> that answers its own.</p>
<h3>Client to server</h3>
{_message_table(CLIENT)}
<h3>Server to client</h3>
{_message_table(SERVER)}
<h3>Close codes</h3>
{_table(("code", "meaning"), ((_code(int(code)), code.name.replace("_", " ").lower()) for code in CloseCode))}
<h2>HTTP</h2>
<p>Bodies are <code>application/json</code>; errors are <code>application/problem+json</code> with a code from the
list below. A row is <code>{{{row}}}</code>.</p>
{_table(("request", "members", "answer"), map(_http_row, OPERATIONS))}
<h2>Error codes</h2>
{_table(("code", "HTTP", "retryable", "meaning"), _error_rows())}
</body>
</html>
"""


def _message_table(messages: dict[type[Any], tuple[int, ...]]) -> str:
    rows = (
        (
            _code(type_of(model) or '{"message": …}'),
            ", ".join(map(str, versions)),
            _member_list(model),
            html.escape(model.__doc__ or ""),
        )
        for model, versions in messages.items()
    )
    return _table(("type", "version", "members", "meaning"), rows)


def _http_row(operation: Operation) -> tuple[str, ...]:
    members = [_member_list(model) for model in (operation.query, operation.body) if model is not None]
    answers = filter(_is_message, typing.get_args(operation.answer) or (operation.answer,))
    shown = [_code("{" + ", ".join(name for name, _, _ in _members(answer)) + "}") for answer in answers]
    return (
        _code(f"{operation.method.upper()} {operation.path}"),
        "<br>".join(members),
        " ".join([html.escape(operation.meaning), str(operation.status), *shown]),
    )


def _member_list(model: type[Any]) -> str:
    return "<br>".join(
        f"{_code(_shown_name(name, required=required))}: {html.escape(_meaning(each))}"
        for name, each, required in _members(model)
    )


def _shown_name(name: str, *, required: bool) -> str:
    return name if required else f"{name}?"


def _meaning(member: JsonSchemaValue) -> str:
    return str(member.get("description") or member.get("const", ""))


def _error_rows() -> Iterable[tuple[str, ...]]:
    for code, (status, retryable, message) in CATALOGUE.items():
        yield _code(code), str(status), "yes" if retryable else "no", html.escape(message)


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _code(text: object) -> str:
    return f"<code>{html.escape(str(text))}</code>"
