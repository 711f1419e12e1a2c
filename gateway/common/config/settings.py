"""The options that both parts have. Pure."""

import dataclasses
import ipaddress
import re

from moorline.gateway.common.config.named import REFERENCE
from moorline.gateway.common.config.options import DURATION, INT, PORT, SECRET, TEXT, Kind, choice, option
from moorline.gateway.common.errors import UsageError

__all__ = ["CommonSettings"]


def _parse_origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/\s?#@]+", text):
        raise ValueError("is not an origin; write for example https://chat.example.com, or * for any")
    return text.lower()


def _parse_name(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", text):
        raise ValueError("is not a host; write the name alone, for example chat.example.com")
    return text


def _parse_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("is not an address; write for example 10.0.0.7 or 10.0.0.0/8") from None


def _parse_jwks(text: str) -> str:
    if not re.fullmatch(r"https://[^\s@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/\S*)?", text):
        raise ValueError("is not an https address; write for example https://id.example.com/.well-known/jwks.json")
    return text


ORIGIN = Kind("ORIGIN", _parse_origin)
NAME = Kind("NAME", _parse_name)
JWKS = Kind("URL", _parse_jwks)
NETWORK = Kind("ADDRESS", _parse_network)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """Options under the same name and with the same meaning in the gateway and in the backend."""

    host: str = option("127.0.0.1", TEXT, "listen on this address", group="Listening")
    port: int = option(0, PORT, "listen on this port; 0 picks a free one and prints it")
    allowed_origins: tuple[str, ...] = option(
        (),
        ORIGIN,
        "origins, besides the page's own, that may open sockets and use /api; * allows any origin",
        group="Access control",
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        NAME,
        "accepted Host names, besides localhost and IP addresses (default: the hosts of allowed_origins)",
    )
    trusted_proxies: tuple[str, ...] = option(
        ("127.0.0.0/8", "::1/128"), NETWORK, "addresses whose X-Forwarded-* headers are trusted"
    )
    jwt_key: str = option(
        "",
        SECRET,
        "the key of tokens (JWT): a public key in PEM (RS256, ES256, EdDSA) or a secret of 32 bytes or more (HS256)",
        group="Tokens",
    )
    jwt_key_file: str = option("", TEXT, "the same, from a file")
    jwt_jwks_url: str = option("", JWKS, "or the address of the issuer's public keys (JWK Set)")
    jwt_issuer: str = option("", TEXT, "the `iss` that a token must have")
    jwt_audience: str = option("", TEXT, "the `aud` that a token must have")
    jwt_leeway: float = option(30.0, DURATION, "tolerance for clocks that differ")
    jwt_cookie: str = option("", TEXT, "the cookie that may hold the token, beside Authorization and the subprotocol")
    jwt_patients_claim: str = option(
        "", TEXT, "the claim that lists the patients whose chats a token opens (default: all patients)"
    )
    max_requests: int = option(
        1000,
        INT,
        "requests to the backend at once, held polls too, and as many for files of the page; more get 503",
        group="Requests",
    )
    max_requests_per_address: int | None = option(
        500, INT, "of them, requests of one client address (IPv6: of a /64), at most half", can_be_off=True
    )
    message_timeout: float | None = option(
        60.0,
        DURATION,
        "time for a client to complete a WebSocket message or a request's body, and 1s more for each 4KiB of it",
        can_be_off=True,
    )
    authorize: str = option(
        "",
        REFERENCE,
        "your `async def authorize(request, patient_id, session_id)`, which decides who may use a chat; its module is "
        "installed, or in the current folder",
    )
    authorize_again: float | None = option(
        60.0, DURATION, "until the authorize hook is asked again about an open socket or a held poll", can_be_off=True
    )
    drain: float = option(
        10.0,
        DURATION,
        "time for sockets and responses to end after SIGTERM or SIGINT, and for those that a reload leaves behind",
        group="Running",
    )
    log_level: str = option("info", choice("debug", "info", "warning", "error"), "least severe lines to log")
    log_format: str = option("text", choice("text", "json"), "form of a log line")
    log_key: str = option(
        "",
        SECRET,
        "key of the hashes that stand for patient and session ids in logs (default: random at each start)",
    )

    def files(self) -> dict[str, str]:
        """The paths of the files that no client may read, by the option and value that name each."""
        return {f'jwt_key_file: "{self.jwt_key_file}"': self.jwt_key_file} if self.jwt_key_file else {}

    def __post_init__(self) -> None:
        if self.drain <= 0:
            raise UsageError(f"drain: {self.drain:g} must be above 0")
        keys = [name for name in ("jwt_key", "jwt_key_file", "jwt_jwks_url") if getattr(self, name)]
        if keys and self.authorize:
            raise UsageError(f"{keys[0]}: authorize is set as well; write one of them")
        if not keys:
            for name in ("jwt_issuer", "jwt_audience", "jwt_cookie", "jwt_patients_claim"):
                # Without a key every chat would be open, of which such a name says the opposite.
                if getattr(self, name):
                    raise UsageError(f"{name}: without a key no token is asked for; set jwt_jwks_url or jwt_key_file")
        if self.authorize_again == 0:
            raise UsageError("authorize_again: 0 would ask without end; write for example 60s, or off")
        if self.message_timeout == 0:
            raise UsageError("message_timeout: 0 would end every message; write more than 0, or off")
        if self.max_requests == 0:
            raise UsageError("max_requests: 0 would answer no request; write 1 or more")
        if self.max_requests_per_address == 0:
            raise UsageError("max_requests_per_address: 0 would answer no request; write 1 or more, or off")
