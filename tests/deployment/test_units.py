"""The systemd units and logrotate's file of nginx/, as their own programs check them, and the commands in them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from moorline.backend.audit import Audit
from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.commandline import read
from moorline.gateway.run.commands import COMMANDS, TABLES
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.needs import program
from tests.support.nginx import SOURCE

UNITS = sorted((SOURCE / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
GATEWAY, SOCKET = (SOURCE / "systemd" / f"moorline-gateway.{kind}" for kind in ("service", "socket"))
LOGROTATE = SOURCE / "logrotate" / "moorline"
# systemd's own scale of exposure, from 0 to 10, in tenths.
MOST_EXPOSED = 20
# Of any program here, seconds: Python alone takes as long.
FASTEST_START = 0.12


def setting(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.+)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def said_by(name: str, *arguments: str) -> str:
    """What a program printed; an error where it failed."""
    command = (program(name), *arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units with a program that is on this machine, whose existence is checked as well."""
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/moorline/bin/moorline", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
        # Whatever the umask is: systemd warns of units that everybody may write.
        (tmp_path / unit.name).chmod(0o644)
    return [str(tmp_path / unit.name) for unit in UNITS]


@needs.systemd
def test_systemd_finds_nothing_wrong_with_the_units(installed: list[str]) -> None:
    assert said_by("systemd-analyze", "verify", "--man=no", *installed) == ""


@needs.systemd
def test_systemd_finds_a_mistake_in_a_unit(installed: list[str]) -> None:
    unit = Path(installed[0])
    unit.write_text(unit.read_text(encoding="utf-8").replace("Restart=always", "Restart=somtimes"), encoding="utf-8")
    assert "somtimes" in said_by("systemd-analyze", "verify", "--man=no", str(unit))


@needs.systemd
def test_the_units_are_hardened(installed: list[str]) -> None:
    threshold = f"--threshold={MOST_EXPOSED}"
    services = [path for path in installed if path.endswith(".service")]
    said = said_by("systemd-analyze", "security", "--offline=true", threshold, "--no-pager", *services)
    assert said.count("Overall exposure level") == len(SERVICES)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_command_of_a_unit_exists_and_reads_the_units_file(unit: Path, tmp_path: Path) -> None:
    (tmp_path / "moorline.toml").write_text("[gateway]\nport = 4999\n[backend]\nport = 8999\n", encoding="utf-8")
    (command,) = setting(unit, "ExecStart")
    name, *arguments = shlex.split(command.replace("/etc/moorline", str(tmp_path)))[1:]
    config = read(COMMANDS[name], arguments, environ={}, tables=TABLES)
    settings, port = {"gateway": (Settings, 4999), "backend": (BackendSettings, 8999)}[name]
    assert config[settings].port == port


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_waits_for_longer_than_the_drain(unit: Path) -> None:
    (seconds,) = setting(unit, "TimeoutStopSec")
    assert float(seconds.removesuffix("s")) > Settings().drain


def test_units_that_crash_are_started_again_for_ever() -> None:
    (backend,) = [unit for unit in SERVICES if unit != GATEWAY]
    assert setting(backend, "StartLimitIntervalSec") == ["0"]
    # What is not a crash but a mistake, and is started again at once by connections in the socket, meets the limit.
    seconds, pause = (
        float(setting(GATEWAY, name)[0].removesuffix("s")) for name in ("StartLimitIntervalSec", "RestartSec")
    )
    assert int(setting(GATEWAY, "StartLimitBurst")[0]) * (pause + FASTEST_START) > seconds


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_uses_what_its_program_tells_the_manager(unit: Path) -> None:
    # What a manager is told is in test_systemd.py of both parts.
    assert (setting(unit, "Type"), setting(unit, "WatchdogSec")) == (["notify"], ["30s"])


def test_the_gateway_tells_its_own_processes_to_end() -> None:
    assert setting(GATEWAY, "KillMode") == ["mixed"]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_no_dump_of_the_memory_of_a_unit_is_kept(unit: Path) -> None:
    assert setting(unit, "LimitCORE") == ["0"]


def test_the_units_of_the_gateway_pass_its_sockets_on() -> None:
    assert setting(GATEWAY, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert setting(GATEWAY, "Requires") == [SOCKET.name]
    assert setting(SOCKET, "ListenStream") == [f"{host}:{Settings().port}" for host in ("127.0.0.1", "[::1]")]


@needs.logrotate
def test_logrotate_accepts_its_file(tmp_path: Path) -> None:
    # Only root may look into /var/log/private.
    rotation = tmp_path / "rotation"
    rotation.write_text(LOGROTATE.read_text(encoding="utf-8").replace("/var/log", str(tmp_path)), encoding="utf-8")
    rotation.chmod(0o600)
    said = said_by("logrotate", "--debug", "--state", str(tmp_path / "state"), str(rotation))
    assert "error" not in said


@needs.logrotate
def test_no_line_is_lost_when_the_audit_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    text = LOGROTATE.read_text(encoding="utf-8")
    rotation = tmp_path / "moorline"
    rotation.write_text(re.sub(r"^/var/log/moorline/\S+ \S+", str(log), text, flags=re.MULTILINE), encoding="utf-8")
    rotation.chmod(0o600)
    audit = Audit(str(log))
    audit.open()
    try:
        audit.record("send", "s1", "before", "ok")
        said_by("logrotate", "--force", "--state", str(tmp_path / "state"), str(rotation))
        audit.record("send", "s1", "after", "ok")
    finally:
        audit.close()
    (rotated,) = tmp_path.glob("audit.jsonl-*")
    assert [("before" in text, "after" in text) for text in (rotated.read_text(), log.read_text())] == [
        (True, False),
        (False, True),
    ]
    assert log.stat().st_mode & 0o777 == 0o600
