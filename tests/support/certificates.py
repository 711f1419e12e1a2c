"""Certificates made by openssl, for servers of this machine."""

import dataclasses
import ssl
from pathlib import Path

from tests.support.needs import program
from tests.support.nginx import run

__all__ = ["Certificate", "certificate"]


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed one, which is its own authority."""

    file: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """What a server speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


async def certificate(folder: Path, name: str = "localhost", *, expired: bool = False) -> Certificate:
    """One for this name, and for 127.0.0.1 where the name is localhost."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    names = f"subjectAltName=DNS:{name}" + ",IP:127.0.0.1" * (name == "localhost")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(made.key))
    openssl, subject = program("openssl"), ("-subj", f"/CN={name}", "-addext", names)
    if not expired:
        await run(openssl, "req", "-x509", *key, "-days", "2", *subject, "-out", str(made.file))
        return made
    # `req` takes no date in the past.
    request, signing = (
        str(folder / "request.pem"),
        ("-signkey", str(made.key), "-days", "-1", "-copy_extensions", "copy"),
    )
    await run(openssl, "req", *key, *subject, "-out", request)
    await run(openssl, "x509", "-req", "-in", request, *signing, "-out", str(made.file))
    return made
