"""Tokens as the authorize hook: real keys, a real issuer's key set, and a backend on a real port."""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from websockets.exceptions import InvalidStatus

from moorline.backend.rights import RIGHTS
from moorline.backend.settings import Settings
from moorline.gateway.common.access.jwt import jwt_authorize
from moorline.gateway.common.access.rights import REVOKED_SECONDS
from moorline.gateway.common.errors import UsageError
from tests.support.backends import STEP, Script, backend, hello, receive_until, say
from tests.support.eventlogs import until
from tests.support.faulty_upstream import dial
from tests.support.serving import serving

SECRET = "0123456789abcdef0123456789abcdef"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OPTIONS: dict[str, Any] = {
    "jwt_issuer": "https://id.example",
    "jwt_audience": "chat",
    "jwt_patients_claim": "patients",
    "jwt_leeway": 0.0,
}
URL = "/api/chat/s1/messages?patient_id=patient:demo"
# Whose times tests shorten.
JWKS = "moorline.gateway.common.access.jwks"


def pem(key: Any) -> str:
    """Its public key."""
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_key().public_bytes(encoding, kind)
    return encoded.decode()


def public(algorithm: str) -> str:
    return pem(KEYS[algorithm])


def claims(**changes: Any) -> dict[str, Any]:
    whole = {
        "sub": "dr-who",
        "iss": "https://id.example",
        "aud": "chat",
        "exp": time.time() + 3600,
        "patients": ["patient:demo"],
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", *, kid: str = "", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def unsigned(header: dict[str, Any]) -> str:
    parts = (json.dumps(part).encode() for part in (header, claims()))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


async def status(url: str, given: str, **options: Any) -> int:
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    async with aiohttp.ClientSession(headers=headers, **options) as http, http.get(url + URL) as response:
        return response.status


async def send(url: str, given: str, name: str, *, session: str = "s1") -> tuple[int, str]:
    """Status and Retry-After of a message."""
    body = {"patient_id": "patient:demo", "message": "Hello", "client_msg_id": name}
    headers = {"Authorization": f"Bearer {given}"}
    request = aiohttp.request("POST", f"{url}/api/chat/{session}/messages", json=body, headers=headers)
    async with request as response:
        return response.status, response.headers.get("Retry-After", "")


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_of_the_key_is_accepted(tmp_path: Path, algorithm: str) -> None:
    async with backend(tmp_path, Script(), jwt_key=public(algorithm), **OPTIONS) as server:
        assert await status(server.http, token(KEYS[algorithm], algorithm)) == 200
        assert await status(server.http, token(SECRET)) == 401


@pytest.mark.parametrize(("off", "expected"), [(50.0, 200), (70.0, 401)])
@pytest.mark.parametrize(("name", "direction"), [("exp", -1), ("nbf", 1), ("iat", 1)])
async def test_a_clock_may_differ_by_the_leeway_and_no_more(
    tmp_path: Path, name: str, direction: int, off: float, expected: int
) -> None:
    changes: dict[str, Any] = {name: time.time() + direction * off}
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS | {"jwt_leeway": 60.0}) as server:
        assert await status(server.http, token(**changes)) == expected


async def test_what_a_token_opened_ends_when_the_leeway_is_over_as_well() -> None:
    hook = jwt_authorize(Settings(jwt_key=SECRET, jwt_leeway=60.0))
    assert hook is not None
    expires = time.time() - 50
    given = jwt.encode({"sub": "dr-who", "exp": expires}, SECRET)
    request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"})
    assert (await hook(request, "patient:demo", "s1")).expires == pytest.approx(expires + 60)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", 401),
        ("no token", 401),
        (token(), 200),
        (token("another secret of 32 bytes or more"), 401),
        (token(exp=time.time() - 1), 401),
        (token(exp=None), 401),
        (token(sub=None), 401),
        (token(nbf=time.time() + 36_000), 401),
        (token(iss="https://other.example"), 401),
        (token(iss=None), 401),
        (token(aud="billing"), 401),
        (token(aud=["chat", "billing"]), 200),
        (token(patients=["patient:other"]), 403),
        (token(patients="patient:demo"), 200),
        (token(patients=None), 403),
        (token(patients={"patient:demo": 1}), 403),
        (token(KEYS["RS256"], "RS256"), 401),
        (unsigned({"alg": "none", "typ": "JWT"}), 401),
        (unsigned({"alg": "HS256", "typ": "JWT"}), 401),
        (base64.urlsafe_b64encode(b'{"alg":' + b"[" * 4000).decode() + ".e30.c2ln", 401),
    ],
)
async def test_a_token_is_held_to_its_claims(tmp_path: Path, given: str, expected: int) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        assert await status(server.http, given) == expected


async def decided(key: str, given: str, **options: Any) -> int:
    """The status of a request with this token, by the hook alone."""
    authorize = jwt_authorize(Settings(jwt_key=key, **options))
    assert authorize is not None
    try:
        await authorize(make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"}), None, None)
    except web.HTTPException as refused:
        return refused.status
    return 200


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: str, header: str = '{"alg": "HS256"}', secret: str = SECRET) -> str:
    """A token with a right signature, by hand: PyJWT would not make some of these."""
    given = f"{segment(header.encode())}.{segment(payload.encode())}"
    return f"{given}.{segment(hmac.digest(secret.encode(), given.encode(), hashlib.sha256))}"


async def test_a_token_signed_with_the_key_that_it_brings_along_is_refused() -> None:
    """RFC 8725 section 3.10."""
    own = "a secret of the attacker's own, of 32 bytes"
    header = json.dumps({"alg": "HS256", "jwk": {"kty": "oct", "k": segment(own.encode())}})
    assert await decided(SECRET, signed('{"sub": "a", "exp": 9e9}', header, secret=own)) == 401


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused() -> None:
    """RFC 8725 section 2.1."""
    key = public("RS256")
    for secret in (key, key.strip(), key + "\n"):
        assert await decided(key, signed('{"sub": "a", "exp": 9e9}', secret=secret)) == 401


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('{"alg": "HS256"}', 200),
        ('{"alg": "HS256", "kid": "one", "typ": "at+jwt"}', 200),
        ('{"alg": "none"}', 401),
        ('{"alg": "None"}', 401),
        ('{"alg": "hs256"}', 401),
        ('{"alg": "HS512"}', 401),
        ('{"alg": ["HS256"]}', 401),
        ('{"alg": "HS256", "alg": "none"}', 401),
        ('{"alg": null}', 401),
        ("{}", 401),
        ('{"alg": "HS256", "kid": 1}', 401),
        ('{"alg": "HS256", "crit": ["exp"]}', 401),
        ('{"alg": "HS256", "crit": []}', 401),
        ('{"alg": "HS256", "crit": ["b64"], "b64": false}', 401),
        ('{"alg": "HS256", "b64": false}', 401),
        # A key that the token brings along is not used, and nothing is fetched (RFC 8725 section 3.10).
        ('{"alg": "HS256", "jku": "http://127.0.0.1:9/", "jwk": {"kty": "oct", "k": "AAAA"}}', 200),
    ],
)
async def test_a_header_must_name_the_keys_algorithm_and_nothing_critical(header: str, expected: int) -> None:
    assert await decided(SECRET, signed('{"sub": "a", "exp": 9e9}', header)) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('{"sub": "a", "exp": 9000000000.5, "iat": 1.5, "nbf": 0}', 200),
        ('{"sub": "a", "exp": "9000000000"}', 401),
        ('{"sub": "a", "exp": true}', 401),
        ('{"sub": "a", "exp": NaN}', 401),
        ('{"sub": "a", "exp": Infinity}', 401),
        ('{"sub": "a", "exp": 1e999}', 401),
        ('{"sub": "a", "exp": 1' + "0" * 400 + "}", 401),
        ('{"sub": "a", "exp": 1' + "0" * 5000 + "}", 401),
        ('{"sub": "a", "exp": [9e9]}', 401),
        ('{"sub": "a", "exp": 9e9, "exp": 1}', 401),
        ('{"sub": "a", "exp": 9e9, "nbf": "0"}', 401),
        ('{"sub": "a", "exp": 9e9, "nbf": false}', 401),
        ('{"sub": "a", "exp": 9e9, "nbf": NaN}', 401),
        ('{"sub": "a", "exp": 9e9, "nbf": 8e9}', 401),
        ('{"sub": "a", "exp": 9e9, "iat": "1"}', 401),
        ('{"sub": "a", "exp": 9e9, "iat": true}', 401),
        ('{"sub": "a", "exp": 9e9, "iat": null}', 401),
        ('{"sub": "a", "exp": 9e9, "iat": -1' + "0" * 400 + "}", 401),
        ('{"sub": "", "exp": 9e9}', 401),
        ('{"sub": 1, "exp": 9e9}', 401),
        ('{"sub": "\\ud800", "exp": 9e9}', 401),
        ('{"sub": ["a"], "exp": 9e9}', 401),
        ('{"sub": "a", "exp": 9e9, "aud": "chat"}', 401),
        ('["sub", "exp"]', 401),
        ("[" * 100_000, 401),
        ("", 401),
    ],
)
async def test_a_signed_claim_must_have_the_standards_type(payload: str, expected: int) -> None:
    assert await decided(SECRET, signed(payload)) == expected


@pytest.mark.parametrize(
    ("given", "challenge", "text"),
    [
        ("", "Bearer", "A token is needed."),
        (token(aud="billing"), 'Bearer error="invalid_token"', "The token is not valid here."),
        (token(exp=1.0), 'Bearer error="invalid_token"', "The token has expired."),
    ],
)
async def test_a_refusal_says_what_is_wrong_with_a_token_and_nothing_that_stands_in_it(
    given: str, challenge: str, text: str
) -> None:
    """RFC 6750 section 3."""
    authorize = jwt_authorize(Settings(jwt_key=SECRET, **OPTIONS))
    assert authorize is not None
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    with pytest.raises(web.HTTPUnauthorized) as refused:
        await authorize(make_mocked_request("GET", "/", headers=headers), "patient:demo", None)
    assert (refused.value.headers["WWW-Authenticate"], refused.value.text) == (challenge, text)


@pytest.mark.parametrize(
    "given",
    [
        "x",
        "a.b",
        "a.b.c.d",
        ".e30.a",
        "a..a",
        "a.b.c!",
        "a b.c.d",
        "\u0661.a.a",
        "a" * 4097 + ".e30.a",
        "a.e30." + "a" * 1367,
    ],
)
async def test_what_cannot_be_a_token_is_refused_before_it_is_decoded(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def decode(self: jwt.PyJWT, token: str, *_: Any, **__: Any) -> dict[str, Any]:
        decoded.append(token)
        raise jwt.DecodeError

    monkeypatch.setattr(jwt.PyJWT, "decode", decode)
    hook = jwt_authorize(Settings(jwt_key=SECRET))
    assert hook is not None
    for text in (given, "a.e30.a", "aa==.e30.aa=="):
        request = make_mocked_request("GET", URL, headers={"Authorization": f"Bearer {text}"})
        with pytest.raises(web.HTTPUnauthorized):
            await hook(request, "patient:demo", "s1")
    assert decoded == ["a.e30.a", "aa==.e30.aa=="]


async def test_a_token_has_one_spelling() -> None:
    """Each would be verified again, and a list of refused tokens would miss it."""
    head, payload, signature = signed('{"sub": "a", "exp": 9e9}').split(".")
    assert await decided(SECRET, f"{head}.{payload}.{signature}") == 200
    for other in (signature[:-1] + chr(ord(signature[-1]) + 1), signature + "A", signature + "!", signature[:-1], ""):
        assert await decided(SECRET, f"{head}.{payload}.{other}") == 401
    for given in (f"{head}.{payload}", f"{head}.{payload}.{signature}.", f"{head}..{signature}", f"{head}.{payload}!."):
        assert await decided(SECRET, given) == 401


async def test_a_secret_that_is_a_public_key_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match=r"^jwt_key: this is a public key, but not in PEM: "):
        jwt_authorize(
            Settings(jwt_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl")
        )


async def test_what_a_responder_changes_of_the_claims_decides_nothing() -> None:
    authorize = jwt_authorize(Settings(jwt_key=SECRET, jwt_patients_claim="patients", jwt_audience="chat"))
    assert authorize is not None
    request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token()}"})
    metadata: Any = (await authorize(request, "patient:demo", None)).metadata
    metadata["patients"].append("patient:other")
    metadata["patients"] = ["patient:another"]
    for patient in ("patient:other", "patient:another"):
        with pytest.raises(web.HTTPForbidden):
            await authorize(request, patient, None)
    assert (await authorize(request, "patient:demo", None)).name == "dr-who"


async def test_tokens_that_were_verified_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = "moorline.gateway.common.access.jwt._MOST_VERIFIED"
    monkeypatch.setattr(limits, 5)
    authorize = jwt_authorize(Settings(jwt_key=SECRET, jwt_audience="chat"))
    assert authorize is not None

    async def kept(number: int) -> int:
        """How many are, once so many more were verified."""
        for _ in range(number):
            given = token(jti=str(next(numbers)), exp=expires)
            await authorize(make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"}), None, None)
        return len(authorize._verified)

    # All are of one length: the time is a whole number, since a fraction has more digits or less.
    numbers, expires = itertools.count(100), int(time.time()) + 3600
    assert (await kept(3), await kept(9)) == (3, 5)
    monkeypatch.setattr(f"{limits}_BYTES", 2 * len(token(jti="999", exp=expires)))
    assert await kept(1) == 2


async def test_a_token_that_was_verified_before_still_expires() -> None:
    authorize = jwt_authorize(Settings(jwt_key=SECRET, **OPTIONS))
    assert authorize is not None
    expires = int(time.time()) + 2
    request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token(exp=expires)}"})
    assert (await authorize(request, "patient:demo", None)).name == "dr-who"
    await until(lambda: time.time() >= expires)
    with pytest.raises(web.HTTPUnauthorized) as refused:
        await authorize(request, "patient:demo", None)
    assert refused.value.text == "The token has expired."


async def test_a_cookie_may_hold_the_token(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, jwt_cookie="session", **OPTIONS) as server:
        assert await status(server.http, "", cookies={"session": token()}) == 200
        assert await status(server.http, "", cookies={"other": token()}) == 401


async def test_bytes_that_are_no_text_are_no_token(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, jwt_cookie="session", **OPTIONS) as server:
        for line in (
            b"Authorization: Bearer \xff",
            b"Cookie: session=\xff",
            b"Sec-WebSocket-Protocol: moorline.jwt.\xff",
        ):
            async with dial(server.port) as peer:
                await peer.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (URL.encode(), line))
                assert (await peer.head()).startswith(b"HTTP/1.1 401 ")


# Sockets --------------------------------------------------------------------------------------------------------------


async def test_a_socket_is_refused_before_the_upgrade(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        for given, expected in ((None, 401), (token(patients=[]), 403)):
            offered = [f"moorline.jwt.{given}", "moorline"] if given else None
            with pytest.raises(InvalidStatus) as refused:
                await server.socket(subprotocols=offered)
            assert refused.value.response.status_code == expected


async def test_a_socket_ends_with_4401_as_its_token_expires_and_another_token_goes_on(
    tmp_path: Path, go_on: Callable[[float], None]
) -> None:
    script = Script("Good ")
    async with backend(tmp_path, script, jwt_key=SECRET, **OPTIONS) as server:
        async with server.socket(subprotocols=["moorline", f"moorline.jwt.{token()}"]) as socket:
            assert socket.subprotocol == "moorline"
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            await receive_until(socket, "delta")
            go_on(3600)
            async with asyncio.timeout(STEP):
                await socket.wait_closed()
            assert socket.close_code == 4401
        go_on(0)
        async with server.socket(subprotocols=["moorline", f"moorline.jwt.{token()}"]) as socket:
            await hello(socket)
            script.put("day.", None)
            assert (await receive_until(socket, "message"))[-1]["content"] == "Good day."


async def test_a_held_poll_ends_with_401_as_its_token_expires(tmp_path: Path, go_on: Callable[[float], None]) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        headers = {"Authorization": f"Bearer {token()}"}
        address = f"{server.http}{URL}&after=0&wait=20&epoch="
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.get(address) as snapshot:
                epoch = (await snapshot.json())["epoch"]
            await until(lambda: not server.app[RIGHTS]._held)
            polling = asyncio.create_task(http.get(address + epoch))
            await until(lambda: server.app[RIGHTS]._held)
            go_on(3600)
            async with asyncio.timeout(STEP), await polling as response:
                assert response.status == 401


# The issuer's keys ----------------------------------------------------------------------------------------------------


class Issuer:
    """Serves a JWK Set, and counts how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.body: bytes | None = None
        """What it sends instead."""
        self.status = 200
        self.asked = 0
        self.url = ""
        self.answers = asyncio.Event()
        self.answers.set()

    def add(self, kid: str, algorithm: str, key: Any = None) -> None:
        key = KEYS[algorithm] if key is None else key
        made = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        self.keys.append({**made, "kid": kid, "use": "sig"})

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.answers.wait()
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        return web.json_response({"keys": self.keys}, status=self.status)


@asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    running = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", running.handle)
    async with serving(app) as address:
        running.url = f"{address}/jwks"
        yield running


async def test_the_issuers_keys_are_fetched_once_and_chosen_by_their_id(tmp_path: Path) -> None:
    async with issuer() as issued:
        issued.add("one", "RS256")
        issued.add("two", "ES256")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            for kid, algorithm in (("one", "RS256"), ("two", "ES256"), ("one", "RS256")):
                assert await status(server.http, token(KEYS[algorithm], algorithm, kid=kid)) == 200
            assert issued.asked == 1
            # A known key of another algorithm, an unknown key, and none where there are two.
            for kid in ("two", "three", ""):
                assert await status(server.http, token(KEYS["RS256"], "RS256", kid=kid)) == 401
            assert issued.asked == 1, "unknown keys are asked for every ten seconds at most"


async def test_a_new_key_is_fetched_when_a_token_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{JWKS}._RETRY_SECONDS", 0.0)
    async with issuer() as issued:
        issued.add("one", "RS256")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 200
            issued.add("two", "EdDSA")
            assert await status(server.http, token(KEYS["EdDSA"], "EdDSA", kid="two")) == 200
            issued.status = 500
            assert await status(server.http, token(KEYS["ES256"], "ES256", kid="three")) == 401
            assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 200


async def test_a_token_whose_key_was_withdrawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{JWKS}._RETRY_SECONDS", 0.0)
    async with issuer() as issued:
        issued.add("one", "RS256")
        issued.add("two", "ES256")
        given = token(KEYS["RS256"], "RS256", kid="one")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, given) == 200
            del issued.keys[0]
            monkeypatch.setattr(f"{JWKS}._FRESH_SECONDS", 0.0)
            assert await status(server.http, given) == 401


async def test_an_issuer_that_does_not_answer_any_more_delays_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuer() as issued:
        issued.add("one", "RS256")
        given = token(KEYS["RS256"], "RS256", kid="one")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, given) == 200
            for name, seconds in (("_FRESH_SECONDS", 0.0), ("_RETRY_SECONDS", 0.0), ("_FETCH_SECONDS", 0.3)):
                monkeypatch.setattr(f"{JWKS}.{name}", seconds)
            issued.answers.clear()
            assert await status(server.http, given) == 200
            monkeypatch.setattr(f"{JWKS}._FETCH_SECONDS", 3600.0)
            async with asyncio.timeout(STEP):
                assert [await status(server.http, given) for _ in range(3)] == [200] * 3
            issued.keys.clear()
            issued.answers.set()
            async with asyncio.timeout(STEP):
                while await status(server.http, given) == 200:
                    pass


async def test_a_token_with_a_new_key_waits_for_keys_that_are_being_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuer() as issued:
        issued.add("one", "RS256")
        known, new = token(KEYS["RS256"], "RS256", kid="one"), token(KEYS["ES256"], "ES256", kid="two")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, known) == 200
            monkeypatch.setattr(f"{JWKS}._FRESH_SECONDS", 0.0)
            monkeypatch.setattr(f"{JWKS}._RETRY_SECONDS", 0.0)
            issued.status = 500
            assert await status(server.http, known) == 200
            issued.add("two", "ES256")
            issued.status = 200
            issued.answers.clear()
            assert await status(server.http, known) == 200
            monkeypatch.setattr(f"{JWKS}._RETRY_SECONDS", 10.0)
            asking = asyncio.create_task(status(server.http, new))
            await asyncio.wait([asking], timeout=0.1)
            assert not asking.done()
            issued.answers.set()
            async with asyncio.timeout(STEP):
                assert await asking == 200


@pytest.mark.parametrize("header", ["", "{", "[]", '"one"', '{"kid": ["one"]}', "\xff", "[" * 3000])
async def test_a_token_whose_header_names_no_key_is_refused(tmp_path: Path, header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode("latin-1")).rstrip(b"=").decode()
    async with issuer() as issued:
        issued.add("one", "RS256")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            for given in (f"{encoded}.e30.AAAA", encoded, f"{encoded}=.e30.AAAA"):
                assert await status(server.http, given) == 401


async def test_without_any_keys_yet_the_answer_is_503(tmp_path: Path) -> None:
    async with issuer() as issued:
        issued.status = 500
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 503


async def test_keys_to_which_the_issuers_address_redirects_are_not_taken(tmp_path: Path) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        return web.json_response({"keys": issued.keys}, status=302, headers={"Location": issued.url})

    app = web.Application()
    app.router.add_get("/jwks", elsewhere)
    async with issuer() as issued, serving(app) as address:
        issued.add("one", "RS256")
        async with backend(tmp_path, Script(), jwt_jwks_url=f"{address}/jwks", **OPTIONS) as server:
            assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 503
        assert issued.asked == 0


async def test_an_issuer_that_sends_too_much_is_not_read_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(1 << 19))
        await asyncio.Event().wait()
        return response

    monkeypatch.setattr(f"{JWKS}._FETCH_SECONDS", STEP)
    app = web.Application()
    app.router.add_get("/jwks", endless)
    async with (
        serving(app) as address,
        backend(tmp_path, Script(), jwt_jwks_url=f"{address}/jwks", **OPTIONS) as server,
    ):
        assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 503
    assert "more than 256 KiB" in caplog.text


async def test_a_token_that_is_verified_twice_at_once_is_kept_and_counted_once() -> None:
    async with issuer() as issued:
        issued.add("one", "RS256")
        authorize = jwt_authorize(Settings(jwt_jwks_url=issued.url, jwt_audience="chat"))
        assert authorize is not None
        given = token(KEYS["RS256"], "RS256", kid="one")
        request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"})
        await asyncio.gather(*(authorize(request, None, None) for _ in range(2)))
    assert (len(authorize._verified), authorize._verified_bytes) == (1, len(given))


async def test_a_shared_secret_in_a_public_set_is_no_key(tmp_path: Path) -> None:
    async with issuer() as issued:
        secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
        issued.keys.append({"kty": "oct", "k": secret, "kid": "one", "alg": "HS256"})
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, token(kid="one")) == 401


async def test_a_short_key_in_the_set_is_no_key(tmp_path: Path) -> None:
    short = rsa.generate_private_key(65537, 1024)
    async with issuer() as issued:
        issued.add("one", "RS256", short)
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            with pytest.warns(jwt.InsecureKeyLengthWarning):
                given = token(short, "RS256", kid="one")
            assert await status(server.http, given) == 401


def jwk(algorithm: str, key: Any = None, **changes: Any) -> dict[str, Any]:
    """A public key as a member of a set."""
    key = KEYS[algorithm].public_key() if key is None else key
    made = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(key, as_dict=True)
    return {name: value for name, value in {**made, "kid": "odd", **changes}.items() if value is not None}


ODD: tuple[Any, ...] = (None, 1, True, [], {}, "", "!", "\ud800", "A", "A" * 8000, "f" * 8000)
ODD_MEMBERS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("RS256", "kty", (None, ["RSA"], {"RSA": 1}, 1, True, "", "rsa", "RSA ", "OKP", "EC", "oct")),
    ("RS256", "kid", (1, 1.5, True, [], ["odd"], {"odd": 1})),
    ("RS256", "use", ("enc", "", 1, ["sig"], {})),
    ("RS256", "alg", ("RS512", "PS256", "none", "HS256", "", 1, ["RS256"], {})),
    ("RS256", "n", ODD),
    ("RS256", "e", (*ODD, "AQ", "Ag")),
    ("ES256", "x", ODD),
    ("ES256", "crv", (*ODD, "P-384", "secp256k1")),
    ("EdDSA", "x", ODD),
    ("EdDSA", "crv", (*ODD, "X25519", "P-256")),
    # Of a private key, which all may know now.
    *((algorithm, "d", (1, "", "AQAB", [])) for algorithm in KEYS),
)
#: What is no key, or none that a token may be signed with.
ODD_KEYS: tuple[Any, ...] = (
    *(None, True, 1, "RSA", [], [["kty", "RSA"]], {}, {"kid": "odd"}),
    *(jwk(algorithm, **{name: value}) for algorithm, name, values in ODD_MEMBERS for value in values),
    *(jwk(algorithm, key) for algorithm, key in KEYS.items()),
)


async def test_odd_members_of_a_set_are_no_keys_and_the_others_of_it_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="moorline.jwt")
    async with issuer() as issued:
        issued.keys = [*ODD_KEYS, jwk("ES256", kid="one"), *ODD_KEYS, jwk("RS256", kid="one")]
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            assert await status(server.http, token(KEYS["ES256"], "ES256", kid="one")) == 200
            for algorithm, key in KEYS.items():
                assert await status(server.http, token(key, algorithm, kid="odd")) == 401
            # Of two keys with one id the first counts.
            assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 401
    others = 2 * len(ODD_KEYS) + 1
    lines = [line for line in caplog.messages if line.startswith("jwt_jwks_url: ")]
    assert lines == [f"jwt_jwks_url: the issuer has 1 key that can verify a token, and {others} others"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "\0",
        "\xff",
        "[]",
        "7",
        '"keys"',
        "null",
        "{}",
        '{"keys": null}',
        '{"keys": {}}',
        '{"keys": "RSA"}',
        '{"keys": 1' + "0" * 5000 + "}",
        "[" * 200_000,
        '{"keys": ' + "[" * 200_000,
        '{"keys": [' + "{}," * 100_000 + "{}]}",
    ],
    ids=lambda body: body[:12],
)
async def test_what_is_no_set_of_keys_is_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    async with issuer() as issued:
        issued.body = body.encode("latin-1")
        async with backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
            for _ in range(2):
                assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 503
    (line,) = (line for line in caplog.messages if line.startswith("jwt_jwks_url: "))
    assert line.startswith("jwt_jwks_url: the issuer's keys cannot be fetched: ")


async def test_a_set_without_a_key_that_counts_refuses_all_tokens_and_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuer() as issued, backend(tmp_path, Script(), jwt_jwks_url=issued.url, **OPTIONS) as server:
        assert await status(server.http, token(KEYS["RS256"], "RS256", kid="one")) == 401
    assert "jwt_jwks_url: the issuer has 0 keys that can verify a token, and 0 others" in caplog.messages


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jwt_issuer", "jwt_audience", "jwt_cookie", "jwt_patients_claim"])
def test_what_is_said_of_tokens_without_a_key_is_refused(name: str) -> None:
    options: dict[str, Any] = {name: "x"}
    message = rf"^{name}: without a key no token is asked for; set jwt_jwks_url or jwt_key_file$"
    with pytest.raises(UsageError, match=message):
        Settings(**options)


def test_tokens_and_a_function_of_ones_own_exclude_each_other() -> None:
    with pytest.raises(UsageError, match=r"^jwt_key: authorize is set as well; write one of them$"):
        Settings(jwt_key=SECRET, authorize="app:authorize")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jwt_key": "short"}, "jwt_key: the secret has fewer than 32 bytes; try openssl rand -hex 32"),
        ({"jwt_key": SECRET, "jwt_key_file": "x"}, "jwt_key_file: jwt_key is set as well; write one of them"),
        ({"jwt_key": pem(rsa.generate_private_key(65537, 1024))}, "jwt_key: is not a public key of RSA, P-256 or "),
        ({"jwt_key": pem(ec.generate_private_key(ec.SECP384R1()))}, "jwt_key: is not a public key of RSA, P-256 or "),
        (
            {"jwt_key_file": "/nowhere/key.pem"},
            'jwt_key_file: "/nowhere/key.pem" cannot be read (No such file or directory)',
        ),
        (
            {"jwt_key": "-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----"},
            "jwt_key: is not a public key of RSA, P-256 or Ed25519 in PEM",
        ),
        (
            {"jwt_key": "-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----"},
            "jwt_key: this is a private key; give the public one: ",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        jwt_authorize(Settings(**options))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_file_with_a_key_in_der_is_told_how_a_key_is_written(tmp_path: Path) -> None:
    (tmp_path / "key.der").write_bytes(b"\x30\x82\x01\x22")
    with pytest.raises(UsageError, match=r'^jwt_key_file: ".*key\.der" is not text; write a public key in PEM \('):
        jwt_authorize(Settings(jwt_key_file=str(tmp_path / "key.der")))


def test_a_file_may_hold_the_key(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(public("ES256"), encoding="utf-8")
    assert jwt_authorize(Settings(jwt_key_file=str(tmp_path / "key.pem"))) is not None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (token(aud="billing"), "WARNING 1 token was refused: `aud` does not name jwt_audience"),
        (token(iss="https://other.example"), "WARNING 1 token was refused: `iss` is not jwt_issuer"),
        (token(nbf=time.time() + 36_000), "WARNING 1 token was refused: `nbf` or `iat` is in the future; "),
        (token(sub=None), "WARNING 1 token was refused: `exp` or `sub` is missing, "),
        (token("another secret of 32 bytes or more"), "WARNING 1 token was refused: not signed with the key "),
        (token(KEYS["RS256"], "RS256"), "WARNING 1 token was refused: signed with another algorithm "),
        (token(exp=1.0), "INFO 1 token was refused: expired; "),
        ("no-token", "WARNING 1 token was refused: not a JSON Web Token, "),
    ],
)
async def test_the_log_tells_once_a_minute_why_tokens_are_refused(
    caplog: pytest.LogCaptureFixture, given: str, line: str
) -> None:
    caplog.set_level("INFO")
    authorize = jwt_authorize(Settings(jwt_key=SECRET, **OPTIONS))
    assert authorize is not None
    request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"})
    for _ in range(3):
        with pytest.raises(web.HTTPUnauthorized):
            await authorize(request, "patient:demo", None)
    (told,) = [f"{record.levelname} {record.message}" for record in caplog.records]
    assert told.startswith(line)


async def test_no_line_of_the_log_holds_a_token_or_a_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        for given in (token(), token("another secret of 32 bytes or more"), token(patients=[])):
            await status(server.http, given)
            assert given.partition(".")[2][:40] not in caplog.text
    assert "dr-who" not in caplog.text
    assert SECRET not in caplog.text


# Principals -----------------------------------------------------------------------------------------------------------


async def test_a_revocation_refuses_the_tokens_that_were_issued_before_it(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        at = await server.log.revoke("dr-who")
        assert await status(server.http, token(iat=int(at))) == 401
        assert await status(server.http, token()) == 401
        assert await status(server.http, token(sub="nurse", iat=int(at))) == 200


async def test_a_token_that_is_issued_after_a_revocation_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        second = int(time.time()) - 1000
        monkeypatch.setattr(time, "time", lambda: second + 0.5)
        await server.log.revoke("dr-who")
        monkeypatch.undo()
        assert await status(server.http, token(iat=second)) == 401
        assert await status(server.http, token(iat=second + 1)) == 200


async def test_a_token_that_is_older_than_any_revocation_is_kept_is_refused(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), jwt_key=SECRET, **OPTIONS) as server:
        assert await status(server.http, token(iat=int(time.time() - REVOKED_SECONDS - 1))) == 401
        assert await status(server.http, token(iat=int(time.time() - REVOKED_SECONDS + 60))) == 200
        assert await status(server.http, token(iat=None)) == 200


async def test_the_limits_of_a_principal_hold_for_all_of_its_tokens(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"rate_limit_per_principal": 1, "rate_limit_per_address": None, "rate_limit": None}
    async with backend(tmp_path, Script("one", None), jwt_key=SECRET, **OPTIONS, **limits) as server:
        assert await send(server.http, token(jti="one"), "c1") == (202, "")
        status, retry_after = await send(server.http, token(jti="two"), "c2", session="s2")
        assert (status, 50 < int(retry_after) <= 60) == (429, True)
        assert (await send(server.http, token(sub="nurse"), "c3", session="s3"))[0] == 202
