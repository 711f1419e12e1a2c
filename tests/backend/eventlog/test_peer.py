"""Who may use the control socket of a SQLite database, and whose socket its clients use."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from moorline.backend.eventlog.sqlite.peer import peer_uid
from moorline.backend.revoke import revoke
from moorline.gateway.common.errors import UsageError
from tests.support import needs
from tests.support.eventlogs import database_at, opened

NOBODY = 65534
ASK = """
sock = socket.socket(socket.AF_UNIX)
sock.connect("{}")
sock.sendall(b"backup\\n")
print(sock.recv(100).decode())
"""


def as_nobody(code: str, descriptor: int) -> str:
    """What `code` prints in a process of another user, to which `descriptor` is passed."""
    command = [sys.executable, "-S", "-c", f"import os, socket\nos.setuid({NOBODY})\n{code}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, pass_fds=[descriptor], text=True).stdout


@needs.root
async def test_a_socket_that_another_user_has_put_there_is_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # with TMPDIR the path may be too long for a socket's
    (tmp_path / "chat.db").touch()
    with socket.socket(socket.AF_UNIX) as planted:
        planted.bind("chat.db-control")
        as_nobody(f"socket.socket(fileno={planted.fileno()}).listen()", planted.fileno())
        with pytest.raises(UsageError, match=f"a process of user {NOBODY}, who does not own"):
            await asyncio.to_thread(revoke, database_at(tmp_path), ["alice"])
        connection, _ = planted.accept()
        with connection:
            assert connection.recv(100) == b""


@needs.root
async def test_another_user_gets_nothing_done_where_the_permissions_of_a_socket_do_not_count(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o711)
    async with opened(database_at(tmp_path)):
        path = tmp_path / "chat.db-control"
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        folder = os.open(tmp_path, os.O_PATH)
        try:
            code = ASK.format(f"/proc/self/fd/{folder}/{path.name}")
            assert await asyncio.to_thread(as_nobody, code, folder) == "-run this as the user that moorline runs as\n"
        finally:
            os.close(folder)


def test_macos_and_freebsd_tell_the_user_in_a_structure_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sock(socket.socket):
        def getsockopt(self, level: int, name: int, size: int = 0) -> bytes:  # type: ignore[override]
            assert (level, name) == (0, 1)
            return struct.pack("=IIh16I", 0, 501, 1, *[20] * 16)[:size]

    with Sock(socket.AF_UNIX) as sock, monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", "darwin")
        found = peer_uid(sock)
    assert found == 501
