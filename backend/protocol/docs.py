"""/docs and /openapi.json, made from the tables that the backend itself runs on. Pure."""

import functools
import html
from collections.abc import Iterable
from typing import Any

from moorline.backend.errors import CATALOGUE, CloseCode
from moorline.backend.protocol.messages import CLIENT, ID, SERVER, SOCKET_PATH, Message

__all__ = ["docs_page", "openapi_document"]

_VERSION = "2"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_ROW_FIELDS = "message_id, role, content, seq, at, run_id?, client_msg_id?, finish?, error?"

# method, path, meaning, answer; the query and the body as (name, JSON type, required, meaning).
_PATIENT = ("patient_id", "string", False, "must be the session's when given")
_HTTP: tuple[tuple[str, str, str, str, tuple[Any, ...], tuple[Any, ...]], ...] = (
    (
        "get",
        "/api/chat/{session_id}/messages",
        "The last rows, oldest first; with after, the socket's events since then.",
        "200",
        (
            ("before", "integer", False, "only rows with a lower seq"),
            ("limit", "integer", False, "at most so many rows, up to 500"),
            ("after", "integer", False, "the seq that the client has; answers {epoch, head, recovered, events}"),
            ("epoch", "string", False, "the epoch of that seq"),
            ("wait", "number", False, "seconds to wait for an event, up to 30"),
            _PATIENT,
        ),
        (),
    ),
    (
        "post",
        "/api/chat/{session_id}/messages",
        "Say something; idempotent by client_msg_id. Answers {seq, run_id, duplicate}.",
        "202",
        (),
        (
            ("patient_id", "string", True, "whose session it is"),
            ("message", "string", True, "the text"),
            ("client_msg_id", "string", True, "a UUID of the client's"),
        ),
    ),
    (
        "post",
        "/api/chat/{session_id}/retry",
        "A new run for the same message. Answers {run_id, duplicate}.",
        "202",
        (),
        (
            ("run_id", "string", True, "the run that failed"),
            ("client_msg_id", "string", True, "a UUID of the client's"),
            _PATIENT,
        ),
    ),
    (
        "post",
        "/api/chat/{session_id}/cancel",
        "End a run; what was written stays.",
        "202",
        (),
        (("run_id", "string", True, "the run"), _PATIENT),
    ),
    ("delete", "/api/chat/{session_id}", "Erase the session everywhere.", "204", (_PATIENT,), ()),
    ("get", "/healthz", "Whether the process lives.", "200", (), ()),
    ("get", "/readyz", "Whether the database answers; the model's last known state is in the body.", "200", (), ()),
)


# /openapi.json --------------------------------------------------------------------------------------------------------


@functools.cache
def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1. It has no words for WebSockets: the socket is a GET that switches protocols, with its messages."""
    paths: dict[str, dict[str, Any]] = {SOCKET_PATH: {"get": _socket_operation()}}
    for method, path, meaning, status, query, body in _HTTP:
        paths.setdefault(path, {})[method] = _operation(path, meaning, status, query, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "moorline chat", "version": _VERSION},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _socket_operation() -> dict[str, Any]:
    return {
        "summary": "The chat's WebSocket: text frames, one JSON object each.",
        "parameters": _path_parameters(SOCKET_PATH),
        "responses": {"101": {"description": "Switching to WebSocket"}, "default": _problem_response()},
        "x-websocket": {
            "client": [_schema_ref("Client", message) for message in CLIENT],
            "server": [_schema_ref("Server", message) for message in SERVER],
            "close_codes": {str(int(code)): code.name.lower() for code in CloseCode},
        },
    }


def _operation(path: str, meaning: str, status: str, query: tuple[Any, ...], body: tuple[Any, ...]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": meaning,
        "parameters": _path_parameters(path)
        + [
            {"name": name, "in": "query", "required": required, "description": words, "schema": {"type": kind}}
            for name, kind, required, words in query
        ],
        "responses": {status: {"description": meaning}, "default": _problem_response()},
    }
    if body:
        schema = {
            "type": "object",
            "required": [name for name, _, required, _ in body if required],
            "properties": {name: {"type": kind, "description": words} for name, kind, _, words in body},
        }
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _path_parameters(path: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "pattern": f"^{ID}$"}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name in ("patient_id", "session_id")
        if f"{{{name}}}" in path
    ]


def _schemas() -> dict[str, Any]:
    problem = {
        "type": "object",
        "required": ["status", "code"],
        "properties": {
            "status": {"type": "integer"},
            "title": {"type": "string"},
            "code": {"type": "string", "enum": [str(code) for code in CATALOGUE]},
            "retryable": {"type": "boolean"},
            "retry_after": {"type": "number"},
        },
    }
    messages = {_schema_name("Client", message): _message_schema(message) for message in CLIENT}
    messages |= {_schema_name("Server", message): _message_schema(message) for message in SERVER}
    return {"Problem": problem, **messages}


def _message_schema(message: Message) -> dict[str, Any]:
    properties: dict[str, Any] = {"type": {"const": message.type}} if message.type else {}
    for field in message.fields:
        kind = {"type": "string", "pattern": f"^{ID}$"} if field.kind == "id" else {"type": field.kind}
        properties[field.name] = {**kind, "description": field.meaning}
    required = [field.name for field in message.fields if field.required]
    return {
        "type": "object",
        "description": message.meaning,
        "required": ["type", *required] if message.type else required,
        "properties": properties,
    }


def _schema_name(side: str, message: Message) -> str:
    return f"{side}V{message.versions[0]}{(message.type or 'say').capitalize()}"


def _schema_ref(side: str, message: Message) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{_schema_name(side, message)}"}


def _problem_response() -> dict[str, Any]:
    return {
        "description": "A refusal, RFC 9457, with its code",
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }


# /docs ----------------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color-scheme: light dark }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { border: 1px solid #8888; padding: .3rem .6rem; text-align: left; vertical-align: top }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
"""


@functools.cache
def docs_page() -> str:
    """The documentation as one page, readable without JavaScript."""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>moorline chat: the interface</title><style>{_STYLE}</style></head>
<body>
<h1>moorline chat: the interface</h1>
<p>Machine-readable: <a href="/openapi.json"><code>/openapi.json</code></a></p>
<h2>WebSocket <code>{SOCKET_PATH}</code></h2>
<p>Text frames, one JSON object each. Ids match <code>{html.escape(ID)}</code>. A socket speaks version 1 until its
first frame is a version 2 <code>hello</code>. Who says nothing for a second is
taken to speak version 1 until then, so a client of version 2 passes over what comes before the answering
<code>hello</code>.</p>
<h3>Client to server</h3>
{_message_table(CLIENT)}
<h3>Server to client</h3>
{_message_table(SERVER)}
<h3>Close codes</h3>
{_table(("code", "meaning"), ((_code(int(code)), code.name.replace("_", " ").lower()) for code in CloseCode))}
<h2>HTTP</h2>
<p>Bodies are <code>application/json</code>; errors are <code>application/problem+json</code> with a code from the
list below. A row is <code>{{{_ROW_FIELDS}}}</code>.</p>
{_table(("request", "members", "meaning"), map(_http_row, _HTTP))}
<h2>Error codes</h2>
{_table(("code", "HTTP", "retryable", "meaning"), _error_rows())}
</body>
</html>
"""


def _message_table(messages: Iterable[Message]) -> str:
    rows = (
        (
            _code(message.type or '{"message": …}'),
            ", ".join(map(str, message.versions)),
            "<br>".join(
                f"{_code(field.name + ('' if field.required else '?'))}: {html.escape(field.meaning)}"
                for field in message.fields
            ),
            html.escape(message.meaning),
        )
        for message in messages
    )
    return _table(("type", "version", "members", "meaning"), rows)


def _http_row(row: tuple[str, str, str, str, tuple[Any, ...], tuple[Any, ...]]) -> tuple[str, ...]:
    method, path, meaning, status, query, body = row
    members = "<br>".join(
        f"{_code(name + ('' if required else '?'))}: {html.escape(words)}" for name, _, required, words in query + body
    )
    return _code(f"{method.upper()} {path}"), members, f"{html.escape(meaning)} ({status})"


def _error_rows() -> Iterable[tuple[str, ...]]:
    for code, (status, retryable, words) in CATALOGUE.items():
        yield _code(code), str(status), "yes" if retryable else "no", html.escape(words)


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _code(text: object) -> str:
    return f"<code>{html.escape(str(text))}</code>"
