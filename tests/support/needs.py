"""Marks for tests that need a program: skipped without it, with the line that installs it. On CI it must be there."""

import os
import shutil
import socket
from glob import glob

import pytest

__all__ = [
    "chromium",
    "haproxy",
    "ipv6",
    "logrotate",
    "mounts",
    "namespaces",
    "nginx",
    "npm",
    "postgres",
    "program",
    "prometheus",
    "root",
    "systemd",
    "uv",
]

# Servers are in folders that only root has on its path, PostgreSQL's in one of its version.
_FOLDERS = ["/usr/sbin", "/usr/local/sbin", *sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)]


def program(name: str) -> str:
    """Where this program is; its bare name where it is missing, so that the error of starting it names it."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS])) or name


def _mark(*names: str, package: str, installer: str = "apt-get install -y") -> pytest.MarkDecorator:
    missing = [name for name in names if program(name) == name]
    # On CI the test runs all the same, and fails: a check that silently checks nothing is worse than none.
    skip = bool(missing) and os.environ.get("CI") != "true"
    return pytest.mark.skipif(skip, reason=f"{', '.join(missing)} not found: {installer} {package}")


def _mark_ipv6() -> pytest.MarkDecorator:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        skip = os.environ.get("CI") != "true"
        return pytest.mark.skipif(skip, reason=f"::1: {error.strerror}: sysctl net.ipv6.conf.lo.disable_ipv6=0")
    return pytest.mark.skipif(False, reason="")


def _mark_root(*names: str, package: str) -> pytest.MarkDecorator:
    skip = os.geteuid() != 0 and os.environ.get("CI") != "true"
    return pytest.mark.skipif(skip, reason="only root may") if skip else _mark(*names, package=package)


chromium = _mark("chromium", package="chromium")
haproxy = _mark("haproxy", package="haproxy")
mounts = _mark_root("mount", package="mount")
ipv6 = _mark_ipv6()
namespaces = _mark_root("ip", package="iproute2")
nginx = _mark("nginx", "openssl", package="nginx openssl")
npm = _mark("npm", package="npm")
logrotate = _mark("logrotate", package="logrotate")
prometheus = _mark("prometheus", "promtool", package="prometheus")
postgres = _mark("postgres", package="postgresql")
root = _mark_root(package="")
systemd = _mark("systemd-analyze", package="systemd")
uv = _mark("uv", package="uv", installer="pip install")
