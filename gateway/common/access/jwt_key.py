"""The key that the options name: a public key in PEM or a shared secret, checked once. Pure.

PyJWT is the extra `jwt`, which is looked for once a key is there.
"""

import base64
from typing import TYPE_CHECKING

from moorline.gateway.common.errors import UsageError

if TYPE_CHECKING:
    import jwt

__all__ = ["is_sound", "parse_key"]

# A shorter secret can be guessed from one token (RFC 7518 section 3.2).
_LEAST_SECRET = 32
# A shorter key of RSA can be factored (RFC 7518 section 3.3).
_LEAST_RSA_BITS = 2048
# OpenSSL verifies nothing with a longer one.
_MOST_RSA_BITS = 16_384


def parse_key(text: str, option: str) -> "jwt.PyJWK":
    """The key in `text`, with the one algorithm that it is for.

    Raises:
        UsageError: it cannot be used; the message does not quote it.
    """
    import jwt
    from jwt.algorithms import get_default_algorithms

    if "-----BEGIN" not in text:
        return _secret(text.encode(), option)
    if "PRIVATE KEY" in text:
        raise UsageError(f"{option}: this is a private key; give the public one: openssl pkey -in KEY -pubout")
    for name in ("RS256", "ES256", "EdDSA"):
        algorithm = get_default_algorithms()[name]
        try:
            public = algorithm.prepare_key(text)
            key = jwt.PyJWK(algorithm.to_jwk(public, as_dict=True), algorithm=name)
        except (jwt.InvalidKeyError, jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        if is_sound(key):
            return key
    raise UsageError(f"{option}: is not a public key of RSA, P-256 or Ed25519 in PEM; RSA needs {_LEAST_RSA_BITS} bits")


def is_sound(key: "jwt.PyJWK") -> bool:
    """Whether this public key may be used with its algorithm. PyJWT warns of a short one for each token, and of its
    versions some take any curve."""
    if key.algorithm_name == "RS256":
        return bool(_LEAST_RSA_BITS <= key.key.key_size <= _MOST_RSA_BITS)
    return key.algorithm_name != "ES256" or bool(key.key.curve.name == "secp256r1")


def _secret(secret: bytes, option: str) -> "jwt.PyJWK":
    import jwt
    from jwt.algorithms import HMACAlgorithm

    class CheckedSecret(HMACAlgorithm):
        """PyJWT checks for each token again that a shared secret is no public key (RFC 8725 section 2.1), which costs
        13 us where the signature costs 3. This one is checked when it is read, and belongs to one algorithm.
        """

        def prepare_key(self, key: str | bytes) -> bytes:
            """The secret as it is."""
            return key if isinstance(key, bytes) else key.encode()

    if len(secret) < _LEAST_SECRET:
        raise UsageError(f"{option}: the secret has fewer than {_LEAST_SECRET} bytes; try openssl rand -hex 32")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise UsageError(f"{option}: this is a public key, but not in PEM: openssl pkey -pubin -outform PEM") from None
    encoded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    key = jwt.PyJWK({"kty": "oct", "k": encoded}, algorithm="HS256")
    key.Algorithm = CheckedSecret(HMACAlgorithm.SHA256)
    return key
