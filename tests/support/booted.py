"""A real systemd as process 1 of a machine of its own: namespaces of this one, and a root in memory.

Of this machine the root has /usr, read-only, and the program to test; of systemd's units the targets and the journal
alone, so that none starts that clears, mounts or configures a machine. Its network is the caller's.
"""

import asyncio
import contextlib
import os
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.support.needs import program
from tests.support.process import ROOT, children

__all__ = ["Booted", "booted", "installed", "missing"]

_SYSTEMD = Path("/lib/systemd/systemd")
_PYTHON = "/usr/bin/python3"
_PATIENCE = 90.0
_LOOK = 0.05

# $1: a virtual environment, $2: units, $3: an empty folder.
_BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 root "$3"
cd "$3"
mkdir -p usr etc/moorline etc/systemd/system proc sys dev run root home tmp var/tmp opt/moorline old
chmod 1777 tmp var/tmp
for each in bin lib lib64 sbin; do ln -s "usr/$each" "$each"; done
mount --bind /usr usr && mount -o remount,bind,ro usr
mount --bind "$1" opt/moorline && mount -o remount,bind,ro opt/moorline
cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache etc/
cp "$2"/* etc/systemd/system/
mount -t tmpfs -o mode=755 units usr/lib/systemd/system
cd /lib/systemd/system
cp -L {basic,exit,final,multi-user,network-online,paths,shutdown,slices,sockets,sysinit,timers,umount}.target \
  systemd-journald{.service,.socket,-audit.socket,-dev-log.socket} "$3/usr/lib/systemd/system/"
cd "$3"
mkdir usr/lib/systemd/system/sysinit.target.wants
ln -s ../systemd-journald.service usr/lib/systemd/system/sysinit.target.wants/
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8; mknod -m 666 dev/urandom c 1 9; mknod -m 666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
mkdir dev/mqueue
mount -t tmpfs -o mode=755 run run
pivot_root . old
umount -l /old
rmdir /old
# Credentials of units pass from one mount namespace to another.
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin container=moorline /lib/systemd/systemd --system --unit=basic.target \
  --log-target=journal --show-status=no
"""


def missing() -> str:
    """Why there can be no such machine here; empty where there can."""
    if os.geteuid() != 0:
        return "only root may"
    if absent := [name for name in ("unshare", "nsenter", "uv") if program(name) == name]:
        return f"not found: {', '.join(absent)}"
    if not _SYSTEMD.exists() or not Path(_PYTHON).exists():
        return f"{_SYSTEMD} or {_PYTHON} is missing: apt-get install -y systemd python3"
    if _groups() is None:
        return "no cgroup2 is mounted"
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount", "--cgroup", "--net", "true"], capture_output=True)
    return tried.stderr.decode().strip()


def installed(folder: Path) -> Path:
    """A virtual environment with this checkout, whose commands run wherever it is mounted."""
    uv, venv = program("uv"), folder / "venv"
    for command in (
        ("venv", "--relocatable", "--python", _PYTHON, str(venv)),
        # Its folder is read-only, so that nothing could be compiled later. pip does it without being told.
        ("pip", "install", "--compile-bytecode", "--python", str(venv / "bin" / "python"), str(ROOT)),
    ):
        subprocess.run([uv, "--quiet", *command], check=True)
    return venv


class Booted:
    """The machine."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def run(self, *command: str, stdin: str = "", within: float = _PATIENCE) -> tuple[int, str]:
        """Run it there, as root: its exit status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *("nsenter", "--target", str(self._pid), "--all", "--wd", *command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
        )
        async with asyncio.timeout(within):
            printed, _ = await process.communicate(stdin.encode())
        return await process.wait(), printed.decode().strip()

    async def systemctl(self, *arguments: str) -> str:
        """What it printed; an error where it failed."""
        status, printed = await self.run("systemctl", "--no-pager", *arguments)
        if status:
            raise RuntimeError(f"systemctl {' '.join(arguments)}: {printed}")
        return printed

    async def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return await self.systemctl("show", "--value", f"--property={name}", unit)

    async def write(self, path: str, text: str) -> None:
        """Make a file, and the folders that it needs."""
        await self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, stdin=text)

    async def journal(self, unit: str) -> list[str]:
        """What a unit has printed, and what systemd says about it."""
        return (await self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit))[1].splitlines()

    async def logged(self, unit: str, words: str, *, times: int = 1) -> None:
        """Return when it has these words so often in its journal."""
        async with asyncio.timeout(_PATIENCE):
            while sum(words in line for line in await self.journal(unit)) < times:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)


@contextlib.asynccontextmanager
async def booted(folder: Path, venv: Path, units: Path) -> AsyncIterator[Booted]:
    """The machine, with these units and nothing enabled, until the context ends."""
    root = folder / "root"
    root.mkdir()
    with _group() as group:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc"),
            *("bash", "-c", _BOOT, "bash", str(venv), str(units), str(root)),
            stdin=DEVNULL,
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )
        try:
            yield await _started(process)
        finally:
            (group / "cgroup.kill").write_text("1")
            await process.wait()
            # The kernel ends them one by one.
            async with asyncio.timeout(_PATIENCE):
                while "populated 0" not in (group / "cgroup.events").read_text():  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)


async def _started(process: Process) -> Booted:
    async with asyncio.timeout(_PATIENCE):
        while True:
            if process.returncode is not None:
                raise RuntimeError("the machine did not start; its error is above")
            for pid in children(process.pid):
                machine = Booted(pid)
                if "running" in (await machine.run("systemctl", "is-system-running"))[1]:
                    return machine
            await asyncio.sleep(_LOOK)


@contextlib.contextmanager
def _group() -> Iterator[Path]:
    """A group of processes, so that all of them are ended and the machine's systemd sees no other."""
    groups = _groups()
    assert groups is not None, "missing() tells"
    group = groups / f"moorline-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for path, _, _ in os.walk(group, topdown=False):
            os.rmdir(path)


def _groups() -> Path | None:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None
