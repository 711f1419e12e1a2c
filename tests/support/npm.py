"""Sites that use the client's package, each built by a tool from npm: tests/support/sites.

The tools are those of the projects in `dev_site`.
"""

import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support import dev_site

__all__ = ["BuiltSite", "component", "copied_site"]

_SITES = Path(__file__).parent / "sites"
_DOCS = Path(__file__).parents[2] / "gateway" / "docs" / "front-end.md"
_TOOLS = {"vite": "react"}


class BuiltSite:
    """A copy of a site, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def install(self, package: str) -> None:
        await dev_site.npm("install", package, folder=self.folder)

    async def run(self, *command: str) -> None:
        """A command of the tools, which must succeed."""
        programs = self.folder.parent / "node_modules" / ".bin"
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        # Neither asks its maker anything.
        quiet = {"ASTRO_TELEMETRY_DISABLED": "1", "NEXT_TELEMETRY_DISABLED": "1"}
        await dev_site.run(*command, folder=self.folder, PATH=path, **quiet)


@contextlib.asynccontextmanager
async def copied_site(name: str, tools: str = "") -> AsyncIterator[BuiltSite]:
    """The site of this name, with its tools, or those of this project, in the folder above."""
    packages = await dev_site.packages(tools or _TOOLS.get(name, name))
    async with dev_site.temporary_folder() as folder:
        (folder / "node_modules").symlink_to(packages)
        yield BuiltSite(Path(shutil.copytree(_SITES / name, folder / name)))


def component() -> str:
    """The React component of the documentation."""
    (block,) = re.findall(r"^```tsx\n(.*?)^```$", _DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(block)
