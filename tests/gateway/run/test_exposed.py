"""No client may read the chats, the audit log or the configuration by way of the frontend folder."""

from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway_process import echoing
from tests.support.process import refused, run_program

PRIVATE = (
    "moorline.db",
    "moorline.db-wal",
    "moorline.db-shm",
    "moorline.db-erased",
    "moorline.db-backup-x1y2",
    "chats.sqlite3",
    "moorline.toml",
    ".env",
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A built site, in a project's folder."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("<title>index</title>")
    return folder


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), 'database: "sqlite:///moorline.db"'),
        (("--database", "sqlite:///inner/chats"), 'database: "sqlite:///inner/chats"'),
        (("--database", "sqlite:////tmp/chats.db", "--audit-log", "audit.log"), 'audit_log: "audit.log"'),
        (("--database", "sqlite:////tmp/chats.db", "--config", "own.toml"), '--config: "own.toml"'),
        (("--database", "sqlite:////tmp/chats.db", "--jwt-key-file", "key.pem"), 'jwt_key_file: "key.pem"'),
        (
            ("--tls-certificate", "/tmp/chain.pem", "--tls-certificate-key", "key.pem"),
            'tls_certificate_key: "key.pem"',
        ),
    ],
)
async def test_serve_refuses_a_frontend_folder_that_holds_what_is_private(
    options: tuple[str, ...], named: str, site: Path
) -> None:
    (site / "own.toml").write_text("")
    line = await refused("serve", "--port", "0", "--frontend", ".", *options, cwd=site)
    assert line == (
        f'{named} is inside the frontend folder ".", whose files every client may read; '
        "move it out, or name the folder that the build wrote, often dist"
    )
    assert not (site / "moorline.db").exists()


async def test_serve_refuses_a_frontend_folder_that_holds_the_providers_key(site: Path) -> None:
    options = ("serve", "--port", "0", "--frontend", ".", "--database", "sqlite:////tmp/chats.db")
    status, _, err = await run_program("moorline", *options, cwd=site, env={"OPENAI_API_KEY_FILE": "key"})
    assert (status, err.partition(" is inside")[0]) == (2, 'moorline: OPENAI_API_KEY_FILE: "key"')


async def test_a_gateway_refuses_to_serve_its_own_configuration(site: Path) -> None:
    (site / "moorline.toml").write_text('[gateway]\nfrontend = "."\n')
    assert 'moorline.toml: "moorline.toml" is inside' in await refused("gateway", "--port", "0", cwd=site)


async def test_a_link_does_not_hide_that_the_database_is_inside(site: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(site)
    line = await refused(
        "serve", "--port", "0", "--frontend", "dist", "--database", "sqlite:///data/chats", cwd=tmp_path
    )
    assert line.startswith('database: "sqlite:///data/chats" is inside')


async def test_databases_and_configuration_in_the_folder_are_not_served(site: Path, tmp_path: Path) -> None:
    for name in PRIVATE:
        (site / name).write_text("a patient's text")
    (site / "notes.txt").symlink_to("moorline.db-wal")
    async with echoing(tmp_path, "--frontend", "dist") as (_, socket), aiohttp.ClientSession() as client:
        address = socket.replace("ws", "http", 1).removesuffix("/ws/x")
        for name in (*PRIVATE, "MOORLINE.DB-WAL", "moorline.db-journal", "moorline.db.bak", "notes.txt"):
            async with client.get(f"{address}/{name}") as response:
                assert (name, response.status) == (name, 404)
                assert "patient's" not in await response.text()
