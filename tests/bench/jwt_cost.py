"""What a token costs a handshake: `python -m tests.bench jwt [--tokens N]`.

For each algorithm the CPU time of the authorize hook that checks tokens, beside none: for the first request of a token,
for a later one, whose token was verified before, and the mean of a client that sends the same token so many times.
Beside the first stands what the arithmetic of its signature takes alone, in the library that does it; a verification
cannot cost less.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jwt
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from moorline.backend.settings import Settings
from moorline.gateway.common.access.jwt import JwtAuthorize, jwt_authorize
from tests.bench.table import columns, number

__all__ = ["MARK", "main", "measure"]

T = TypeVar("T")

#: Microseconds of a handshake beside none.
MARK = 30
_SECRET = "0123456789abcdef0123456789abcdef"
_KEYS: Mapping[str, Callable[[], Any]] = {
    "HS256": lambda: _SECRET,
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_ROUNDS = 5
_GROUP = 10
_ROWS = (
    "first request of a token",
    "of that the signature alone",
    "of that all besides",
    "later request of a token",
)
#: Handshakes of one token: a client that comes back as often as that until it expires, less one.
_HANDSHAKES = (2, 10)


async def measure(tokens: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU time, by row and algorithm; of `tokens` tokens each."""
    found: dict[str, dict[str, float]] = {row: {} for row in _ROWS}
    for algorithm, make in _KEYS.items():
        key = make()
        public = key if isinstance(key, str) else _pem(key)
        claims = {"sub": "dr-who", "exp": time.time() + 3600, "iat": time.time()}
        given = [jwt.encode({**claims, "jti": str(each)}, key, algorithm=algorithm) for each in range(tokens)]
        requests = [_request(each) for each in given]
        hook = jwt_authorize(Settings(jwt_key=public))
        assert hook is not None
        first = await _cost(hook, requests)
        later = statistics.median([await _cost(hook, requests) for _ in range(_ROUNDS)])
        signature = _arithmetic(algorithm, public, given)
        for row, value in zip(_ROWS, (first, signature, first - signature, later), strict=True):
            found[row][algorithm] = value
        for count in _HANDSHAKES:
            found.setdefault(f"mean of {count} handshakes", {})[algorithm] = (first + later * (count - 1)) / count
    return found


def _pem(key: Any) -> str:
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = key.public_key().public_bytes(encoding, kind)
    return pem.decode()


def _request(token: str) -> web.Request:
    return make_mocked_request("GET", "/ws/chat/p1/s1", headers={"Authorization": f"Bearer {token}"})


async def _cost(hook: JwtAuthorize, requests: Sequence[web.Request]) -> float:
    costs = []
    for some in _groups(requests):
        began = time.thread_time()
        for request in some:
            await hook(request, "p1", "s1")
        costs.append((time.thread_time() - began) / len(some) * 1e6)
    return statistics.median(costs)


def _arithmetic(algorithm: str, public: str, tokens: Sequence[str]) -> float:
    method = jwt.get_algorithm_by_name(algorithm)
    key = method.prepare_key(public)
    signed = [
        (each.rpartition(".")[0].encode(), jwt.utils.base64url_decode(each.rpartition(".")[2])) for each in tokens
    ]
    costs = []
    for some in _groups(signed):
        began = time.thread_time()
        for message, signature in some:
            if not method.verify(message, key, signature):
                raise RuntimeError("a signature of the measurement's own is wrong")
        costs.append((time.thread_time() - began) / len(some) * 1e6)
    return statistics.median(costs)


def _groups(each: Sequence[T]) -> Iterator[Sequence[T]]:
    """The median of the groups is what it costs where no other program slows this one down for a moment."""
    return (each[first : first + _GROUP] for first in range(0, len(each), _GROUP))


def main(arguments: Sequence[str]) -> int:
    """Print it; 1 where a later request of a token misses its mark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench jwt", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=500, help="of each algorithm (default: %(default)s)")
    found = asyncio.run(measure(parser.parse_args(arguments).tokens))
    shown = [[row, "us", *(number(found[row][name]) for name in _KEYS)] for row in found]
    print(columns([["", "", *_KEYS], *shown], left=2))
    marked = [row for row in found if not row.startswith("of ")]
    missed = {row: [name for name, value in found[row].items() if value > MARK] for row in marked}
    for row, names in missed.items():
        print(f"mark {MARK} us, {row}: " + (f"missed by {', '.join(names)}" if names else "reached"))
    return int(bool(missed[_ROWS[-1]]))
