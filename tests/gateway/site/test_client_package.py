"""The JavaScript client as a package for npm."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

from moorline import __version__
from moorline.gateway.site.client_package import CLIENT
from tests.gateway.conftest import StartGateway
from tests.support import needs

ROOT = Path(__file__).parents[3]
MANIFEST = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))


async def packed(start_gateway: StartGateway) -> bytes:
    response = await (await start_gateway(9)).get("/moorline-client.tgz")
    assert (response.status, response.content_type) == (200, "application/gzip")
    return await response.read()


async def test_the_package_holds_the_files_that_the_page_loads(start_gateway: StartGateway, tmp_path: Path) -> None:
    package = await packed(start_gateway)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        archive.extractall(tmp_path, filter="data")
    found = {path.name: path.read_bytes() for path in (tmp_path / "package").iterdir()}
    assert found == {path.name: path.read_bytes() for path in CLIENT.iterdir()}


async def test_its_hash_depends_on_nothing_but_its_files(start_gateway: StartGateway) -> None:
    # A lock file has it: one that another machine wrote must fit. The tar's own hash is that of its parts.
    package = await packed(start_gateway)
    assert package[:10] == bytes.fromhex("1f8b08000000000000ff")
    content = gzip.decompress(package)
    stored = 5 * -(-len(content) // 0xFFFF)
    assert len(package) == len(content) + 18 + stored
    assert hashlib.sha512(package).digest() == hashlib.sha512(await packed(start_gateway)).digest()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {(member.mtime, member.mode, member.uid, member.uname) for member in archive} == {
            (499_162_500, 0o644, 0, "")
        }


def test_its_version_and_license_are_moorlines() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (MANIFEST["version"], MANIFEST["license"]) == (__version__, project["license"])
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_module_that_another_imports_is_packed() -> None:
    for name in MANIFEST["files"]:
        text = (CLIENT / name).read_text(encoding="utf-8")
        imported = re.findall(r"""from ['"]\./([^'"]+)['"]""", text)
        assert [module for module in imported if not (CLIENT / module).exists() and module != "types.js"] == []


@needs.npm
@pytest.mark.timeout(120)
def test_npm_pack_makes_the_same_package(tmp_path: Path) -> None:
    npm = needs.program("npm")
    # The home may not be writable.
    env = {**os.environ, "npm_config_cache": str(tmp_path / "cache")}
    done = subprocess.run([npm, "pack", "--json", CLIENT], cwd=tmp_path, env=env, capture_output=True, check=True)
    (made,) = json.loads(done.stdout)
    assert made["filename"] == f"moorline-client-{MANIFEST['version']}.tgz"
    assert sorted(file["path"] for file in made["files"]) == sorted(path.name for path in CLIENT.iterdir())
