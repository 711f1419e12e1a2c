"""The server's certificate: read, checked as a client would, and read again when its files change.

A renewed certificate serves the next connection, without a signal: certbot and its like replace the files, and their
state is compared at a handshake, at most once a second. A pair that cannot be used, as between the replacement of the
one file and of the other, leaves the last good one in service.
"""

import contextlib
import logging
import os
import ssl
from pathlib import Path

from aiohttp import web

from moorline.gateway.common.errors import UsageError

__all__ = ["SERVER_TLS", "ServerTls"]

log = logging.getLogger("moorline.http")

# TLS 1.3 has none but these; of TLS 1.2 those with forward secrecy and authenticated encryption: Mozilla's
# "intermediate" without finite-field DHE, which every browser that knows TLS 1.2 can do without.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_CHECK_SECONDS = 1.0
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module `ssl` does not name: the dates are read of an expired one, too.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
# Of a handshake in memory; TLS 1.2 needs two round trips.
_MOST_ROUNDS = 4


class ServerTls:
    """The context for new connections, of a certificate's chain and its key (PEM).

    Raises:
        UsageError: they cannot be used; it names the option.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self._state = self._files_state()
        self._context = _read(certificate, key)
        self._next_check = 0.0
        self._expiry = _expiry(self._context, certificate)

    def warn(self) -> None:
        """Say in the log what does not prevent a start, and yet fails clients or exposes the key."""
        for warning in (_exposed(self._key), _refused_by_clients(self._context, self._certificate)):
            if warning:
                log.warning("%s", warning)

    def context(self, now: float) -> ssl.SSLContext:
        """For a connection that begins `now`, on a monotonic clock."""
        if now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            if (state := self._files_state()) != self._state:
                self._state = state
                self._read_again()
        return self._context

    def expiry(self, now: float) -> float | None:
        """When the certificate for a connection that begins `now` expires, as `time.time()` counts; None where every
        client refuses it for another reason."""
        self.context(now)
        return self._expiry

    def _read_again(self) -> None:
        try:
            self._context = _read(self._certificate, self._key)
            self._expiry = _expiry(self._context, self._certificate)
        except UsageError as error:
            log.error("the certificate read before serves on: %s", error)
            return
        log.info("tls_certificate: %s was read again", self._certificate)
        self.warn()

    def _files_state(self) -> tuple[object, ...]:
        return tuple(map(_state, (self._certificate, self._key)))


SERVER_TLS = web.AppKey("server_tls", ServerTls)
"""Set by an application whose listeners speak TLS."""


def _state(path: str) -> tuple[int, int, int] | None:
    """What changes with a file: a rename over it changes the inode. Links are followed, as certbot moves them."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(certificate: str, key: str) -> ssl.SSLContext:
    if _CERTIFICATE not in _bytes("tls_certificate", certificate):
        raise UsageError(f'tls_certificate: "{certificate}" holds no certificate (PEM)')
    if _KEY not in _bytes("tls_certificate_key", key):
        raise UsageError(f'tls_certificate_key: "{key}" holds no private key (PEM)')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # A client that asks for a new handshake again and again would cost the server a signature each time.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    asked: list[bool] = []

    def passphrase() -> str:
        asked.append(True)
        return ""

    try:
        # Without this function OpenSSL asks at the terminal, and a server would wait for ever.
        context.load_cert_chain(certificate, key, passphrase)
    except (OSError, ValueError) as error:
        raise UsageError(_why_not(error, certificate, key, encrypted=bool(asked))) from None
    return context


def _bytes(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f'{option}: "{path}" cannot be read ({error.strerror})') from None


def _why_not(error: Exception, certificate: str, key: str, *, encrypted: bool) -> str:
    if encrypted:
        return f'tls_certificate_key: "{key}" has a passphrase; write the key to a file without one'
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or "unknown reason"
    if reason == "KEY_VALUES_MISMATCH":
        return f'tls_certificate_key: "{key}" is not the key of the first certificate in "{certificate}"'
    return f'tls_certificate: OpenSSL refuses "{certificate}" with "{key}" ({reason.replace("_", " ").lower()})'


def _exposed(key: str) -> str:
    with contextlib.suppress(OSError):
        if os.stat(key).st_mode & 0o007:
            return f'tls_certificate_key: every user of this machine may read "{key}"; chmod o= it'
    return ""


def _refused_by_clients(server: ssl.SSLContext, certificate: str) -> str:
    """Why every client would refuse the certificate: above all that it has expired. Whether its authority is known to
    them is not asked, nor which name they use.
    """
    try:
        _shake_hands(_client(certificate), server)
    except ssl.SSLCertVerificationError as error:
        return f'tls_certificate: clients will refuse "{certificate}": {error.verify_message}'
    except ssl.SSLError as error:
        return f'tls_certificate: clients will refuse "{certificate}": {error.reason}'
    return ""


def _expiry(server: ssl.SSLContext, certificate: str) -> float | None:
    try:
        client = _client(certificate)
        client.verify_flags |= _NO_CHECK_TIME
        found = _shake_hands(client, server).getpeercert() or {}
    except ssl.SSLError:
        return None
    return ssl.cert_time_to_seconds(str(found["notAfter"])) if "notAfter" in found else None


def _client(certificate: str) -> ssl.SSLContext:
    """The context of a client that trusts this certificate, and no other."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    return client


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a handshake in memory: the standard library has no other view of a certificate's dates and
    purpose."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_MOST_ROUNDS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0]
