"""The access rules, as functions of header values: Origin, Host, CORS and the client's address behind proxies. Pure.

They prevent two attacks. A page of another site sends requests with the rights of the user whose browser shows it: its
Origin tells. With DNS rebinding that page's own name resolves to this machine, so that Origin and Host agree: the name
in Host tells. Neither check concerns clients that are not browsers.
"""

import dataclasses
import functools
import ipaddress
import re
from collections.abc import Callable, Sequence

from moorline.gateway.common.config.settings import CommonSettings

__all__ = ["AccessRules", "client_network", "is_host", "is_json", "is_local_name"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 9110 section 7.2: a name, an IPv4 address or a bracketed IPv6 address, and a port.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?")
# An IPv6 address in brackets, or an IPv4 address, and a port.
_HOP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"(https?)://([^/\s?#@]+)")
# RFC 4291 section 2.5.5.2: ::ffff:0:0/96 stands for IPv4.
_MAPPED_BITS = 96
# Where a proxy terminates TLS, a Host without port may mean either, so that both count as no port.
_DEFAULT_PORTS = ("", "80", "443")


@dataclasses.dataclass(frozen=True, slots=True)
class AccessRules:
    """The lists of one part's settings, ready for comparing."""

    any_origin: bool
    origins: frozenset[str]
    hosts: frozenset[str]
    proxies: tuple[Network, ...]
    trusts: Callable[[str], bool] = dataclasses.field(init=False, repr=False, compare=False)
    """Whether forwarding headers from this address are trusted. Each request asks, mostly about the same few."""
    accepts_host: Callable[[str], bool] = dataclasses.field(init=False, repr=False, compare=False)
    """Whether this Host is well formed and allowed; the same goes for it."""

    def __post_init__(self) -> None:
        accepts_host = functools.lru_cache(maxsize=256)(lambda host: is_host(host) and self.allows_host(host))
        object.__setattr__(self, "accepts_host", accepts_host)
        object.__setattr__(self, "trusts", functools.lru_cache(maxsize=1024)(self._trusts))

    @classmethod
    def of(cls, settings: CommonSettings) -> "AccessRules":
        listed = [origin for origin in settings.allowed_origins if origin != "*"]
        named = settings.allowed_hosts or [origin.partition("://")[2] for origin in listed]
        return cls(
            any_origin="*" in settings.allowed_origins,
            origins=frozenset(_normal_origin(origin) for origin in listed),
            hosts=frozenset(_name(host) for host in named),
            proxies=tuple(_network(network) for network in settings.trusted_proxies),
        )

    def allows_origin(self, origin: str | None, host: str, *, tls: bool = False) -> bool:
        """Whether a request with this Origin may change something or open a socket at this Host.

        A request without Origin is not a browser's. `null` (a sandboxed frame, a file) equals no origin. The scheme is
        compared where the server speaks `tls` itself: a page got by http may be an attacker's on the network path.
        Elsewhere the server's is http also where a proxy terminates TLS.
        """
        return self.any_origin or self._is_of_site(origin, host, tls=tls)

    def _is_of_site(self, origin: str | None, host: str, *, tls: bool = False) -> bool:
        if origin is None or self.lists_origin(origin):
            return True
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None or (tls and match[1] == "http"):
            return False
        return is_host(host) and _without_default_port(match[2]) == _without_default_port(host)

    def lists_origin(self, origin: str) -> bool:
        """Whether `allowed_origins` names this origin, scheme and all."""
        return _normal_origin(origin) in self.origins

    def allows_host(self, host: str) -> bool:
        """Whether this server accepts the Host: no name that an attacker could resolve to it by DNS."""
        return self.any_origin or self._is_own_name(host)

    def _is_own_name(self, host: str) -> bool:
        name = _name(host)
        return _is_localhost(name) or _is_address(name) or name in self.hosts

    @property
    def has_public_name(self) -> bool:
        """Whether the options name a host that is not this machine's loopback, or a page there."""
        return not all(map(is_local_name, (*self.hosts, *(origin.partition("://")[2] for origin in self.origins))))

    def is_own(self, origin: str | None, host: str | None) -> bool:
        """Whether a request comes from no page of another site, for what is this machine's alone. `*` counts for
        nothing here: it would let any page in that this machine's browser shows."""
        return host is None or (self._is_own_name(host) and self._is_of_site(origin, host))

    def cors_headers(self, origin: str | None) -> dict[str, str]:
        """The headers that make a browser let a listed origin's page read a response; else none.

        `*` stays literal, so that browsers send no cookies with the request.
        """
        if origin is None:
            return {}
        if self.lists_origin(origin):
            return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        return {"Access-Control-Allow-Origin": "*"} if self.any_origin else {}

    def _trusts(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and any(address in network for network in self.proxies)

    def client_address(self, peer: str, forwarded_for: Sequence[str], real_ip: str | None = None) -> str:
        """The client's address: the last hop that is not a trusted proxy.

        `forwarded_for` holds the X-Forwarded-For lines. They are read from the right, because only what trusted proxies
        added is true; what stands further left may be the client's invention.
        """
        if not self.trusts(peer):
            return peer
        hops = [hop.strip() for line in forwarded_for for hop in line.split(",") if hop.strip()]
        if not hops and real_ip and (address := _address_of(real_ip)) is not None:
            return address
        client = peer
        for hop in reversed(hops):
            address = _address_of(hop)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        return client


def is_local_name(host: str) -> bool:
    """Whether this Host, name or address is one of loopback."""
    name = _name(host)
    address = _address(name)
    return _is_localhost(name) if address is None else address.is_loopback


def is_host(host: str) -> bool:
    """Whether this is well formed as a Host header."""
    return _parts(host) is not None


# Of each request and each connection, and most come from few addresses.
@functools.lru_cache(maxsize=1024)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, of which each host has all."""
    parsed = _address(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))


def is_json(content_type: str) -> bool:
    """Whether a Content-Type is JSON's. A form, which any site may post without a preflight, cannot have it."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _without_default_port(host: str) -> str:
    parts = _parts(host)
    if parts is None:
        return host
    name, port = parts
    return name if port in _DEFAULT_PORTS else f"{name}:{port}"


def _name(host: str) -> str:
    """The name alone, without port, brackets and the final dot of a fully qualified one."""
    parts = _parts(host)
    return host if parts is None else parts[0].strip("[]").removesuffix(".")


# Twice per request, of the few names that a server has.
@functools.lru_cache(maxsize=256)
def _parts(host: str) -> tuple[str, str] | None:
    """Name and port of a well formed Host."""
    # Other scripts have digits, too, and the Kelvin sign is a small k.
    match = _HOST.fullmatch(host.lower()) if host.isascii() else None
    return None if match is None else (match[1], match[2] or "")


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _normal_origin(origin: str) -> str:
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return origin
    default = ":80" if match[1] == "http" else ":443"
    return f"{match[1]}://{match[2].removesuffix(default)}"


# Three calls per handshake, mostly for the same few: parsing costs as much as all other checks of a request.
@functools.lru_cache(maxsize=1024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # A link-local peer comes with its zone, `fe80::1%eth0`.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket that takes both families shows an IPv4 peer as ::ffff:10.0.0.7.
    return getattr(address, "ipv4_mapped", None) or address


def _address_of(hop: str) -> str | None:
    """The address of a hop, which some proxies (Azure's, IIS) write with a port and, then, brackets; None where it is
    nothing of that. A zone is any text at all, and means nothing on this machine."""
    match = _HOP.fullmatch(hop)
    address = hop if match is None else match[1] or match[2]
    return None if "%" in address or _address(address) is None else address


def _network(text: str) -> Network:
    """A network as `_address` gives the addresses in it."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))


def _is_address(name: str) -> bool:
    return _address(name) is not None
