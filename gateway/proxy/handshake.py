"""A WebSocket handshake as it passes the gateway, and whether each of its two halves is one. Pure.

Nothing of RFC 6455 beyond the switch itself is enforced: key, version, subprotocol and extensions are between client
and upstream, as with nginx. A 101 that does not answer the key passes as well, and the log names it.
"""

import functools

from multidict import MultiMapping, istr

from moorline.gateway.common.web.accept import accept_for
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.errors import BadUpstreamResponse, Malformed
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.response import Response

__all__ = [
    "answers_key",
    "asks_for_upgrade",
    "asks_for_websocket",
    "check_request",
    "is_switch",
    "protocols",
    "switch_head",
]

_WEBSOCKET = ("websocket",)
_CONNECTION, _UPGRADE, _KEY = istr("Connection"), istr("Upgrade"), istr("Sec-WebSocket-Key")
# RFC 9110 section 8.6 and RFC 9112 section 6.1: no 101 has a body, whatever it says.
_OF_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_ACCEPT = b"sec-websocket-accept"
# As nearly all servers write them.
_USUAL_UPGRADE, _USUAL_CONNECTION = b"websocket", (b"Upgrade", b"upgrade")
# Headers for which a 101 with these is not passed on as it came.
_NOT_AS_THEY_ARE = headers.HOP_BY_HOP - {b"upgrade", b"connection"} | _OF_A_BODY


# The request ----------------------------------------------------------------------------------------------------------


def protocols(request: MultiMapping[str]) -> tuple[str, ...]:
    """What a handshake asks for; nothing, where this is none. Upgrade without Connection was for an earlier hop."""
    if _UPGRADE not in request:
        return ()
    return _protocols(tuple(request.getall(_UPGRADE)), tuple(request.getall(_CONNECTION, ())))


def asks_for_upgrade(request: MultiMapping[str]) -> bool:
    """Whether this is a handshake."""
    return protocols(request) != ()


def asks_for_websocket(request: MultiMapping[str]) -> bool:
    """Whether this is a handshake for a WebSocket, and for nothing else."""
    return protocols(request) == _WEBSOCKET


def check_request(asked: tuple[str, ...], version: tuple[int, int]) -> None:
    """Refuse a handshake for these protocols that RFC 6455 section 4.1 does not know.

    Raises:
        Malformed: it is HTTP/1.0, or it names another protocol.
    """
    if version < (1, 1):
        raise Malformed("A WebSocket needs HTTP/1.1.")
    if asked != _WEBSOCKET:
        raise Malformed("Only WebSocket is offered here (Upgrade: websocket).")


# The response ---------------------------------------------------------------------------------------------------------


def is_switch(response: Response) -> bool:
    """Whether the upstream agrees; if not, this is its refusal, to be passed on.

    Raises:
        BadUpstreamResponse: a 101 to another protocol.
    """
    if response.status != SWITCHING_PROTOCOLS:
        return False
    if _is_usual(response):
        return True
    # Relaying after a switch that the client does not know of would let its next request pass unseen.
    upgrade, connection = _tokens_of_all(response, b"upgrade"), _tokens_of_all(response, b"connection")
    if upgrade != _WEBSOCKET or "upgrade" not in connection:
        raise BadUpstreamResponse("101 to another protocol than WebSocket")
    return True


def answers_key(request: MultiMapping[str], response: Response) -> bool:
    """Whether a 101 has the Sec-WebSocket-Accept of the request's key; a client must end the socket where it has not
    (RFC 6455 section 4.1). To a request without a key any response is one."""
    key = request.get(_KEY, "").strip().encode("utf-8", "surrogateescape")
    return not key or (response.names.get(_ACCEPT) == accept_for(key) and len(response.all(_ACCEPT)) == 1)


def switch_head(response: Response, *, request_id: str) -> bytes:
    """The upstream's 101 as the client gets it."""
    if _is_usual(response) and _NOT_AS_THEY_ARE.isdisjoint(response.names):
        lines, upgrade = response.lines, b""
    else:
        fields = [field for field in headers.end_to_end(response) if field[0].lower() not in _OF_A_BODY]
        lines, upgrade = headers.encoded(fields), headers.encoded(headers.UPGRADE)
    own = b"" if b"x-request-id" in response.names else f"X-Request-ID: {request_id}\r\n".encode()
    status_line = headers.bytes_of(f"HTTP/1.1 101 {response.reason or 'Switching Protocols'}")
    return b"%b\r\n%b%b%b\r\n" % (status_line, lines, own, upgrade)


# ----------------------------------------------------------------------------------------------------------------------


def _is_usual(response: Response) -> bool:
    """Whether this 101 is one to WebSocket beyond doubt, and names no further header as hop-by-hop."""
    names = response.names
    return (
        names.get(b"upgrade") == _USUAL_UPGRADE
        and names.get(b"connection") in _USUAL_CONNECTION
        and len(names) == len(response.fields)
    )


# Of the few values that clients send.
@functools.lru_cache(maxsize=64)
def _protocols(upgrade: tuple[str, ...], connection: tuple[str, ...]) -> tuple[str, ...]:
    return _tokens_of(",".join(upgrade)) if "upgrade" in _tokens_of(",".join(connection)) else ()


def _tokens_of_all(response: Response, name: bytes) -> tuple[str, ...]:
    return _tokens_of(b",".join(response.all(name)).decode("latin-1"))


def _tokens_of(value: str) -> tuple[str, ...]:
    return tuple(token for part in value.split(",") if (token := part.strip().lower()))
