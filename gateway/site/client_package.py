"""/moorline-client.tgz: the JavaScript client for `npm install`, packed from the files that the built-in page loads."""

import functools
import io
import json
import struct
import zlib
from pathlib import Path

from aiohttp import web

from moorline.gateway.site.static import BUILT_IN

__all__ = ["CLIENT", "client_package"]

CLIENT = BUILT_IN / "client"
# npm adds these whatever `files` says.
_ALWAYS = ("LICENSE", "README.md", "package.json")
# The one that npm itself writes: 1985-10-26T08:15:00Z. ZIP files know no earlier year than 1980.
_MODIFIED = 499_162_500
# Magic number, deflate, no flags, no time, no level, unknown system; RFC 1952 section 2.3.
_GZIP_HEADER = bytes.fromhex("1f8b08000000000000ff")
_MAX_STORED = 0xFFFF


async def client_package(request: web.Request) -> web.Response:
    """The package. An unchanged moorline sends the same bytes: their hash stands in lock files."""
    # Built at the first request, not with the wheel: it is the same after an editable install.
    return web.Response(body=_package(), content_type="application/gzip", headers={"Cache-Control": "no-cache"})


@functools.cache
def _package() -> bytes:
    return _gzip(_tar(CLIENT))


def _tar(folder: Path) -> bytes:
    import tarfile

    files = json.loads((folder / "package.json").read_text(encoding="utf-8"))["files"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted({*files, *_ALWAYS}):
            content = (folder / name).read_bytes()
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mtime = len(content), _MODIFIED
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _gzip(content: bytes) -> bytes:
    """Stored, not compressed: zlib and zlib-ng compress to other bytes, and each machine must give the same hash."""
    starts = range(0, len(content), _MAX_STORED)
    blocks = (_stored(content[start : start + _MAX_STORED], is_last=start == starts[-1]) for start in starts)
    return _GZIP_HEADER + b"".join(blocks) + struct.pack("<II", zlib.crc32(content), len(content))


def _stored(block: bytes, *, is_last: bool) -> bytes:
    """RFC 1951 section 3.2.4."""
    return struct.pack("<BHH", is_last, len(block), len(block) ^ _MAX_STORED) + block
