"""A project of a real front-end tool, as `npm install` leaves it: the sources in `devsites/` and the packages.

The packages are kept between runs: fetching them takes longer than all that is tested with them.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

__all__ = ["SITES", "DevSite", "Project", "dev_site", "is_tested", "npm", "packages", "run", "temporary_folder"]

_SOURCES = Path(__file__).parent / "devsites"
_CACHE = Path(tempfile.gettempdir()) / f"moorline-tests-devsites-{os.getuid()}"
_KEPT = ("node_modules",)
# Chokidar, which Vite watches with, reports no second change of a file within a tenth of a second.
_TYPING_SECONDS = 0.25
_INSTALLED = Path("node_modules") / ".installed.json"


@dataclasses.dataclass(frozen=True, slots=True)
class DevSite:
    """Which page it has, and which of its files holds the text `edit 0` that this page shows."""

    name: str
    page: str
    edited: str
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    settles: tuple[str, str] | None = None
    """What the page's socket of hot reload sends, and receives behind it, before an edit is sure to reach the page."""
    like: str = ""
    """Another one, whose sources it has beside its own."""
    is_large: bool = False
    """Whether its packages take a minute to install."""


# Next compares an edit with the modules as they are when the page has asked for their changes and the compilation that
# this starts is over. An edit before its end is taken for the state that the page has, and is never sent.
_NEXT_SETTLES = ("turbopack-subscribe", '"type":"built"')

SITES = {
    site.name: site
    for site in (
        DevSite("vite", "/", "text.js"),
        DevSite("react", "/", "src/App.tsx"),
        DevSite("astro", "/chat/patient:demo", "src/scripts/text.ts", {"ASTRO_TELEMETRY_DISABLED": "1"}),
        DevSite("next", "/", "app/title.js", {"NEXT_TELEMETRY_DISABLED": "1"}, _NEXT_SETTLES),
        # It needs Node 22, which its packages have: npm puts their programs on the path before the machine's.
        DevSite(
            "astro7",
            "/chat/patient:demo",
            "src/scripts/text.ts",
            {"ASTRO_TELEMETRY_DISABLED": "1"},
            like="astro",
            is_large=True,
        ),
        DevSite("angular", "/", "src/app.html", {"NG_CLI_ANALYTICS": "false"}, is_large=True),
    )
}


def is_tested(name: str) -> bool:
    """Whether tests use this site. The large ones are 200 MB each: they have them with TEST_ALL_SITES=1 alone, and the
    bench in any case."""
    return not SITES[name].is_large or bool(os.environ.get("TEST_ALL_SITES"))


@dataclasses.dataclass(slots=True)
class Project:
    """A site in a folder of its own."""

    site: DevSite
    folder: Path
    edits: int = 0

    async def edit(self) -> str:
        """Change the page's text, as a person who types; what it has to show."""
        await asyncio.sleep(_TYPING_SECONDS)
        file = self.folder / self.site.edited
        source = file.read_text(encoding="utf-8")
        before, self.edits = f"edit {self.edits}", self.edits + 1
        after = f"edit {self.edits}"
        assert before in source
        # In place: a file that is truncated first is read empty by a watcher that is quick, and its next change missed.
        with file.open("r+", encoding="utf-8") as opened:
            opened.write(source.replace(before, after))
        return after


@contextlib.asynccontextmanager
async def temporary_folder() -> AsyncIterator[Path]:
    """A folder beside the projects. Next takes no packages from outside the folder that its configuration names."""
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=_CACHE))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


def with_modules(project: Project, count: int) -> Project:
    """The project of Vite, whose page imports so many modules before it shows its text."""
    folder = project.folder / "modules"
    folder.mkdir()
    for number in range(count):
        (folder / f"m{number}.js").write_text(f"export default {number};\n", encoding="utf-8")
    imports = "".join(f"import m{number} from './modules/m{number}.js';\n" for number in range(count))
    main = project.folder / "main.js"
    main.write_text(imports + main.read_text(encoding="utf-8"), encoding="utf-8")
    return project


@contextlib.asynccontextmanager
async def dev_site(name: str) -> AsyncIterator[Project]:
    """The project, for one test at a time."""
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    folder = _CACHE / name
    with (_CACHE / f"{name}.lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        await _install(name, folder)
        yield Project(SITES[name], folder)


async def packages(name: str) -> Path:
    """The `node_modules` of a project, for others that the same tool builds."""
    if not _is_installed(name):
        async with dev_site(name):
            pass
    return _CACHE / name / "node_modules"


def _is_installed(name: str) -> bool:
    installed = _CACHE / name / _INSTALLED
    return installed.exists() and installed.read_bytes() == (_SOURCES / name / "package.json").read_bytes()


async def _install(name: str, folder: Path) -> None:
    """Take the sources anew, and the packages unless they are there already."""
    kept = _is_installed(name)
    if kept:
        _empty(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    for source in filter(None, (SITES[name].like, name)):
        shutil.copytree(_SOURCES / source, folder, dirs_exist_ok=True)
    if not kept:
        await npm("install", "--no-package-lock", folder=folder)
        shutil.copy(folder / "package.json", folder / _INSTALLED)


def _empty(folder: Path) -> None:
    """Remove what an earlier run left, but not the packages."""
    for entry in folder.iterdir():
        if entry.name in _KEPT:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


async def npm(*arguments: str, folder: Path) -> None:
    """Run a command of npm that must succeed."""
    await run("npm", *arguments, "--no-audit", "--no-fund", folder=folder)


async def run(*command: str, folder: Path, **environ: str) -> None:
    """Run a command that must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
