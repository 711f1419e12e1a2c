"""A program reads the certificates of the system's authorities once something speaks TLS with aiohttp's own context."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import test_utils, web

from tests.support.certificates import Certificate, certificate

PROGRAM = """
import asyncio, os, sys
from moorline.gateway.common.web.authorities import import_aiohttp
import_aiohttp()
import aiohttp
os.rename(sys.argv[1], os.environ["SSL_CERT_FILE"])
async def main():
    async with aiohttp.ClientSession() as client:
        for address in sys.argv[2:]:
            try:
                async with client.get(address) as response:
                    print(response.status)
            except aiohttp.ClientConnectorCertificateError:
                print("not trusted")
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def served(own: Certificate) -> AsyncIterator[str]:
    """The address of a server with this certificate."""
    server = test_utils.TestServer(web.Application(), host="localhost", scheme="https")
    await server.start_server(ssl=own.server())
    yield str(server.make_url("/"))
    await server.close()


async def test_the_authorities_are_read_after_the_import_and_none_else_is_trusted(tmp_path: Path) -> None:
    trusted, other = await certificate(tmp_path), await certificate(tmp_path, "other.example")
    environ = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "authorities.pem"), "SSL_CERT_DIR": str(tmp_path)}
    async with served(trusted) as first, served(other) as second:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(trusted.file), first, second, env=environ, stdout=PIPE
        )
        out, _ = await program.communicate()
    assert out.split() == [b"404", b"not", b"trusted"]
