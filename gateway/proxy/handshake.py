"""The two heads of a WebSocket handshake as they pass the gateway, and the verdict on each. Pure.

Nothing of RFC 6455 beyond the switch itself is checked: key, version, subprotocol and extensions are between the two
ends.
"""

import dataclasses
from collections.abc import Iterable
from http import HTTPStatus

from moorline.gateway.errors import BackendGarbled, Malformed
from moorline.gateway.proxy import headers
from multidict import CIMultiDict, MultiMapping

__all__ = ["Answer", "asks_for_upgrade", "check_request", "fields", "is_switch", "request_head", "switch_head"]

RawHeaders = Iterable[tuple[bytes, bytes]]

_PROTOCOL = "websocket"
# What switches the protocol on one hop; written anew for the next (RFC 9110 section 7.8).
_SWITCH = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
# RFC 9110 section 8.6 and RFC 9112 section 6.1: no 101 has a body, whatever it says.
_OF_A_BODY = ("Content-Length", "Transfer-Encoding")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The head of the backend's answer."""

    status: int
    reason: str
    fields: CIMultiDict[str]


def fields(raw: RawHeaders) -> CIMultiDict[str]:
    """Header fields with their names as they were written; `_encoded` gives back the same bytes."""
    return CIMultiDict((_decoded(name), _decoded(value)) for name, value in raw)


# The client's ---------------------------------------------------------------------------------------------------------


def asks_for_upgrade(request: MultiMapping[str]) -> bool:
    """Whether this is a handshake. Upgrade alone, without Connection, is none: it was meant for some hop before."""
    return "upgrade" in _tokens(request, "Connection") and bool(_tokens(request, "Upgrade"))


def check_request(request: CIMultiDict[str], version: tuple[int, int]) -> None:
    """Refuse what RFC 6455 section 4.1 does not know.

    Raises:
        Malformed: it is HTTP/1.0, or another protocol is asked for.
    """
    if version < (1, 1):
        raise Malformed("A WebSocket needs HTTP/1.1.")
    if _tokens(request, "Upgrade") != [_PROTOCOL]:
        raise Malformed("Only WebSocket is offered here (Upgrade: websocket).")


def request_head(
    method: str,
    target: str,
    request: CIMultiDict[str],
    *,
    peer: str,
    client: str,
    scheme: str,
    request_id: str,
    trusted: bool,
    chunked: bool = False,
) -> bytes:
    """The handshake as the backend gets it. The target is not touched; see `headers.forward` for the fields."""
    passed = headers.forward(request, peer=peer, client=client, scheme=scheme, request_id=request_id, trusted=trusted)
    framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
    return _encoded(f"{method} {target} HTTP/1.1\r\n{_lines(passed)}{framing}{_SWITCH}\r\n")


# The backend's --------------------------------------------------------------------------------------------------------


def is_switch(answer: Answer) -> bool:
    """Whether the backend agrees; if not, this is its refusal, to be passed on.

    Raises:
        BackendGarbled: a 101 to something that was not asked for, or a head that would not survive being passed on.
    """
    if any(control in value for value in answer.fields.values() for control in "\r\n\0"):
        raise BackendGarbled("a control character in a header field")
    if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
        if not 200 <= answer.status <= 599:
            raise BackendGarbled(f"status {answer.status}")
        return False
    # Relaying after a switch that the client does not know of would let its next request pass unseen.
    if _tokens(answer.fields, "Upgrade") != [_PROTOCOL] or "upgrade" not in _tokens(answer.fields, "Connection"):
        raise BackendGarbled("101 to another protocol than WebSocket")
    return True


def switch_head(answer: Answer, *, request_id: str) -> bytes:
    """The backend's 101 as the client gets it."""
    passed = headers.end_to_end(answer.fields)
    for name in _OF_A_BODY:
        passed.popall(name, None)
    passed.setdefault("X-Request-ID", request_id)
    return _encoded(f"HTTP/1.1 101 {answer.reason or 'Switching Protocols'}\r\n{_lines(passed)}{_SWITCH}\r\n")


# ----------------------------------------------------------------------------------------------------------------------


def _tokens(source: MultiMapping[str], name: str) -> list[str]:
    parts = (part.strip().lower() for line in source.getall(name, ()) for part in line.split(","))
    return [part for part in parts if part]


def _lines(source: CIMultiDict[str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in source.items())


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
