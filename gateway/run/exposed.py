"""A start is refused where the frontend folder holds files that must not be served."""

from collections.abc import Mapping
from pathlib import Path

from moorline.gateway.common.errors import UsageError

__all__ = ["check_frontend"]


def check_frontend(folder: str, private: Mapping[str, str]) -> None:
    """Compare the `frontend` folder, "" for the built-in page, with the `private` files: option or file -> path, as
    they were given. A path need not exist yet.

    Raises:
        UsageError: one of them is inside.
    """
    if not folder:
        return
    root = Path(folder).resolve()
    for key, path in private.items():
        if any(_is_same(parent, root) for parent in Path(path).resolve().parents):
            raise UsageError(
                f'{key} is inside the frontend folder "{folder}", whose files every client may read; '
                "move it out, or name the folder that the build wrote, often dist"
            )


def _is_same(one: Path, other: Path) -> bool:
    """By device and inode where both exist: a bind mount, or a file system without case, has other names for it."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other
