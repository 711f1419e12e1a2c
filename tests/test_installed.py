"""moorline as people install it, in a project that has packages `gateway`, `backend` and `tests` of its own."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.process import ROOT, Program, started_command

pytestmark = needs.uv

# Their own packages come first on the path, and must not be taken for moorline's.
THEIRS = {"PYTHONPATH": "."}
PROGRAM = """
from aiohttp import web
from moorline.backend.app import create_app as create_backend
from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.app import create_app as create_gateway
from moorline.gateway.settings import Settings as GatewaySettings


def apps() -> list[web.Application]:
    gateway: web.Application = create_gateway(GatewaySettings(frontend="dist"))
    return [gateway, create_backend(BackendSettings(port=8000))]
"""
TEST = """
import aiohttp
import backend
from moorline.gateway.run import server
from moorline.gateway.settings import Settings


async def test_the_page_is_served():
    assert backend.WHOSE == "theirs"
    async with server.running(Settings(host="127.0.0.1", port=0)) as gateway, aiohttp.ClientSession() as client:
        async with client.get(gateway.addresses[0]) as response:
            assert response.status == 200
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command that must succeed prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def environment(folder: Path, *install: str | Path) -> Path:
    """The folder of the commands of a new environment with this installed. The libraries that moorline needs are those
    of the tests: `.ci/run` installs it with what it declares.
    """
    uv = needs.program("uv")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *install, cwd=ROOT)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder on the path, whose own .pth files, that of the editable moorline among them, do not count.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(needs.program("uv"), "build", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    assert len(list(folder.glob("moorline-*.tar.gz"))) == 1
    (wheel,) = folder.glob("moorline-*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("installed") / "env", built)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("gateway", "backend", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('WHOSE = "theirs"\n', encoding="utf-8")
    (tmp_path / "tests" / "test_page.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<h1>Ours</h1>", encoding="utf-8")
    return tmp_path


async def address(program: Program, name: str = "page") -> str:
    """What the start block says after `name`, without its path."""
    url = (await program.line(f"  {name}", "http://")).split()[1]
    return "/".join(url.split("/")[:3])


@pytest.mark.parametrize("name", ["gateway", "backend", "tests"])
def test_no_name_that_a_user_may_have_is_importable(name: str, installed: Path, tmp_path: Path) -> None:
    found = run(
        installed / "python",
        "-c",
        f"import importlib.util, moorline; print(importlib.util.find_spec({name!r}))",
        cwd=tmp_path,
    )
    assert found == "None\n"


async def test_serve_with_workers_and_reload_answers_check(installed: Path, project: Path) -> None:
    arguments = ("--port", "0", "--backend-port", "0", "--workers", "2", "--reload")
    async with started_command(installed / "moorline", *arguments, cwd=project, env=THEIRS) as program:
        backend, gateway = await address(program, "backend"), await address(program)
        checked = run(installed / "moorline", "check", gateway, "--backend", backend, cwd=project, env=THEIRS)
        assert "\nEverything answers." in checked
        assert await program.stop(signal.SIGTERM) == 0
    assert "Traceback" not in program.err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("moorline", "serve", "--backend-port", "0"), "page"),
        (("moorline", "gateway"), "page"),
        (("moorline", "backend"), "backend"),
        (("python", "-m", "moorline", "gateway"), "page"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
async def test_each_command_starts_beside_the_users_packages(
    command: tuple[str, ...], name: str, installed: Path, project: Path
) -> None:
    program_name, *arguments = command
    async with started_command(installed / program_name, *arguments, "--port", "0", cwd=project, env=THEIRS) as program:
        assert await address(program, name)
        assert await program.stop(signal.SIGTERM) == 0


def test_the_users_pytest_sees_both(installed: Path, project: Path) -> None:
    printed = run(installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project, env=THEIRS)
    assert "1 passed" in printed


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy has learned of the libraries, which takes it most of its time."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.timeout(180)
def test_mypy_finds_the_types_of_a_wheel(installed: Path, project: Path, mypy_cache: Path) -> None:
    assert "Success" in strictly_checked(project, installed / "python", mypy_cache)


@pytest.mark.timeout(180)
def test_an_editable_install_is_found_by_python_and_by_mypy(
    project: Path, mypy_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    editable = environment(tmp_path_factory.mktemp("editable") / "env", "--editable", ROOT)
    found = run(
        editable / "python", "-c", "import moorline.backend.app as app; print(app.__file__)", cwd=project, env=THEIRS
    )
    assert Path(found.strip()).resolve() == ROOT / "backend" / "app.py"
    assert "Success" in strictly_checked(project, editable / "python", mypy_cache)


def strictly_checked(project: Path, python: Path, cache: Path) -> str:
    """What mypy prints of the user's program, with the packages that `python` has."""
    options = ("--strict", "--cache-dir", cache, "--python-executable", python)
    return run(sys.executable, "-m", "mypy", *options, "program.py", cwd=project)
