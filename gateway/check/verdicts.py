"""What `moorline check` concludes from the hops: the usual cause of each failure, and the next step. Pure."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorline.gateway.explain import Explanation

__all__ = ["PATIENT", "Failure", "FailureKind", "Hop", "Side", "Step", "Verdict", "conclusion", "verdict"]

PATIENT = "patient:check"
"""Whose chat is opened and erased again at moorline."""


class Hop(enum.StrEnum):
    """The steps of a question, in order; the last one only where it is asked for."""

    NAME = "name"
    TCP = "TCP"
    HTTP = "HTTP"
    UPGRADE = "upgrade"
    ANSWER = "first answer"
    IDLE = "idle"


class Side(enum.StrEnum):
    """Which server the question was sent to."""

    GATEWAY = "through the gateway"
    BACKEND = "straight to the backend"


class FailureKind(enum.Enum):
    """How a hop failed."""

    UNKNOWN = "the name has no address"
    NO_DNS = "no DNS server answers"
    REFUSED = "connection refused"
    UNREACHABLE = "no route to this address"
    TIMEOUT = "no answer in time"
    OFFLINE = "this machine has no network"
    TLS = "no trusted TLS"
    CERTIFICATE_EXPIRED = "the certificate has expired"
    CERTIFICATE_NAME = "the certificate is for another name"
    CERTIFICATE_UNKNOWN = "the certificate is signed by an authority that this machine does not trust"
    NO_TLS = "this port speaks no TLS"
    SPEAKS_TLS = "this port speaks TLS"
    UPSTREAM_SPEAKS_TLS = "the server behind this one speaks TLS, and gets plain HTTP"
    NOT_HTTP = "what answers does not speak HTTP"
    CUT_HEADERS = "the connection ended within the headers of the response"
    STATUS = "refused with an HTTP status"
    ORIGIN = "refused because of its Origin"
    STRIPPED = "the handshake arrived as an ordinary request"
    NO_SOCKET = "answered as an ordinary request"
    BAD_ACCEPT = "the 101 is not the answer to this handshake"
    SUBPROTOCOL = "the subprotocols do not fit"
    NO_PONG = "the socket is open, and no Pong came"
    BUFFERED = "an answer came only when the connection was to end with it"
    NOT_MOORLINE = "what answers is not moorline"
    CLOSED = "closed without an answer"
    FIN = "the connection ended without a Close frame"
    RESET = "the connection was reset"
    CUT = "the connection ended in the middle of a frame"
    BAD_FRAME = "a frame breaks the WebSocket protocol"
    TOO_LARGE = "a frame is too large"
    IDLE = "the silent socket was cut"
    ERROR = "answered with an error"


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a hop: an HTTP status, a close code or an error code goes with some."""

    kind: FailureKind
    status: int = 0
    code: str = ""
    detail: str = ""
    gateway_cause: str = ""
    """The code that a moorline gateway gives to the end of a request or socket, as in `moorline explain`."""
    database: str = ""
    """What /readyz of a moorline backend says of its database, where that is not well."""

    @classmethod
    def refused(cls, status: int, headers: Mapping[str, str], body: bytes) -> "Failure":
        """A response that is no answer, with what a problem document (RFC 9457) of moorline's says."""
        # See `report._as_json`.
        import json

        try:
            problem = json.loads(body)
        except (ValueError, RecursionError):
            problem = None
        told = problem if isinstance(problem, dict) else {}
        found = [str(told.get(name) or "")[:_MAX_DETAIL] for name in ("code", "detail", "cause")]
        code, detail, cause = (text if text.isprintable() else "" for text in found)
        if not detail and status in _REDIRECTS:
            detail = f"to {headers.get('location', '')[:_MAX_DETAIL]!r}"
        return cls(FailureKind.STATUS, status=status, code=code, detail=detail, gateway_cause=cause)

    def __str__(self) -> str:
        said = self._said() + (f"; the database is {self.database}" if self.database else "")
        # Of a response the detail says it already.
        told = bool(self.gateway_cause) and self.kind is not FailureKind.STATUS
        return f"{said}; the gateway's cause is {self.gateway_cause}" if told else said

    def _said(self) -> str:
        match self.kind:
            case FailureKind.STATUS | FailureKind.ORIGIN | FailureKind.STRIPPED | FailureKind.NO_SOCKET:
                said = "" if self.kind is FailureKind.STATUS else f", {self.kind.value}"
                return f"HTTP {self.status}{said}{f': {self.detail}' if self.detail else ''}"
            case FailureKind.ERROR:
                return f"{self.kind.value}: {self.code}"
            case _:
                return f"{self.kind.value}{f' ({self.detail})' if self.detail else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One hop as it went. `failure` is None where it went well; `detail` then says what was found."""

    hop: Hop
    seconds: float
    detail: str = ""
    failure: Failure | None = None
    note: str = ""
    """What a person should know although it went well."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The usual cause of a failure, and what to do next."""

    cause: str
    next_step: str


_ANY = 0
_MAX_DETAIL = 200
_REDIRECTS = range(300, 400)
_PASS_UPGRADE = (
    "have it pass both headers on, and HTTP/1.1 (nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade "
    "and Connection $connection_upgrade)"
)

# By hop, kind and status or _ANY; the hop None stands for all.
_USUAL: dict[tuple[Hop | None, FailureKind, int], Verdict] = {
    (None, FailureKind.UNKNOWN, _ANY): Verdict(
        "the name is misspelt, or this machine's DNS does not know it", "check the address, or try its IP address"
    ),
    (None, FailureKind.NO_DNS, _ANY): Verdict(
        "this machine is offline, or its DNS server is down",
        "check this machine's connection; try the IP address of the server in place of its name",
    ),
    (None, FailureKind.UNREACHABLE, _ANY): Verdict(
        "a router or a firewall rejects the packets", "try from a machine of the same network"
    ),
    (Hop.TCP, FailureKind.TIMEOUT, _ANY): Verdict(
        "a firewall drops the packets, or no host has this address", "check the address and the firewall's rules"
    ),
    (None, FailureKind.TLS, _ANY): Verdict(
        "the certificate is expired, self-signed or for another name, or this port speaks plain HTTP",
        "check the certificate, or write http:// in the address",
    ),
    (None, FailureKind.NOT_HTTP, _ANY): Verdict(
        "another program has this port, or it speaks TLS", "check the port, or write https:// in the address"
    ),
    (None, FailureKind.NOT_MOORLINE, _ANY): Verdict(
        "wrong path or another server: moorline's own answers are not under this address",
        "check the host, the port and the path; a proxy in front must pass /api/ and /ws/ on as they are",
    ),
    (Hop.HTTP, FailureKind.TIMEOUT, _ANY): Verdict(
        "the program accepts connections but hangs, or its own backend does", "look at its log, then start it again"
    ),
    (None, FailureKind.STATUS, 421): Verdict(
        "the name in the address is not in allowed_hosts", "add it: --allowed-hosts NAME"
    ),
    (None, FailureKind.STATUS, 502): Verdict(
        "the backend is down, or the gateway's `upstream` names another address",
        "start the backend (moorline backend), or check --upstream",
    ),
    (None, FailureKind.STATUS, 503): Verdict(
        "it is shutting down or has reached a limit", "look at its log; compare max_connections with what it serves"
    ),
    (None, FailureKind.STATUS, 504): Verdict(
        "the backend accepts connections but does not answer", "look at the backend's log, then start it again"
    ),
    (Hop.UPGRADE, FailureKind.TIMEOUT, _ANY): Verdict(
        "the backend accepted the connection but does not answer the handshake",
        "look at the backend's log, then start it again",
    ),
    (None, FailureKind.OFFLINE, _ANY): Verdict("no interface is up, or there is no route out", "connect this machine"),
    (None, FailureKind.CERTIFICATE_EXPIRED, _ANY): Verdict(
        "it was not renewed, or the server was not reloaded since", "renew the certificate and reload the server"
    ),
    (None, FailureKind.CERTIFICATE_NAME, _ANY): Verdict(
        "another virtual host answers, or the address is not the one that it was issued for",
        "use the name that the certificate has, or issue one for this name",
    ),
    (None, FailureKind.CERTIFICATE_UNKNOWN, _ANY): Verdict(
        "it is self-signed, or the server does not send the intermediate certificate",
        "install the authority here (SSL_CERT_FILE=ca.pem), or have the server send the whole chain",
    ),
    (None, FailureKind.NO_TLS, _ANY): Verdict(
        "the address says https or wss, and the port speaks plain HTTP or another protocol",
        "write http:// or ws:// in the address, or the port of the TLS listener",
    ),
    (None, FailureKind.SPEAKS_TLS, _ANY): Verdict(
        "the address says http or ws, and the port speaks TLS", "write https:// or wss:// in the address"
    ),
    (None, FailureKind.UPSTREAM_SPEAKS_TLS, _ANY): Verdict(
        "the gateway's upstream, or a proxy's, is an http:// address of a port with TLS",
        "write https:// in it (--upstream, --route; nginx: proxy_pass)",
    ),
    (None, FailureKind.CUT_HEADERS, _ANY): Verdict(
        "the server or a proxy crashed or restarted while it answered", "look at its log at this moment"
    ),
    (None, FailureKind.ORIGIN, _ANY): Verdict(
        "without Origin it is accepted: a proxy in front changes Host, or the page's origin is not listed",
        "let the proxy pass Host on (nginx: proxy_set_header Host $http_host), or add --allowed-origins ORIGIN",
    ),
    (None, FailureKind.STRIPPED, _ANY): Verdict(
        "a proxy in front strips Upgrade, so that an ordinary request arrived",
        _PASS_UPGRADE,
    ),
    (None, FailureKind.NO_SOCKET, 400): Verdict(
        "an ordinary request gets the same response: a proxy in front strips Upgrade, or the server wants a parameter",
        f"{_PASS_UPGRADE}; without a proxy, compare with what its own client sends",
    ),
    (None, FailureKind.NO_SOCKET, _ANY): Verdict(
        "an ordinary request gets the same response: no WebSocket is served at this path, or a proxy strips Upgrade",
        "check the path (--path) and the server's routes; ask the backend directly (--backend URL) to compare",
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 401): Verdict(
        "the server wants credentials", "give what its clients send: --header 'Authorization: Bearer TOKEN' or Cookie"
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 403): Verdict(
        "access was refused, with and without Origin: credentials are missing, or do not allow this socket",
        "check the token or cookie (--header) and the rules of the server's authorization; "
        f"what is opened at moorline is a chat of {PATIENT}, which both have to allow",
    ),
    (None, FailureKind.STATUS, 429): Verdict(
        "a limit of requests for this client or address is reached",
        "wait, then look at the limits of the server and of the proxy in front",
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 400): Verdict(
        "the server rejects the handshake itself: a token, a query or a subprotocol that it expects is missing",
        "compare with what its own client sends; give it with --header and --path",
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 426): Verdict(
        "a proxy in front strips Upgrade, so that an ordinary request arrived",
        _PASS_UPGRADE,
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 500): Verdict(
        "the server's handler of the handshake failed", "look at the server's log for a traceback at this moment"
    ),
    (None, FailureKind.BAD_ACCEPT, _ANY): Verdict(
        "a cache or a proxy answers in the server's place, or the server's WebSocket code is wrong",
        "ask the backend directly (--backend URL); what differs is the hop in between",
    ),
    (None, FailureKind.SUBPROTOCOL, _ANY): Verdict(
        "client and server know different subprotocols; browsers end such a socket at once",
        "offer what the server knows (--header 'Sec-WebSocket-Protocol: NAME'), or have it select what is offered",
    ),
    (None, FailureKind.NO_PONG, _ANY): Verdict(
        "a proxy in between buffers what the server sends, or the server hangs after its handshake",
        "nginx: proxy_buffering off and proxy_http_version 1.1; if the backend alone does the same, look at its log",
    ),
    (Hop.IDLE, FailureKind.NO_PONG, _ANY): Verdict(
        "while it was silent a firewall or NAT in between forgot the connection, and drops its packets",
        "have Pings sent more often than its timer (client_heartbeat); --idle with other times finds that timer",
    ),
    (None, FailureKind.BUFFERED, _ANY): Verdict(
        "a proxy in between buffers what the server sends, and no small response or frame gets through",
        "have it pass on what it gets at once (nginx: proxy_buffering off); ask the backend directly to compare "
        "(--backend URL)",
    ),
    (Hop.UPGRADE, FailureKind.STATUS, 404): Verdict(
        "wrong path: no WebSocket is served there",
        "check that a proxy in front passes /ws/ on without changing the path, or name the path of a server that is "
        "not moorline's (--path)",
    ),
    (Hop.UPGRADE, FailureKind.STATUS, _ANY): Verdict(
        "the server refused the handshake", "look at the server's log; --header gives what its clients send"
    ),
    (Hop.UPGRADE, FailureKind.CLOSED, _ANY): Verdict(
        "the backend ended the connection instead of answering the handshake; it may be restarting or crashing",
        "look at the backend's log",
    ),
    (Hop.ANSWER, FailureKind.NO_PONG, _ANY): Verdict(
        "the connection vanished after the question, or the backend's event loop is blocked; it is not the model",
        "compare with the backend asked directly (--backend URL): where that answers, look at the network in between",
    ),
    (Hop.ANSWER, FailureKind.TIMEOUT, _ANY): Verdict(
        "no answer from the model: its server is slow or cannot be reached from the backend",
        "check OPENAI_BASE_URL and the backend's log; llm_read_timeout bounds the wait",
    ),
    (None, FailureKind.IDLE, _ANY): Verdict(
        "a proxy or firewall in between, or the server, ends sockets that are silent for so long",
        "raise its timer (nginx: proxy_read_timeout), or have Pings sent more often than that (client_heartbeat)",
    ),
    (None, FailureKind.FIN, _ANY): Verdict(
        "the server's process ended, or a proxy in between gave the socket up",
        "look at the server's log at this moment; `moorline explain` if the gateway's line has a cause",
    ),
    (None, FailureKind.RESET, _ANY): Verdict(
        "the server's process was killed, or a firewall or proxy in between dropped the socket",
        "look at the server's log at this moment; compare with the backend asked directly (--backend URL)",
    ),
    (None, FailureKind.CUT, _ANY): Verdict(
        "the server crashed or was killed while it sent", "look at the server's log at this moment"
    ),
    (None, FailureKind.BAD_FRAME, _ANY): Verdict(
        "the server or a proxy in between writes into the stream what is no WebSocket frame",
        "ask the backend directly (--backend URL); what differs is the hop in between",
    ),
    (None, FailureKind.TOO_LARGE, _ANY): Verdict(
        "the server sends more in one frame than clients and proxies take (moorline: max_frame_size, 16MiB)",
        "send less at once, or in several messages",
    ),
    (Hop.ANSWER, FailureKind.CLOSED, _ANY): Verdict(
        "the socket was closed before an answer came", "look at the backend's log at this moment"
    ),
    (Hop.ANSWER, FailureKind.NOT_HTTP, _ANY): Verdict(
        "the socket's messages are not those of a chat", "check that the path and the port are the backend's"
    ),
    (None, FailureKind.STATUS, _ANY): Verdict("the server failed", "look at its log"),
    (None, FailureKind.CLOSED, _ANY): Verdict(
        "what listens there ended the connection without an answer", "check that it is the right program, and its log"
    ),
    (None, FailureKind.TIMEOUT, _ANY): Verdict("it does not answer in time", "look at its log"),
}
_LOOK_AT_DATABASE = "look for `event log unavailable` in the backend's log; check the disk and the --database address"
_BY_CODE = {
    "llm_misconfigured": Verdict(
        "the model's provider refused the key, or does not know the model", "check OPENAI_API_KEY and --model"
    ),
    "llm_unavailable": Verdict(
        "no answer from the model: its server cannot be reached or failed", "check OPENAI_BASE_URL and the network"
    ),
    "internal": Verdict(
        "the backend could not keep or answer the message: mostly its database is locked, read-only, full or down",
        _LOOK_AT_DATABASE,
    ),
    "llm_busy": Verdict("the model's provider is busy or the quota is used up", "wait, or check the account's quota"),
}
_DATABASE = Verdict(
    "the backend's database is locked, read-only, full or down",
    _LOOK_AT_DATABASE,
)
_BY_DATABASE = {
    "locked": Verdict(
        "another transaction or program holds a lock on the backend's database for too long",
        "PostgreSQL: look for it in pg_stat_activity and pg_locks, and end it; SQLite: fuser FILE",
    ),
    "read-only": Verdict(
        "the backend's database accepts no writes: a standby, default_transaction_read_only, or a file system that was "
        "mounted read-only after an error",
        "name the primary with --database, or make the database or its file system writable again",
    ),
    "full": Verdict(
        "the disk of the backend's database is full", "free space there: df -h; the backend goes on by itself"
    ),
    "down": Verdict(
        "the backend's database cannot be reached or does not answer",
        "start the database, or check the address in --database; the backend goes on by itself",
    ),
}
_DOWN = {
    Side.GATEWAY: Verdict("the gateway is not running there", "start it: moorline"),
    Side.BACKEND: Verdict("the backend is down, or it listens on another port", "start it: moorline backend"),
}


def _told_by_the_gateway(cause: str) -> "Explanation | None":
    # A twentieth of what a check that finds no server imports, and such a check has no cause of a gateway.
    from moorline.gateway.explain import explain

    return explain(cause)


def verdict(side: Side, hop: Hop, failure: Failure) -> Verdict:
    """The usual cause of a failure at this hop."""
    if failure.kind is FailureKind.REFUSED:
        return _DOWN[side]
    if failure.database in _BY_DATABASE:
        return _BY_DATABASE[failure.database]
    told = _told_by_the_gateway(failure.gateway_cause) if failure.gateway_cause else None
    # A gateway whose client ended knows nothing of the hops in between, which ended both.
    if told is not None and (failure.kind is FailureKind.STATUS or not failure.gateway_cause.startswith("C")):
        return Verdict(told.usual_cause, told.next_step)
    # A failure of the gateway's own would have told its cause.
    if (failure.status, failure.code) == (503, "internal"):
        return _DATABASE
    if failure.kind is FailureKind.ERROR:
        return _BY_CODE.get(failure.code, Verdict("the backend could not answer", "look at the backend's log"))
    for key in (
        (hop, failure.kind, failure.status),
        (None, failure.kind, failure.status),
        (hop, failure.kind, _ANY),
        (None, failure.kind, _ANY),
    ):
        if key in _USUAL:
            return _USUAL[key]
    raise AssertionError(f"no verdict for {hop} {failure}")


def conclusion(
    through: Sequence[Step], straight: Sequence[Step] | None, *, backend_is_named: bool
) -> tuple[Side, Step] | None:
    """The hop that is broken first, or None.

    A gateway that is reached but has no answer is broken behind it: there the backend's own first failure is nearer to
    the cause, unless it got further there. A backend at an address that was guessed counts only together with such a
    gateway, and where that passed on a decision of its backend only with the same one: else another program is there.
    """
    failed = _first_failure(through)
    behind = _first_failure(straight or ())
    if failed is None:
        return (Side.BACKEND, behind) if behind is not None and backend_is_named else None
    order = list(Hop)
    if behind is not None and not backend_is_named and _is_decision(failed) and not _is_same(failed, behind):
        return Side.GATEWAY, failed
    if (
        behind is not None
        and failed.hop not in (Hop.NAME, Hop.TCP)
        and order.index(behind.hop) <= order.index(failed.hop)
    ):
        return Side.BACKEND, behind
    return Side.GATEWAY, _compared(failed) if straight else failed


def _is_same(one: Step, other: Step) -> bool:
    assert one.failure is not None
    assert other.failure is not None
    return (one.hop, one.failure.kind, one.failure.status) == (other.hop, other.failure.kind, other.failure.status)


def _is_decision(failed: Step) -> bool:
    """Whether this is a server's own decision, and not that of a gateway without a backend."""
    assert failed.failure is not None
    kind, status = failed.failure.kind, failed.failure.status
    return kind in (FailureKind.ERROR, FailureKind.ORIGIN) or (kind is FailureKind.STATUS and status < 500)


# What servers answer to an ordinary request for a path that is a WebSocket's.
_TO_A_STRIPPED_HANDSHAKE = (200, 400, 404, 405, 426, 501)


def _compared(failed: Step) -> Step:
    """A handshake that fails here, and not at the backend, lost something on the way."""
    failure = failed.failure
    if failed.hop is not Hop.UPGRADE or failure is None or failure.status not in _TO_A_STRIPPED_HANDSHAKE:
        return failed
    return dataclasses.replace(failed, failure=dataclasses.replace(failure, kind=FailureKind.STRIPPED))


def _first_failure(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if step.failure is not None), None)
