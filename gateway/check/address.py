"""The address that `moorline check` is given, and how the server there is probed. Pure."""

import dataclasses
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from moorline.gateway.common.errors import UsageError

__all__ = ["HOP_TIMEOUT", "ProbeOptions", "parse_address", "port_of"]

HOP_TIMEOUT = 10.0
# A model may think for a while before it says its first word; people give up at about this time.
_ANSWER_TIMEOUT = 60.0

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How a server is probed."""

    origin: str = ""
    """Origin of the page whose socket is tried; by default the server's own."""
    path: str = ""
    """Of a WebSocket that is not moorline's."""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    idle: float | None = None
    """Seconds for which the socket is held in silence."""
    certificate: str = ""
    """The file of the gateway's own certificate, by which a gateway on this machine is known, whatever it is called."""
    hop_timeout: float = HOP_TIMEOUT
    """Seconds, like `answer_timeout`, which is the one of the hop `first answer`."""
    answer_timeout: float = _ANSWER_TIMEOUT

    @classmethod
    def of(cls, *, origin: str, path: str, header: str, idle: float | None) -> "ProbeOptions":
        """As the options have it.

        Raises:
            UsageError: `header` is none, or `path` has no slash in front.
        """
        name, colon, value = (part.strip() for part in header.partition(":"))
        if header and not (colon and name and header.isprintable()):
            raise UsageError('header: write it as "Authorization: Bearer TOKEN"')
        if path and not path.startswith("/"):
            raise UsageError(f'path: "{path}" does not begin with a slash; write for example /ws/echo')
        return cls(origin=origin, path=path, headers={name: value} if header else {}, idle=idle)


def parse_address(url: str) -> SplitResult:
    """The parts of an address; `http` where it has no scheme.

    Raises:
        UsageError: it is none.
    """
    try:
        target = urlsplit(url if "://" in url else f"http://{url}")
        valid = target.scheme in _DEFAULT_PORTS and bool(target.hostname) and target.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f'"{url}" is not an address; write for example http://localhost:4321')
    return target


def port_of(target: SplitResult) -> int:
    """The port, where the address names none that of its scheme."""
    return target.port or _DEFAULT_PORTS[target.scheme]
