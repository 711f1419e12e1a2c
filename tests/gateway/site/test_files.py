"""What is kept of the folder, and how soon a change is seen."""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from moorline.gateway.site import files as module
from moorline.gateway.site.files import Asset, Files
from moorline.gateway.site.folder import Folder, Opened

NAMES = ("app.js",)
# Long ago, so that a file is not taken for one that may still be written.
OLD = (1_700_000_000_000_000_000, 1_700_000_000_000_000_000)


class CountingFolder(Folder):
    """A folder that counts, and waits where it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[tuple[str, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def open(self, names: Sequence[str]) -> Opened | None:
        assert self.gate.wait(10)
        self.opened.append(tuple(names))
        return super().open(names)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> CountingFolder:
    write(tmp_path / "app.js", b"one")
    return CountingFolder(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(folder: CountingFolder, clock: Clock) -> Files:
    return Files(folder, recheck=1.0, clock=clock)


def write(path: Path, body: bytes, *, times: tuple[int, int] = OLD) -> None:
    """Another file in its place, as a build or a deployment puts it there."""
    new = path.with_name("new")
    new.write_bytes(body)
    os.utime(new, ns=times)
    new.replace(path)


def overwrite(path: Path, body: bytes, *, modified: int) -> None:
    """The same file with other bytes."""
    path.write_bytes(body)
    os.utime(path, ns=(modified, modified))


def body(asset: Asset | None) -> bytes | None:
    assert asset is not None
    return asset.files[""].body


async def test_the_disk_is_not_asked_again_within_a_second(files: Files, folder: CountingFolder, clock: Clock) -> None:
    first = await files.at(NAMES)
    lookups = len(folder.opened)
    clock.now += 0.999
    assert await files.at(NAMES) is first
    assert len(folder.opened) == lookups


async def test_a_file_that_did_not_change_is_not_read_again(files: Files, clock: Clock) -> None:
    first = await files.at(NAMES)
    clock.now += 1
    second = await files.at(NAMES)
    assert first is not None
    assert second is not None
    assert second.files[""] is first.files[""]
    assert second.seen == clock.now


@pytest.mark.parametrize(
    "change",
    [
        lambda path: write(path, b"two"),
        lambda path: write(path, b"longer", times=OLD),
        lambda path: overwrite(path, b"two", modified=OLD[1] + 1),
    ],
    ids=["inode", "size", "modification time"],
)
async def test_a_replaced_file_is_seen_after_a_second(
    files: Files, folder: CountingFolder, tmp_path: Path, clock: Clock, change: Callable[[Path], object]
) -> None:
    assert body(await files.at(NAMES)) == b"one"
    change(tmp_path / "app.js")
    clock.now += 1
    assert body(await files.at(NAMES)) != b"one"


async def test_a_file_is_read_again_while_its_modification_time_may_hide_a_change(
    files: Files, tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "app.js"
    path.write_bytes(b"one")
    modified = path.stat().st_mtime_ns
    assert body(await files.at(NAMES)) == b"one"
    overwrite(path, b"two", modified=modified)
    clock.now += 1
    assert body(await files.at(NAMES)) == b"two"


async def test_a_compressed_sibling_comes_and_goes(files: Files, tmp_path: Path, clock: Clock) -> None:
    sibling = tmp_path / "app.js.br"
    for codings in ({""}, {"", "br"}, {""}):
        asset = await files.at(NAMES)
        assert asset is not None
        assert set(asset.files) == codings
        if sibling.exists():
            sibling.unlink()
        else:
            write(sibling, b"b")
        clock.now += 1


async def test_a_removed_file_is_missing_and_not_kept(files: Files, tmp_path: Path, clock: Clock) -> None:
    await files.at(NAMES)
    (tmp_path / "app.js").unlink()
    clock.now += 1
    assert await files.at(NAMES) is None
    write(tmp_path / "app.js", b"back")
    assert body(await files.at(NAMES)) == b"back"


async def test_requests_at_one_time_share_one_lookup(files: Files, folder: CountingFolder) -> None:
    folder.gate.clear()
    waits = [asyncio.create_task(files.at(NAMES)) for _ in range(20)]
    await asyncio.sleep(0)
    waits[0].cancel()
    folder.gate.set()
    found = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len({id(asset) for asset in found[1:]}) == 1
    assert folder.opened.count(NAMES) == 1


async def test_a_lookup_that_fails_is_an_error_for_its_requests_and_for_no_later_one(
    files: Files, folder: CountingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Opened | None:
        raise OSError(24, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "open", fail)
        found = await asyncio.gather(files.at(NAMES), files.at(NAMES), return_exceptions=True)
    assert [type(each) for each in found] == [OSError, OSError]
    assert body(await files.at(NAMES)) == b"one"


async def test_the_file_with_the_oldest_lookup_is_dropped_first(
    folder: CountingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OVERHEAD", 10)
    files = Files(folder, recheck=3600, max_kept=100)
    for name in ("a", "b", "c"):
        write(tmp_path / name, name.encode() * 25)
    a, b = await files.at(("a",)), await files.at(("b",))
    await files.at(("c",))
    assert await files.at(("b",)) is b
    assert await files.at(("a",)) is not a


async def test_a_file_above_the_limit_is_opened_for_each_request_and_not_kept(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_FILE", 2)
    asset = await files.at(NAMES)
    assert asset is not None
    assert asset.files[""].body is None
    write(tmp_path / "app.js", b"other")
    opened = await files.open(asset.files[""])
    assert opened is not None
    file, descriptor = opened
    assert os.read(descriptor, 10) == b"other"
    os.close(descriptor)
    assert file.size == 5
    (tmp_path / "app.js").unlink()
    assert await files.open(asset.files[""]) is None


async def test_a_descriptor_that_no_request_waits_for_any_more_is_closed(files: Files, folder: CountingFolder) -> None:
    asset = await files.at(NAMES)
    assert asset is not None
    before = os.listdir("/dev/fd")
    folder.gate.clear()
    wait = asyncio.create_task(files.open(asset.files[""]))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    folder.gate.set()
    # The thread is the only one: what is asked behind it is done after it.
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while folder.opened[-1] != NAMES or os.listdir("/dev/fd") != before:
            await loop.run_in_executor(None, int)
