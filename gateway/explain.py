"""For each code of a `Cause`: what happened, what usually causes it, and the next step. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence

from moorline.gateway.cause import Moment

__all__ = ["Explanation", "codes", "explain"]


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What a code stands for, in sentences."""

    what: str
    usual_cause: str
    next_step: str
    when: str = ""


_OPEN = (Moment.IDLE, Moment.MID_FRAME, Moment.STALLED)
_SOCKET = (*_OPEN, Moment.CLOSING)
_LOG_OF_BACKEND = "look at the backend's log at that second: a traceback, a restart by --reload, an out-of-memory kill"

# By who and reason, with the moments that can go with them.
_TABLE: Sequence[tuple[str, Sequence[Moment], Explanation]] = (
    (
        "CC",
        (Moment.CLOSING,),
        Explanation(
            "the client sent the first Close frame",
            "the page called close(), or its tab was closed or reloaded",
            "none, unless the close code is one that the page should not send",
        ),
    ),
    (
        "UC",
        (Moment.CLOSING,),
        Explanation(
            "the upstream sent the first Close frame",
            "the backend closed the socket on purpose; the close code says why",
            "look up the close code, then the backend's log",
        ),
    ),
    (
        "CV",
        (Moment.CLOSING,),
        Explanation(
            "the upstream refused what the client sent, with close code 1002, 1007 or 1009",
            "1002 and 1007: the client sends what is no valid WebSocket; 1009: a message over the backend's own limit",
            "1009: send less in one message, or raise the backend's limit (uvicorn: --ws-max-size); else look at the "
            "client's WebSocket library",
        ),
    ),
    (
        "UV",
        (Moment.CLOSING,),
        Explanation(
            "the client refused what the upstream sent, with close code 1002, 1007 or 1009",
            "1002 and 1007: the backend, or a proxy before it, sends what is no valid WebSocket; 1009: a message over "
            "the client's limit",
            "1009: send less in one message; else compare with a socket to the backend itself: moorline check "
            "--backend URL",
        ),
    ),
    (
        "CF",
        _OPEN,
        Explanation(
            "the client closed its connection without a Close frame",
            "a browser or program that ended, or a proxy in front of the gateway with a shorter idle timeout",
            "compare the socket's seconds with the idle timeouts of the proxies in front",
        ),
    ),
    (
        "UF",
        _OPEN,
        Explanation(
            "the upstream closed its connection without a Close frame",
            "the backend's process ended, or its framework drops sockets at shutdown",
            _LOG_OF_BACKEND,
        ),
    ),
    (
        "CR",
        _OPEN,
        Explanation(
            "the client reset the connection (ECONNRESET)",
            "a client that was killed or changed its network, or a proxy in front that dropped the connection",
            "where many end at the same age, look for an idle timeout in front of the gateway",
        ),
    ),
    (
        "UR",
        _OPEN,
        Explanation(
            "the upstream reset the connection (ECONNRESET)",
            "the backend's process was killed or crashed, or it closed a socket that still had unread bytes",
            _LOG_OF_BACKEND,
        ),
    ),
    (
        "NU",
        (*_OPEN, Moment.CONNECT, Moment.HELD, Moment.RESPONSE, Moment.BODY),
        Explanation(
            "the kernel gave the connection up: no acknowledgement came in time, or a router knows no route",
            "a host that is gone, a cable, a VPN or a wireless network that ended",
            "ping the host from the gateway's machine, and look at the routes and the firewall's log",
        ),
    ),
    (
        "CH",
        _OPEN,
        Explanation(
            "the client's kernel acknowledged the Ping, but the client sent no Pong within heartbeat_timeout",
            "a program that hangs, or a tab or laptop that was suspended",
            "raise heartbeat_timeout if such clients should keep their sockets; the chat client comes back by itself",
        ),
    ),
    (
        "UH",
        _OPEN,
        Explanation(
            "the upstream's kernel acknowledged the Ping, but the backend sent no Pong within heartbeat_timeout",
            "the backend's event loop is blocked: a synchronous call, a breakpoint, a stopped process",
            "take a stack of the backend's process (py-spy dump) and move the blocking call into a thread",
        ),
    ),
    (
        "NH",
        _OPEN,
        Explanation(
            "a Ping was sent again and again, and the peer's kernel acknowledged nothing: its packets are lost",
            "a host that lost its power or network, a firewall that forgot the connection",
            "`client_unacked` and `upstream_unacked` in the line name the hop; look at that network",
        ),
    ),
    (
        "CM",
        _OPEN,
        Explanation(
            "the client did not complete a WebSocket message within message_timeout",
            "a very slow line, a program that never ends a fragmented message, or an attack that holds memory",
            "nothing for an attack; else send smaller messages, or raise --message-timeout",
        ),
    ),
    (
        "CS",
        _SOCKET,
        Explanation(
            "the client sent a frame larger than max_frame_size",
            "an upload within one WebSocket message",
            "send it in parts or by HTTP, or raise --max-frame-size",
        ),
    ),
    (
        "US",
        _SOCKET,
        Explanation(
            "the upstream sent a frame larger than max_frame_size",
            "the backend puts a whole history or file into one message",
            "send it in parts, or raise --max-frame-size",
        ),
    ),
    (
        "CW",
        (Moment.STALLED, Moment.CLOSING, Moment.BODY),
        Explanation(
            "the client took none of what was sent to it for send_timeout",
            "a page that is paused in a debugger, or a client that never reads",
            "look at the client; a slow network alone does not lead here, since any progress restarts the timer",
        ),
    ),
    (
        "UW",
        (Moment.STALLED, Moment.CLOSING),
        Explanation(
            "the upstream took none of what was sent to it for proxy_send_timeout",
            "the backend does not read its sockets: its event loop is blocked or its queue is full",
            "take a stack of the backend's process (py-spy dump)",
        ),
    ),
    (
        "NW",
        (Moment.STALLED, Moment.CLOSING),
        Explanation(
            "what was sent to a peer was not acknowledged for its send timeout, though it was sent again",
            "a host that lost its power or network",
            "`client_unacked` and `upstream_unacked` in the line name the hop; look at that network",
        ),
    ),
    (
        "GA",
        _SOCKET,
        Explanation(
            "the authorize hook refuses now what it allowed before",
            "a right that was withdrawn",
            "none: the close code 4503 tells the client not to come back; look at what the hook decides",
        ),
    ),
    (
        "GE",
        _SOCKET,
        Explanation(
            "the right to the socket has ended by its time",
            "a token that expired",
            "none: the close code 4401 tells the client to come back with a new token",
        ),
    ),
    (
        "GT",
        _SOCKET,
        Explanation(
            "nothing passed for proxy_read_timeout, and the gateway closed the socket as nginx does",
            "heartbeats are off or longer than proxy_read_timeout, as they may be for foreign backends",
            "set client_heartbeat below proxy_read_timeout, or raise proxy_read_timeout",
        ),
    ),
    (
        "CL",
        (Moment.CLOSING,),
        Explanation(
            "the upstream sent a Close frame, and the client did not answer it within close_timeout",
            "a client that hangs or does not implement the closing handshake",
            "none: the gateway closed the connection",
        ),
    ),
    (
        "UL",
        (Moment.CLOSING,),
        Explanation(
            "a Close frame reached the upstream, and it did not close the connection within close_timeout",
            "the backend ignores Close frames, or its event loop is blocked",
            "have the backend's handler end when receive() reports the close",
        ),
    ),
    (
        "NL",
        (Moment.CLOSING,),
        Explanation(
            "a Close frame was not acknowledged within close_timeout, though it was sent again",
            "a host that lost its power or network while the socket was closing",
            "none, unless it happens often: then look at that network",
        ),
    ),
    (
        "GD",
        (*_SOCKET, Moment.REQUEST, Moment.HELD, Moment.RESPONSE),
        Explanation(
            "the gateway is shutting down or restarting",
            "a deploy, Ctrl-C, or SIGTERM",
            "none: clients come back; raise `drain` where long answers should end before",
        ),
    ),
    (
        "UX",
        (Moment.CONNECT, Moment.HELD),
        Explanation(
            "nothing listens at the upstream's address (ECONNREFUSED)",
            "the backend is not running, is restarting, or listens on another port",
            "start the backend, or compare its port with --upstream",
        ),
    ),
    (
        "NN",
        (Moment.CONNECT, Moment.HELD),
        Explanation(
            "the upstream's name has no address",
            "a misspelt name, or a DNS server that does not know it",
            "check --upstream, or resolve the name on the gateway's machine: getent hosts NAME",
        ),
    ),
    (
        "NT",
        (Moment.CONNECT, Moment.HELD),
        Explanation(
            "the connection to the upstream was not established within proxy_connect_timeout",
            "a firewall drops the packets, or no host has this address",
            "connect to the upstream's port from the gateway's machine: nc -vz HOST PORT",
        ),
    ),
    (
        "UT",
        (Moment.HELD, Moment.RESPONSE, Moment.BODY),
        Explanation(
            "the upstream accepted the connection and sent nothing within proxy_read_timeout or handshake_timeout",
            "the backend hangs, or waits for something of its own, for example a database",
            "take a stack of the backend's process (py-spy dump); `moorline check --backend URL` asks it directly",
        ),
    ),
    (
        "UF",
        (Moment.HELD, Moment.RESPONSE, Moment.BODY),
        Explanation(
            "the upstream closed the connection before the end of its response",
            "the backend's process ended or crashed while it handled the request",
            _LOG_OF_BACKEND,
        ),
    ),
    (
        "UR",
        (Moment.HELD, Moment.RESPONSE, Moment.BODY),
        Explanation(
            "the upstream reset the connection before the end of its response (ECONNRESET)",
            "the backend's process was killed, or it refused to read the request's body",
            _LOG_OF_BACKEND,
        ),
    ),
    (
        "UP",
        (Moment.RESPONSE, Moment.BODY),
        Explanation(
            "what the upstream sent is not a valid HTTP/1.1 response, or not the response to this request",
            "another program has this port, it speaks TLS, or the backend builds its responses by hand",
            "the gateway's log has a line with what is wrong; compare with: curl -v UPSTREAM",
        ),
    ),
    (
        "UP",
        (Moment.CONNECT,),
        Explanation(
            "the upstream speaks no TLS, or its certificate is not valid for its name",
            "an https:// address of a server that speaks http://, or a certificate of an authority of your own",
            "the gateway's log says what is wrong; name the authority with upstream_ca",
        ),
    ),
    (
        "UJ",
        (Moment.RESPONSE,),
        Explanation(
            "the upstream answered the handshake with a status other than 101",
            "a wrong path, an Origin or credentials that the backend refuses, or a backend without WebSockets",
            "the line has the status: 401 and 403 are the backend's rules, 404 is the path",
        ),
    ),
    (
        "CP",
        (Moment.REQUEST, Moment.RESPONSE),
        Explanation(
            "the client's request is malformed",
            "a client that builds requests by hand, or a path with characters that must be percent-encoded",
            "the response says what is wrong",
        ),
    ),
    (
        "CT",
        (Moment.REQUEST, Moment.RESPONSE),
        Explanation(
            "the body of the client's request did not come within client_body_timeout",
            "an upload that stalled, or a Content-Length that is larger than the body",
            "look at the client, or raise --client-body-timeout",
        ),
    ),
    (
        "CF",
        (Moment.RESPONSE,),
        Explanation(
            "the client closed its connection before the response was complete",
            "the page was left, or the client's own timeout is shorter",
            "none, unless the backend is slower than the client's timeout",
        ),
    ),
    (
        "GP",
        (Moment.REQUEST,),
        Explanation(
            "the request has come back to the gateway that passed it on",
            "a route, `upstream` or `frontend` that names the gateway's own address, or a proxy that leads to it",
            "the response names the route; correct its upstream",
        ),
    ),
    (
        "GQ",
        (Moment.REQUEST,),
        Explanation(
            "a limit of the gateway is reached",
            "more sockets or requests than max_connections, max_connections_per_address, handshakes_per_address or "
            "upstream_connections",
            "the response names the limit; raise it, or look for a client that opens sockets and does not close them",
        ),
    ),
    (
        "GQ",
        (Moment.STALLED, Moment.CLOSING, *_OPEN[:2]),
        Explanation(
            "all sockets together held more than max_buffered, and of those that do not read this one waited longest",
            "many clients that do not read, or a backend that sends far more than they can take",
            "compare moorline_sockets_buffered_bytes with max_buffered; look for what sends so much, or raise it",
        ),
    ),
    (
        "GI",
        (Moment.REQUEST,),
        Explanation(
            "a fault in the gateway itself",
            "an authorize hook that fails, or a bug",
            "look at the gateway's log at the same request_id; please report a traceback",
        ),
    ),
)
_MOMENTS: Mapping[Moment, str] = {
    Moment.REQUEST: "before anything was sent to an upstream",
    Moment.CONNECT: "while the connection to the upstream was established",
    Moment.HELD: "while the request was held for an upstream to come back (connect_retry)",
    Moment.RESPONSE: "before the headers of the response",
    Moment.BODY: "in the middle of the response's body, which the client sees cut",
    Moment.IDLE: "between two frames: no message was cut",
    Moment.MID_FRAME: "in the middle of a frame: that message is lost to its receiver",
    Moment.STALLED: "while a side did not take what was sent to it",
    Moment.CLOSING: "in the closing handshake",
}
_EXPLANATIONS: Mapping[str, Explanation] = {
    f"{letters}-{moment.value}": dataclasses.replace(explanation, when=_MOMENTS[moment])
    for letters, moments, explanation in _TABLE
    for moment in moments
}


def codes(letters: str = "") -> Sequence[str]:
    """Every code that there is, those of one side together; or those with these two letters, of either case."""
    start = f"{letters.upper()}-" if letters else ""
    return sorted(code for code in _EXPLANATIONS if code.startswith(start))


def explain(code: str) -> Explanation | None:
    """What a code stands for; None where it is none. Letters may be of either case."""
    letters, _, moment = code.partition("-")
    return _EXPLANATIONS.get(f"{letters.upper()}-{moment.lower()}")
