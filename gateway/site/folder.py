"""The folder of assets on disk: names to open descriptors, whatever happens to the folder meanwhile.

A path is opened component by component, each relative to the descriptor of the one before and without following links
(`O_NOFOLLOW`), so that no symlink that is put in place between a check and an open leads out. A FIFO does not block the
open (`O_NONBLOCK`) and is refused by its descriptor, as is all that is not a regular file. Databases and configuration
are missing, too, by whatever link they are asked for.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from moorline.gateway.errors import is_shortage
from moorline.gateway.site.assets import is_private

__all__ = ["Folder", "Opened"]

# On the way the permission to search a folder is enough; to open it for reading would also take that to list it.
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


# O_NOFOLLOW's own; a link in the place of a folder also is no directory.
_LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR)


class _Linked(Exception):
    """A name may be a symlink."""


class Opened(NamedTuple):
    """A regular file. The caller closes the descriptor."""

    descriptor: int
    status: os.stat_result


class Folder:
    """A folder at a path that is resolved once. All calls block."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def open(self, names: Sequence[str]) -> Opened | None:
        """The regular file of these names, if there is a readable one. Symlinks are followed within the folder.

        Raises:
            OSError: there are too many open files.
        """
        if any(map(is_private, names)):
            return None
        try:
            return self._open(names)
        except _Linked:
            target = self._target(names)
        try:
            return None if target is None else self._open(target)
        except _Linked:
            # It took the place of what was there a moment ago.
            return None

    def _open(self, names: Sequence[str]) -> Opened | None:
        """Without following any link.

        Raises:
            _Linked: there may be one.
            OSError: there are too many open files.
        """
        try:
            descriptor = self._descriptor(names)
        except OSError as error:
            if is_shortage(error):
                raise
            if error.errno in _LINK_ERRORS:
                raise _Linked from None
            return None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return Opened(descriptor, status)
        os.close(descriptor)
        return None

    def _descriptor(self, names: Sequence[str]) -> int:
        folder = os.open(self._root, _SEARCH)
        try:
            for name in names[:-1]:
                inner = os.open(name, _SEARCH | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(names[-1], _READ | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)

    def _target(self, names: Sequence[str]) -> Sequence[str] | None:
        """The names that symlinks on these stand for, if they stay in the folder. `_open` does not rely on it."""
        try:
            real = self._root.joinpath(*names).resolve(strict=True)
        except (OSError, RuntimeError):
            # Missing, no permission, a name too long, a loop of symlinks (RuntimeError before Python 3.13).
            return None
        if real == self._root or not real.is_relative_to(self._root):
            return None
        target = real.relative_to(self._root).parts
        # A link that looks harmless may name a dot-file: `config.txt -> .env`.
        return None if any(map(is_private, target)) else target
