"""JSON Web Tokens (RFC 7519) as the authorize hook: who the token names, until when, and which patients it may open.

    authorize = jwt_authorize(settings)  # None without jwt_key, jwt_key_file and jwt_jwks_url

The algorithm is that of the key, never that which a token names: a token of HS256 signed with a public key, or
of `none`, is refused (RFC 8725 section 3.1). A token comes in a cookie, in `Authorization: Bearer` or in the
subprotocol `moorline.jwt.TOKEN`; never in the URL, which ends up in logs.
"""

import functools
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import hdrs, web

from moorline.gateway.common.access.authorize import Principal, bearer_token, is_credential
from moorline.gateway.common.access.jwks import KeySet
from moorline.gateway.common.access.principal_names import MOST_NAME_BYTES, is_principal
from moorline.gateway.common.access.refusals import Refusals
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.errors import UsageError, missing_extra

if TYPE_CHECKING:
    import jwt

__all__ = ["JwtAuthorize", "jwt_authorize"]

log = logging.getLogger("moorline.jwt")

# Claims of tokens that were verified: a signature costs 0.1 to 0.3 ms. A token of 300 bytes takes 1.3 KiB, and one with
# many patients or nested claims four to eighteen times its length.
_MOST_VERIFIED = 4096
_MOST_VERIFIED_BYTES = 4 << 20

# Of `exp`, `iat` and `nbf`: what a number of JSON holds exactly (RFC 8259 section 6), some 285 million years.
_LATEST = 2.0**53
_TIMES = ("exp", "iat", "nbf")

# Header, payload and signature, which PyJWT decodes before it verifies: half a millisecond for 8 KiB. The signature of
# an RSA key of 8,192 bits has 1,366 characters, and the certificates of a header may take some 3,000. To try shorter
# parts as well, without the second +, would take longer than PyJWT does.
_PART = "[A-Za-z0-9_-]"
_TOKEN = re.compile(rf"{_PART}{{1,4096}}+={{0,2}}+\.{_PART}++={{0,2}}+\.{_PART}{{0,1366}}+={{0,2}}+")

# By PyJWT's exception.
_WHY = {
    "ExpiredSignatureError": "expired; where that is new, compare this machine's clock with the issuer's",
    "ImmatureSignatureError": "`nbf` or `iat` is in the future; compare this machine's clock with the issuer's",
    "InvalidAlgorithmError": "signed with another algorithm than that of the key",
    "InvalidAudienceError": "`aud` does not name jwt_audience",
    "InvalidIssuerError": "`iss` is not jwt_issuer",
    "InvalidKeyError": "jwt_jwks_url has no key with its `kid`",
    "InvalidSignatureError": "not signed with the key that the options name",
    "InvalidSubjectError": f"`sub` is no text of 1 to {MOST_NAME_BYTES} bytes without control characters, or is `-`",
    "MissingRequiredClaimError": "`exp` or `sub` is missing, or `iss` or `aud` where the options name one",
}
_UNREADABLE = "not a JSON Web Token, or a claim has another type than the standard's"


def jwt_authorize(settings: CommonSettings) -> "JwtAuthorize | None":
    """The hook that the options describe; None where they name no key.

    Raises:
        UsageError: the key cannot be used, or the library is missing.
    """
    given = [name for name in ("jwt_key", "jwt_key_file", "jwt_jwks_url") if getattr(settings, name)]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"{given[1]}: {given[0]} is set as well; write one of them")
    try:
        import cryptography  # noqa: F401 - of the same extra, and jwt imports without it
        import jwt  # noqa: F401
    except ImportError:
        raise UsageError(f"{given[0]}: {missing_extra('jwt')}") from None
    if settings.jwt_jwks_url:
        return JwtAuthorize(settings, KeySet(settings.jwt_jwks_url))
    text = settings.jwt_key
    if settings.jwt_key_file:
        try:
            text = Path(settings.jwt_key_file).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f'jwt_key_file: "{settings.jwt_key_file}" cannot be read ({error.strerror})') from None
        except UnicodeDecodeError:
            raise UsageError(
                f'jwt_key_file: "{settings.jwt_key_file}" is not text; write a public key in PEM '
                "(openssl pkey -pubin -inform DER -in KEY), or a secret in hexadecimal (openssl rand -hex 32)"
            ) from None
    from moorline.gateway.common.access.jwt_key import parse_key

    return JwtAuthorize(settings, parse_key(text.strip(), given[0]))


class _Verified(NamedTuple):
    """What a token says."""

    claims: Mapping[str, Any]
    expires: float
    """With the leeway."""
    patients: tuple[str, ...]
    """Those of the claim that the options name."""
    size: int
    """Of the token."""


class JwtAuthorize:
    """The hook; see `Authorize`."""

    def __init__(self, settings: CommonSettings, key: "jwt.PyJWK | KeySet") -> None:
        import jwt

        self._jwt = jwt
        self._key = key
        self._cookie = settings.jwt_cookie
        self._patients = settings.jwt_patients_claim
        self._decode = functools.partial(
            jwt.PyJWT({"require": ["exp", "sub"]}).decode,
            issuer=settings.jwt_issuer or None,
            audience=settings.jwt_audience or None,
            leeway=settings.jwt_leeway,
        )
        self._leeway = settings.jwt_leeway
        self._verified: dict[bytes, _Verified] = {}
        self._verified_bytes = 0
        self._refusals = Refusals()

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        token = self._token(request)
        if token is None:
            raise _unauthorized("A token is needed.", "")
        verified = await self._verified_token(token)
        if self._patients and patient_id is not None and patient_id not in verified.patients:
            raise web.HTTPForbidden(text="This chat is not open to you.")
        claims = verified.claims
        # A copy: a responder may change what it is given, and the next request of the token is decided by the claims.
        return Principal(str(claims["sub"]), expires=verified.expires, metadata=dict(claims), issued=_issued(claims))

    def _token(self, request: web.Request) -> str | None:
        token = bearer_token(request)
        if token is None and self._cookie:
            token = _cookie(request, self._cookie)
        return token if token and is_credential(token) else None

    async def _verified_token(self, token: str) -> "_Verified":
        """What the token says, once it was verified. A client sends the same one with each request."""
        digest = hashlib.sha256(token.encode()).digest()
        if isinstance(self._key, KeySet) and self._key.is_stale:
            self._verified.clear()
            self._verified_bytes = 0
        known = self._verified.get(digest)
        if known is not None and time.time() < known.expires:
            return known
        claims = await self._verify(token)
        expires = float(claims["exp"]) + self._leeway
        verified = _Verified(claims, expires, _patients(claims.get(self._patients)), len(token))
        self._remember(digest, verified)
        return verified

    def _remember(self, digest: bytes, verified: "_Verified") -> None:
        self._forget(digest)
        self._verified[digest] = verified
        self._verified_bytes += verified.size
        while len(self._verified) > _MOST_VERIFIED or self._verified_bytes > _MOST_VERIFIED_BYTES:
            # The oldest.
            self._forget(next(iter(self._verified)))

    def _forget(self, digest: bytes) -> None:
        if (verified := self._verified.pop(digest, None)) is not None:
            self._verified_bytes -= verified.size

    async def _verify(self, token: str) -> Mapping[str, Any]:
        try:
            if _TOKEN.fullmatch(token) is None:
                raise self._jwt.DecodeError("not three parts of base64url")
            key = self._key
            if isinstance(key, KeySet):
                key = await key.find(_key_id(token.partition(".")[0]))
            claims = self._decode(token, key, algorithms=[key.algorithm_name])
            if not is_principal(claims["sub"]):
                raise self._jwt.exceptions.InvalidSubjectError
            if not all(_is_time(claims[name]) for name in _TIMES if name in claims):
                raise self._jwt.DecodeError("a time that is none")
            return claims
        except self._jwt.ExpiredSignatureError:
            self._count(logging.INFO, "ExpiredSignatureError")
            raise _unauthorized("The token has expired.", "expired") from None
        except self._jwt.PyJWTError as error:
            # Without the library's own words, which quote claims.
            self._count(logging.WARNING, type(error).__name__)
            raise _unauthorized("The token is not valid here.", type(error).__name__) from None

    def _count(self, level: int, reason: str) -> None:
        """Tell the operator: where the issuer or an option has changed, all clients are refused."""
        if (count := self._refusals.add(reason, time.monotonic())) is not None:
            log.log(
                level,
                "%d token%s refused: %s",
                count,
                " was" if count == 1 else "s were",
                _WHY.get(reason, _UNREADABLE),
            )


def _cookie(request: web.Request, name: str) -> str | None:
    """The token in the cookie of this name. Two of one name are none, as for subprotocols: a page below another path or
    domain of the site may have set one of them, and its sign-in may take the other one (RFC 6265 section 8.6).
    """
    pairs = ";".join(request.headers.getall(hdrs.COOKIE, ())).split(";")
    values = {value.strip() for each, _, value in (pair.partition("=") for pair in pairs) if each.strip() == name}
    # A token needs no quotes, and may have them.
    return values.pop().strip('"') if len(values) == 1 else None


# Tokens of one key have the same header.
@functools.lru_cache(maxsize=64)
def _key_id(encoded: str) -> str:
    """The id of the key that a token's header names, empty where it names none. PyJWT would check the whole token for
    it, as `decode` does again, which takes as long as a signature.

    Raises:
        jwt.DecodeError: this is no header.
    """
    import jwt

    try:
        header = json.loads(jwt.utils.base64url_decode(encoded))
    except (ValueError, RecursionError):
        raise jwt.DecodeError("the header cannot be read") from None
    return str(header.get("kid", "")) if isinstance(header, dict) else ""


def _is_time(value: object) -> bool:
    """Whether this is a NumericDate (RFC 7519 section 2). PyJWT takes also `true`, a string of digits, and a number
    that no clock can be compared with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST


def _issued(claims: Mapping[str, Any]) -> float:
    """A token that does not say when it was issued counts as older than any revocation."""
    return float(claims.get("iat") or 0)


def _patients(claim: object) -> tuple[str, ...]:
    """One patient or several; anything else opens none."""
    if isinstance(claim, str):
        return (claim,)
    return tuple(each for each in claim if isinstance(each, str)) if isinstance(claim, list) else ()


def _unauthorized(text: str, detail: str) -> web.HTTPUnauthorized:
    challenge = 'Bearer error="invalid_token"' if detail else "Bearer"
    return web.HTTPUnauthorized(text=text, headers={hdrs.WWW_AUTHENTICATE: challenge})
