"""The files of the folder as they are sent: small ones in memory, with their headers built once.

The first request that comes a second or more after the last lookup of a file has it looked up again; what is in memory
stays where device, inode, size and modification time are the same. Requests for one file at one time share one lookup,
which runs in a thread: disks may be slow or remote, and the event loop also serves all sockets.
"""

import asyncio
import dataclasses
import email.utils
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence

from multidict import CIMultiDict

from moorline.gateway.site import assets
from moorline.gateway.site.folder import Folder, Opened

__all__ = ["INDEX", "Asset", "File", "Files"]

INDEX = "index.html"
# Of one file; a larger one is read from the disk for each request.
MAX_KEPT_FILE = 1 << 20
# Of all files in a process; those with the oldest lookup are dropped first.
MAX_KEPT = 32 << 20
# Headers, names and the rest of an entry.
_OVERHEAD = 1 << 10
# A file that is written again within one tick of the file system's clock keeps its modification time: one that was so
# fresh is read again at the next lookup. FAT's ticks are the longest, of two seconds.
_FRESH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """Bytes that can be sent, and the headers that go with all of them."""

    names: tuple[str, ...]
    """What it is."""
    path: tuple[str, ...]
    """Where its bytes are, perhaps in a compressed sibling."""
    coding: str
    """Of the content, or ""."""
    headers: CIMultiDict[str]
    etag: str
    modified: int
    size: int
    body: bytes | None
    """None: too large to keep."""
    identity: tuple[int, int, int, int]
    is_fresh: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Asset:
    """What is at a path: a file with its compressed siblings, by content coding, or a folder with an index page."""

    files: Mapping[str, File]
    seen: float
    is_folder: bool = False

    def best(self, codings: Sequence[tuple[str, str]]) -> File:
        """The first of these codings that is there, else the file itself."""
        return next((self.files[coding] for _, coding in codings if coding in self.files), self.files[""])

    @property
    def weight(self) -> int:
        return sum(_OVERHEAD + len(file.body or b"") for file in self.files.values())


class Files:
    """What is at which path, as it was `recheck` seconds ago or later."""

    def __init__(
        self,
        folder: Folder,
        *,
        recheck: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        max_kept: int = MAX_KEPT,
    ) -> None:
        self._folder = folder
        self._recheck = recheck
        self._clock = clock
        self._room = max_kept
        # The one with the oldest lookup comes first.
        self._kept: dict[tuple[str, ...], Asset] = {}
        self._lookups: dict[tuple[str, ...], asyncio.Future[Asset | None]] = {}

    async def at(self, names: tuple[str, ...]) -> Asset | None:
        """What is at exactly these names, if anything.

        Raises:
            OSError: there are too many open files.
        """
        kept, now = self._kept.get(names), self._clock()
        if kept is not None and now - kept.seen < self._recheck:
            return kept
        lookup = self._lookups.get(names)
        if lookup is None:
            loop = asyncio.get_running_loop()
            lookup = self._lookups[names] = loop.run_in_executor(None, self._look_up, names, kept, now)
            lookup.add_done_callback(functools.partial(self._looked_up, names))
        # A client that goes away ends its own wait only.
        return await asyncio.shield(lookup)

    def _looked_up(self, names: tuple[str, ...], lookup: asyncio.Future[Asset | None]) -> None:
        del self._lookups[names]
        if (previous := self._kept.pop(names, None)) is not None:
            self._room += previous.weight
        if lookup.cancelled() or lookup.exception() is not None:
            return
        # Paths without a file are the requests' own and without number.
        if (asset := lookup.result()) is None or asset.is_folder:
            return
        self._kept[names] = asset
        self._room -= asset.weight
        while self._room < 0:
            self._room += self._kept.pop(next(iter(self._kept))).weight

    async def open(self, file: File) -> tuple[File, int] | None:
        """A file that is too large to keep, as it is now, with a descriptor that the caller closes.

        Raises:
            OSError: there are too many open files.
        """
        # A request that is cancelled meanwhile leaves a descriptor to close.
        opening = asyncio.get_running_loop().run_in_executor(None, self._folder.open, file.path)
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise
        if opened is None:
            return None
        return _described(opened.status, None, file.names, file.path, file.coding), opened.descriptor

    # In a thread ------------------------------------------------------------------------------------------------------

    def _look_up(self, names: tuple[str, ...], kept: Asset | None, now: float) -> Asset | None:
        opened = self._folder.open(names)
        if opened is None:
            index = self._folder.open((*names, INDEX))
            if index is None:
                return None
            os.close(index.descriptor)
            return Asset({}, now, is_folder=True)
        known = kept.files if kept is not None else {}
        files = {"": _file(opened, known.get(""), names, names, "")}
        for extension, coding in assets.SIBLINGS:
            path = (*names[:-1], names[-1] + extension)
            if (opened := self._folder.open(path)) is not None:
                files[coding] = _file(opened, known.get(coding), names, path, coding)
        return Asset(files, now)


def _close(opening: asyncio.Future[Opened | None]) -> None:
    if not opening.cancelled() and opening.exception() is None and (opened := opening.result()) is not None:
        os.close(opened.descriptor)


def _file(opened: Opened, known: File | None, names: tuple[str, ...], path: tuple[str, ...], coding: str) -> File:
    """The file that is known where it did not change."""
    try:
        if known is not None and known.identity == _identity(opened.status) and not known.is_fresh:
            return known
        body = _read(opened) if opened.status.st_size <= MAX_KEPT_FILE else None
        return _described(opened.status, body, names, path, coding)
    finally:
        os.close(opened.descriptor)


def _read(opened: Opened) -> bytes:
    """As much as there was when it was opened; less where it was cut meanwhile."""
    left, pieces = opened.status.st_size, []
    while left and (piece := os.read(opened.descriptor, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _described(
    status: os.stat_result, body: bytes | None, names: tuple[str, ...], path: tuple[str, ...], coding: str
) -> File:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    # The header has whole seconds; a version of a later part of one must not pass for this.
    modified = math.ceil(status.st_mtime)
    headers = CIMultiDict(
        {
            "Content-Type": assets.content_type(names[-1]),
            "Cache-Control": assets.cache_control(names),
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "ETag": f'"{etag}"',
            "Last-Modified": email.utils.formatdate(modified, usegmt=True),
            "Accept-Ranges": "bytes",
        }
    )
    if coding:
        headers["Content-Encoding"] = coding
    return File(
        names=names,
        path=path,
        coding=coding,
        headers=headers,
        etag=etag,
        modified=modified,
        size=status.st_size if body is None else len(body),
        body=body,
        identity=_identity(status),
        is_fresh=time.time() - status.st_mtime < _FRESH_SECONDS,
    )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
