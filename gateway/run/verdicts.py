"""What `moorline check` concludes from what it saw: the usual cause of each failure, and the next step. Pure."""

import dataclasses
import enum
from collections.abc import Sequence

__all__ = ["Hop", "Seen", "Side", "Step", "Trouble", "Verdict", "conclusion", "verdict"]


class Hop(enum.StrEnum):
    """What a question passes, in order."""

    NAME = "name"
    TCP = "TCP"
    HTTP = "HTTP"
    UPGRADE = "upgrade"
    ANSWER = "first answer"


class Side(enum.StrEnum):
    """Which way the question went."""

    GATEWAY = "through the gateway"
    BACKEND = "straight to the backend"


class Trouble(enum.Enum):
    """How a hop failed."""

    UNKNOWN = "the name has no address"
    REFUSED = "connection refused"
    UNREACHABLE = "no way to this address"
    TIMEOUT = "no answer in time"
    TLS = "no trusted TLS"
    GARBAGE = "what answers does not speak HTTP"
    STATUS = "refused with an HTTP status"
    STRANGER = "what answers is not moorline"
    CLOSED = "closed without an answer"
    ERROR = "answered with an error"


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The failure of a hop: an HTTP status, a close code or an error code goes with some."""

    trouble: Trouble
    status: int = 0
    code: str = ""
    detail: str = ""

    def __str__(self) -> str:
        match self.trouble:
            case Trouble.STATUS:
                return f"HTTP {self.status}"
            case Trouble.ERROR:
                return f"{self.trouble.value}: {self.code}"
            case _:
                return f"{self.trouble.value}{f' ({self.detail})' if self.detail else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One hop as it went. `seen` is None where it went well; `detail` then says what was found."""

    hop: Hop
    seconds: float
    detail: str = ""
    seen: Seen | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The usual cause of a failure, and what to do next."""

    cause: str
    next_step: str


_ANY = 0

# By hop, trouble and status or _ANY; the hop None stands for all.
_USUAL: dict[tuple[Hop | None, Trouble, int], Verdict] = {
    (None, Trouble.UNKNOWN, _ANY): Verdict(
        "the name is misspelt, or this machine's DNS does not know it", "check the address, or try its IP address"
    ),
    (None, Trouble.UNREACHABLE, _ANY): Verdict(
        "the network or a firewall is between here and there", "try from a machine of the same network"
    ),
    (Hop.TCP, Trouble.TIMEOUT, _ANY): Verdict(
        "a firewall drops the packets, or the address is nobody's", "check the address and the firewall's rules"
    ),
    (None, Trouble.TLS, _ANY): Verdict(
        "the certificate is expired, self-signed or for another name, or this port speaks plain HTTP",
        "check the certificate, or write http:// in the address",
    ),
    (None, Trouble.GARBAGE, _ANY): Verdict(
        "another program has this port, or it speaks TLS", "check the port, or write https:// in the address"
    ),
    (None, Trouble.STRANGER, _ANY): Verdict(
        "wrong path or another server: moorline's own answers are not under this address",
        "check the host, the port and the path; a proxy in front must pass /api/ and /ws/ on as they are",
    ),
    (Hop.HTTP, Trouble.TIMEOUT, _ANY): Verdict(
        "the program is there but hangs, or its own backend does", "look at its log, then start it again"
    ),
    (None, Trouble.STATUS, 421): Verdict(
        "the name in the address is not in allowed_hosts", "add it: --allowed-hosts NAME"
    ),
    (None, Trouble.STATUS, 502): Verdict(
        "the backend is down, or the gateway's `upstream` names another address",
        "start the backend (moorline backend), or check --upstream",
    ),
    (None, Trouble.STATUS, 503): Verdict(
        "it is shutting down or has reached a limit", "look at its log; compare max_connections with what it serves"
    ),
    (None, Trouble.STATUS, 504): Verdict(
        "the backend accepts connections but does not answer", "look at the backend's log, then start it again"
    ),
    (Hop.UPGRADE, Trouble.TIMEOUT, _ANY): Verdict(
        "the backend accepted the connection but does not answer the handshake",
        "look at the backend's log, then start it again",
    ),
    (Hop.UPGRADE, Trouble.STATUS, 403): Verdict(
        "the Origin was refused: a proxy in front changes Host, or the page's origin is not listed",
        "let the proxy pass Host on (nginx: proxy_set_header Host $http_host), or add --allowed-origins ORIGIN",
    ),
    (Hop.UPGRADE, Trouble.STATUS, 404): Verdict(
        "wrong path: nothing serves /ws/chat/{patient_id}/{session_id} there",
        "check that the proxy in front passes /ws/ on without changing the path",
    ),
    (Hop.UPGRADE, Trouble.STATUS, _ANY): Verdict(
        "a proxy in front strips Upgrade, so that an ordinary request arrived",
        "nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and Connection $connection_upgrade",
    ),
    (Hop.UPGRADE, Trouble.CLOSED, _ANY): Verdict(
        "the backend ended the connection instead of answering the handshake; it may be restarting or crashing",
        "look at the backend's log",
    ),
    (Hop.ANSWER, Trouble.TIMEOUT, _ANY): Verdict(
        "no answer from the model: its server is slow or cannot be reached from the backend",
        "check OPENAI_BASE_URL and the backend's log; llm_read_timeout bounds the wait",
    ),
    (Hop.ANSWER, Trouble.CLOSED, _ANY): Verdict(
        "the socket was closed before an answer came", "look at the backend's log at this moment"
    ),
    (Hop.ANSWER, Trouble.GARBAGE, _ANY): Verdict(
        "the socket's messages are not those of a chat", "check that the path and the port are the backend's"
    ),
    (None, Trouble.STATUS, _ANY): Verdict("the program there failed", "look at its log"),
    (None, Trouble.CLOSED, _ANY): Verdict(
        "what listens there ended the connection without an answer", "check that it is the right program, and its log"
    ),
    (None, Trouble.TIMEOUT, _ANY): Verdict("it does not answer in time", "look at its log"),
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


def verdict(side: Side, hop: Hop, seen: Seen) -> Verdict:
    """The usual cause of what was seen at this hop."""
    if seen.trouble is Trouble.REFUSED:
        return _DOWN[side]
    if seen.trouble is Trouble.ERROR:
        return _BY_CODE.get(seen.code, Verdict("the backend could not answer", "look at the backend's log"))
    for key in (
        (hop, seen.trouble, seen.status),
        (None, seen.trouble, seen.status),
        (hop, seen.trouble, _ANY),
        (None, seen.trouble, _ANY),
    ):
        if key in _USUAL:
            return _USUAL[key]
    raise AssertionError(f"no verdict for {hop} {seen}")


def conclusion(
    through: Sequence[Step], straight: Sequence[Step] | None, *, backend_is_named: bool
) -> tuple[Side, Step] | None:
    """The hop that is broken first, or None.

    A gateway that is reached but has no answer is broken behind it: there the backend's own first failure is nearer to
    the cause. A backend at an address that was guessed counts only together with such a gateway.
    """
    failed = _failure(through)
    behind = _failure(straight or ())
    if failed is None:
        return (Side.BACKEND, behind) if behind is not None and backend_is_named else None
    if behind is not None and failed.hop not in (Hop.NAME, Hop.TCP):
        return Side.BACKEND, behind
    return Side.GATEWAY, failed


def _failure(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if step.seen is not None), None)
