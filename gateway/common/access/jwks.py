"""The public keys of an issuer (JWK Set, RFC 7517), fetched over HTTP, kept, and fetched again as they change."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import hdrs, web

from moorline.gateway.common.config.units import counted

if TYPE_CHECKING:
    import jwt

__all__ = ["KeySet"]

log = logging.getLogger("moorline.jwt")

_FETCH_SECONDS = 5.0
_MOST_BYTES = 256 << 10
# An issuer announces a new key before it signs with it; an old one is out of use after this time.
_FRESH_SECONDS = 600.0
# A token with a key that is not known fetches them again, at most so often: any client can send such a token.
_RETRY_SECONDS = 10.0
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


class KeySet:
    """The keys at one URL. While the issuer does not answer the ones that are known go on to count."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._left_out = 0
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock = asyncio.Lock()
        self._fetching: asyncio.Task[None] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the keys have to be fetched again, for one may have been withdrawn."""
        return self._is_older(self._fetched_at, _FRESH_SECONDS)

    async def find(self, key_id: str) -> "jwt.PyJWK":
        """The key with this id; of a set of one key, that one, where the token names none.

        Raises:
            jwt.PyJWTError: there is no such key.
            web.HTTPServiceUnavailable: no keys could be fetched yet.
        """
        import jwt

        key = self._known(key_id)
        if key is not None and self.is_stale and self._is_unreachable:
            self._fetch_beside()
            return key
        if key is None or self.is_stale:
            await self._fetch_in_turn()
            key = self._known(key_id)
        if self._fetched_at is None:
            raise web.HTTPServiceUnavailable(
                text="The issuer's keys cannot be fetched at the moment.", headers={hdrs.RETRY_AFTER: "10"}
            )
        if key is None:
            raise jwt.InvalidKeyError
        return key

    def _known(self, key_id: str) -> "jwt.PyJWK | None":
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    @property
    def _is_unreachable(self) -> bool:
        """Whether the last attempt has failed, or has not come to an end. A request with a known key does not wait for
        the next: an issuer that does not answer would delay each of them by five seconds in ten.
        """
        return self._fetched_at != self._tried_at

    def _fetch_beside(self) -> None:
        is_under_way = self._fetching is not None and not self._fetching.done()
        if not is_under_way and self._is_older(self._tried_at, _RETRY_SECONDS):
            # Ends by itself within _FETCH_SECONDS.
            self._fetching = asyncio.create_task(self._fetch_in_turn())

    async def _fetch_in_turn(self) -> None:
        """Fetch the keys, unless that was tried a moment ago. Where it is under way, wait for its end: the key that is
        asked for may be among those that come.
        """
        async with self._lock:
            if self._is_older(self._tried_at, _RETRY_SECONDS):
                await self._fetch()

    def _is_older(self, at: float | None, seconds: float) -> bool:
        return at is None or asyncio.get_running_loop().time() - at >= seconds

    async def _fetch(self) -> None:
        self._tried_at = asyncio.get_running_loop().time()
        try:
            found = _parse(await self._download())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.warning("jwt_jwks_url: the issuer's keys cannot be fetched: %s %s", type(error).__name__, error)
            return
        is_first = self._fetched_at is None
        if is_first or found.keys.keys() != self._keys.keys() or found.left_out != self._left_out:
            level = logging.INFO if found.keys else logging.WARNING
            text = "jwt_jwks_url: the issuer has %s that can verify a token, and %s"
            log.log(level, text, counted(len(found.keys), "key"), counted(found.left_out, "other"))
        self._keys, self._left_out = found
        self._fetched_at = self._tried_at

    async def _download(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
        # A redirect could lead to another issuer's keys, over plain HTTP even.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            data = await response.content.read(_MOST_BYTES + 1)
            while len(data) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES)):
                data += more
        if len(data) > _MOST_BYTES:
            raise ValueError("more than 256 KiB")
        return data


class _Parsed(NamedTuple):
    """A JWK Set."""

    keys: "Mapping[str, jwt.PyJWK]"
    """Those that can verify, by their ids."""
    left_out: int
    """How many others it has."""


def _parse(data: bytes) -> _Parsed:
    """The keys that can verify. Left out are those of other kinds, short ones, a shared secret and a private key, which
    are none in public, and what is no key at all. Of keys with one id the first counts.

    Raises:
        ValueError: it is no set.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        found = None
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK Set")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        key = _key(entry) if isinstance(entry, dict) else None
        if key is not None:
            keys.setdefault(key.key_id or "", key)
    return _Parsed(keys, len(entries) - len(keys))


def _key(entry: dict[str, Any]) -> "jwt.PyJWK | None":
    import jwt

    from moorline.gateway.common.access.jwt_key import is_sound

    kind = entry.get("kty")
    algorithm = _ALGORITHMS.get(kind) if isinstance(kind, str) else None
    is_other = entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm
    if algorithm is None or is_other or "d" in entry or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=algorithm)
    except Exception:
        # Whatever the libraries say of a member with another type or value than the standard's.
        return None
    return key if is_sound(key) else None
