"""What `moorline check` concludes from the hops: the usual cause of each failure, and the next step. Pure."""

import dataclasses
import enum
from collections.abc import Sequence

__all__ = ["Cause", "Failure", "Hop", "Side", "Step", "Verdict", "conclusion", "verdict"]


class Hop(enum.StrEnum):
    """The steps of a question, in order."""

    NAME = "name"
    TCP = "TCP"
    HTTP = "HTTP"
    UPGRADE = "upgrade"
    ANSWER = "first answer"


class Side(enum.StrEnum):
    """Which server the question was sent to."""

    GATEWAY = "through the gateway"
    BACKEND = "straight to the backend"


class Cause(enum.Enum):
    """How a hop failed."""

    UNKNOWN = "the name has no address"
    REFUSED = "connection refused"
    UNREACHABLE = "no route to this address"
    TIMEOUT = "no answer in time"
    TLS = "no trusted TLS"
    NOT_HTTP = "what answers does not speak HTTP"
    STATUS = "refused with an HTTP status"
    NOT_MOORLINE = "what answers is not moorline"
    CLOSED = "closed without an answer"
    ERROR = "answered with an error"


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a hop: an HTTP status, a close code or an error code goes with some."""

    cause: Cause
    status: int = 0
    code: str = ""
    detail: str = ""

    def __str__(self) -> str:
        match self.cause:
            case Cause.STATUS:
                return f"HTTP {self.status}"
            case Cause.ERROR:
                return f"{self.cause.value}: {self.code}"
            case _:
                return f"{self.cause.value}{f' ({self.detail})' if self.detail else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One hop as it went. `failure` is None where it went well; `detail` then says what was found."""

    hop: Hop
    seconds: float
    detail: str = ""
    failure: Failure | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The usual cause of a failure, and what to do next."""

    cause: str
    next_step: str


_ANY = 0

# By hop, cause and status or _ANY; the hop None stands for all.
_USUAL: dict[tuple[Hop | None, Cause, int], Verdict] = {
    (None, Cause.UNKNOWN, _ANY): Verdict(
        "the name is misspelt, or this machine's DNS does not know it", "check the address, or try its IP address"
    ),
    (None, Cause.UNREACHABLE, _ANY): Verdict(
        "a router or a firewall rejects the packets", "try from a machine of the same network"
    ),
    (Hop.TCP, Cause.TIMEOUT, _ANY): Verdict(
        "a firewall drops the packets, or no host has this address", "check the address and the firewall's rules"
    ),
    (None, Cause.TLS, _ANY): Verdict(
        "the certificate is expired, self-signed or for another name, or this port speaks plain HTTP",
        "check the certificate, or write http:// in the address",
    ),
    (None, Cause.NOT_HTTP, _ANY): Verdict(
        "another program has this port, or it speaks TLS", "check the port, or write https:// in the address"
    ),
    (None, Cause.NOT_MOORLINE, _ANY): Verdict(
        "wrong path or another server: moorline's own answers are not under this address",
        "check the host, the port and the path; a proxy in front must pass /api/ and /ws/ on as they are",
    ),
    (Hop.HTTP, Cause.TIMEOUT, _ANY): Verdict(
        "the program accepts connections but hangs, or its own backend does", "look at its log, then start it again"
    ),
    (None, Cause.STATUS, 421): Verdict(
        "the name in the address is not in allowed_hosts", "add it: --allowed-hosts NAME"
    ),
    (None, Cause.STATUS, 502): Verdict(
        "the backend is down, or the gateway's `upstream` names another address",
        "start the backend (moorline backend), or check --upstream",
    ),
    (None, Cause.STATUS, 503): Verdict(
        "it is shutting down or has reached a limit", "look at its log; compare max_connections with what it serves"
    ),
    (None, Cause.STATUS, 504): Verdict(
        "the backend accepts connections but does not answer", "look at the backend's log, then start it again"
    ),
    (Hop.UPGRADE, Cause.TIMEOUT, _ANY): Verdict(
        "the backend accepted the connection but does not answer the handshake",
        "look at the backend's log, then start it again",
    ),
    (Hop.UPGRADE, Cause.STATUS, 403): Verdict(
        "the Origin was refused: a proxy in front changes Host, or the page's origin is not listed",
        "let the proxy pass Host on (nginx: proxy_set_header Host $http_host), or add --allowed-origins ORIGIN",
    ),
    (Hop.UPGRADE, Cause.STATUS, 404): Verdict(
        "wrong path: nothing serves /ws/chat/{patient_id}/{session_id} there",
        "check that the proxy in front passes /ws/ on without changing the path",
    ),
    (Hop.UPGRADE, Cause.STATUS, _ANY): Verdict(
        "a proxy in front strips Upgrade, so that an ordinary request arrived",
        "nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and Connection $connection_upgrade",
    ),
    (Hop.UPGRADE, Cause.CLOSED, _ANY): Verdict(
        "the backend ended the connection instead of answering the handshake; it may be restarting or crashing",
        "look at the backend's log",
    ),
    (Hop.ANSWER, Cause.TIMEOUT, _ANY): Verdict(
        "no answer from the model: its server is slow or cannot be reached from the backend",
        "check OPENAI_BASE_URL and the backend's log; llm_read_timeout bounds the wait",
    ),
    (Hop.ANSWER, Cause.CLOSED, _ANY): Verdict(
        "the socket was closed before an answer came", "look at the backend's log at this moment"
    ),
    (Hop.ANSWER, Cause.NOT_HTTP, _ANY): Verdict(
        "the socket's messages are not those of a chat", "check that the path and the port are the backend's"
    ),
    (None, Cause.STATUS, _ANY): Verdict("the server failed", "look at its log"),
    (None, Cause.CLOSED, _ANY): Verdict(
        "what listens there ended the connection without an answer", "check that it is the right program, and its log"
    ),
    (None, Cause.TIMEOUT, _ANY): Verdict("it does not answer in time", "look at its log"),
}
_BY_CODE = {
    "llm_misconfigured": Verdict(
        "the model's provider refused the key, or does not know the model", "check OPENAI_API_KEY and --model"
    ),
    "llm_unavailable": Verdict(
        "no answer from the model: its server cannot be reached or failed", "check OPENAI_BASE_URL and the network"
    ),
    "llm_busy": Verdict("the model's provider is busy or the quota is used up", "wait, or check the account's quota"),
}
_DOWN = {
    Side.GATEWAY: Verdict("the gateway is not running there", "start it: moorline"),
    Side.BACKEND: Verdict("the backend is down, or it listens on another port", "start it: moorline backend"),
}


def verdict(side: Side, hop: Hop, failure: Failure) -> Verdict:
    """The usual cause of a failure at this hop."""
    if failure.cause is Cause.REFUSED:
        return _DOWN[side]
    if failure.cause is Cause.ERROR:
        return _BY_CODE.get(failure.code, Verdict("the backend could not answer", "look at the backend's log"))
    for key in (
        (hop, failure.cause, failure.status),
        (None, failure.cause, failure.status),
        (hop, failure.cause, _ANY),
        (None, failure.cause, _ANY),
    ):
        if key in _USUAL:
            return _USUAL[key]
    raise AssertionError(f"no verdict for {hop} {failure}")


def conclusion(
    through: Sequence[Step], straight: Sequence[Step] | None, *, backend_is_named: bool
) -> tuple[Side, Step] | None:
    """The hop that is broken first, or None.

    A gateway that is reached but has no answer is broken behind it: there the backend's own first failure is nearer to
    the cause. A backend at an address that was guessed counts only together with such a gateway.
    """
    failed = _first_failure(through)
    behind = _first_failure(straight or ())
    if failed is None:
        return (Side.BACKEND, behind) if behind is not None and backend_is_named else None
    if behind is not None and failed.hop not in (Hop.NAME, Hop.TCP):
        return Side.BACKEND, behind
    return Side.GATEWAY, failed


def _first_failure(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if step.failure is not None), None)
