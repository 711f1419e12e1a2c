"""No path leads out of the folder, also where what is at it changes between two system calls."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from moorline.gateway.site.folder import Folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "dist"
    (root / "assets").mkdir(parents=True)
    (root / "assets" / "app.js").write_text("asset", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "app.js").write_text("secret", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _every_descriptor_is_closed() -> Iterator[None]:
    before = os.listdir("/dev/fd")
    yield
    assert os.listdir("/dev/fd") == before


def text(folder: Folder, *names: str) -> str | None:
    opened = folder.open(names)
    if opened is None:
        return None
    with open(opened.descriptor) as stream:
        return stream.read()


def test_a_file_and_links_to_it_within_the_folder_are_opened(root: Path) -> None:
    (root / "relative.js").symlink_to("assets/app.js")
    (root / "absolute.js").symlink_to(root / "assets" / "app.js")
    (root / "static").symlink_to("assets")
    folder = Folder(root)
    for names in (("assets", "app.js"), ("relative.js",), ("absolute.js",), ("static", "app.js")):
        assert text(folder, *names) == "asset"


def test_links_that_lead_out_nowhere_or_in_circles_are_missing(root: Path) -> None:
    (root / "out").symlink_to("../outside")
    (root / "out.js").symlink_to(root.parent / "outside" / "app.js")
    (root / "gone.js").symlink_to("none.js")
    (root / "circle.js").symlink_to("circle.js")
    (root / "self").symlink_to(".")
    folder = Folder(root)
    for names in (("out", "app.js"), ("out.js",), ("gone.js",), ("circle.js",), ("self",), ("assets", "app.js", "x")):
        assert text(folder, *names) is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_is_swapped_in_after_the_check_is_not_followed(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "link.js").symlink_to("assets/app.js")
    checked = Folder._target

    def swap(self: Folder, names: Sequence[str]) -> Sequence[str] | None:
        target = checked(self, names)
        if kind == "file":
            (root / "assets" / "app.js").unlink()
            (root / "assets" / "app.js").symlink_to(root.parent / "outside" / "app.js")
        else:
            (root / "assets").rename(root / "before")
            (root / "assets").symlink_to(root.parent / "outside")
        return target

    monkeypatch.setattr(Folder, "_target", swap)
    assert text(Folder(root), "link.js") is None


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.mknod(path, 0o140644)], ids=["fifo", "folder", "socket"]
)
def test_what_is_no_regular_file_is_missing_at_once(root: Path, make: Callable[[Path], None]) -> None:
    make(root / "pipe.js")
    assert text(Folder(root), "pipe.js") is None
