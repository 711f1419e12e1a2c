import contextlib
import os
import pwd
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientResponse, ClientSession, web
from aiohttp.test_utils import TestClient
from yarl import URL

from moorline.gateway.app import create_app
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from moorline.gateway.site import assets
from moorline.gateway.site.static import Frontend

Client = TestClient[web.Request, web.Application]
Get = Callable[..., Awaitable[ClientResponse]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as a build leaves it, with files beside it that must not be served."""
    root = tmp_path / "dist"
    (root / "assets").mkdir(parents=True)
    (root / "guide").mkdir()
    (root / "empty").mkdir()
    (root / "index.html").write_text("<title>index</title>", encoding="utf-8")
    (root / "guide" / "index.html").write_text("<title>guide</title>", encoding="utf-8")
    (root / "assets" / "index-BxY3k2_a.js").write_text("hello('plain')", encoding="utf-8")
    (root / "assets" / "index-BxY3k2_a.js.br").write_bytes(b"brotli bytes")
    (root / "assets" / "index-BxY3k2_a.js.gz").write_bytes(b"gzip bytes")
    (root / "style.css").write_text("0123456789", encoding="utf-8")
    (root / ".env").write_text("SECRET=1", encoding="utf-8")
    (tmp_path / "outside.txt").write_text("secret", encoding="utf-8")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "inner.css").symlink_to(root / "style.css")
    (root / ".git").mkdir()
    (root / ".git" / "config.txt").write_text("secret", encoding="utf-8")
    (root / "env.txt").symlink_to(root / ".env")
    (root / "env.css").symlink_to("env.txt")
    (root / "git").symlink_to(root / ".git")
    (root / "style.css.gz").symlink_to(root / ".env")
    return root


@pytest.fixture
async def get(site: Path, aiohttp_client: Callable[..., Awaitable[Client]]) -> Get:
    app = web.Application()
    app.router.add_get("/{path:.*}", Frontend(str(site), recheck=0).serve)
    client = await aiohttp_client(app)

    async def get(path: str, *, method: str = "GET", **headers: str) -> ClientResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL.build(scheme="http", host=client.server.host or "", port=client.server.port, path=path, encoded=True)
        return await client.session.request(
            method, url, headers={"Accept-Encoding": "identity", **named}, allow_redirects=False, auto_decompress=False
        )

    return get


# Which file -----------------------------------------------------------------------------------------------------------


async def test_the_root_is_the_index_page(get: Get) -> None:
    answer = await get("/")
    assert (answer.status, await answer.text()) == (200, "<title>index</title>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_a_folder_answers_with_its_index_page(get: Get) -> None:
    assert await (await get("/guide/")).text() == "<title>guide</title>"


async def test_a_folder_without_its_slash_is_redirected_with_its_query(get: Get) -> None:
    answer = await get("/guide?x=%7e")
    assert (answer.status, answer.headers["Location"]) == (308, "./guide/?x=%7e")


@pytest.mark.parametrize("path", ["/chat/patient:demo", "/chat/john.doe", "/settings/", "/empty/", "/a//b"])
async def test_a_path_of_the_pages_own_router_is_the_index_page(get: Get, path: str) -> None:
    answer = await get(path)
    assert (answer.status, await answer.text()) == (200, "<title>index</title>")
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/assets/gone-BxY3k2_a.js", "/assets/gone", "/logo.png", "/chat/logo.png"])
async def test_a_missing_asset_is_a_404_that_is_not_cached_and_not_the_index_page(get: Get, path: str) -> None:
    answer = await get(path)
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
    assert "<title>" not in await answer.text()


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/assets/..%5c..%5coutside.txt",
        "/assets/../../outside.txt",
        "//outside.txt",
        "/.env",
        "/%2eenv",
        "/link.txt",
        "/env.txt",
        "/env.css",
        "/git/config.txt",
        "/style.css%00",
        "/%ff.css",
    ],
)
async def test_nothing_outside_of_the_folder_and_no_dot_file_is_served(get: Get, path: str) -> None:
    answer = await get(path)
    assert answer.status == 404
    assert "secret" not in (await answer.text()).lower()


async def test_a_symlink_that_stays_in_the_folder_is_served(get: Get) -> None:
    assert await (await get("/inner.css")).text() == "0123456789"


async def test_a_compressed_sibling_that_leads_to_a_dot_file_is_not_taken(get: Get) -> None:
    answer = await get("/style.css", Accept_Encoding="gzip")
    assert (answer.headers.get("Content-Encoding"), await answer.text()) == (None, "0123456789")


async def test_an_unreadable_file_is_missing(get: Get, site: Path) -> None:
    # Also loads all code that it takes: that of a Python in root's own folder cannot be read afterwards.
    assert (await get("/style.css")).status == 200
    (site / "style.css").chmod(0)
    with _not_root(site):
        assert (await get("/assets/index-BxY3k2_a.js")).status == 200
        assert (await get("/style.css")).status == 404


@contextlib.contextmanager
def _not_root(folder: Path) -> Iterator[None]:
    """Root may read everything: become another user, who may read the folders, for a while."""
    if os.geteuid() != 0:
        yield
        return
    closed = {each: each.stat().st_mode for each in folder.parents if each.stat().st_mode & 0o055 != 0o055}
    for each in closed:
        each.chmod(closed[each] | 0o055)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        for each, mode in closed.items():
            each.chmod(mode)


async def test_a_pipe_in_the_folder_is_missing(get: Get, site: Path) -> None:
    os.mkfifo(site / "pipe.css")
    assert (await get("/pipe.css")).status == 404


# Caching --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "immutable"),
    [
        (("assets", "index-BxY3k2_a.js"), True),
        (("assets", "logo-DhKkWzPq.svg"), True),
        (("main.3f2a9c1b.chunk.css",), True),
        (("assets", "date-picker-firebase.js"), False),
        (("index-BxY3k2_a.js",), True),
        (("_astro", "Chat.D8sU4xQK.js"), True),
        (("_astro", "logo.DhKkWzPq_Z1a2b3.webp"), True),
        (("_next", "static", "chunks", "4bd1b696-182b6b13bdad92e3.js"), True),
        (("_next", "static", "css", "f4dd5a5a1c7d1a3d.css"), True),
        (("_next", "static", "media", "4cf2300e9c8272f7-s.p.woff2"), True),
        (("_nuxt", "BxY3k2_a.js"), True),
        (("main-5INURTSO.js",), True),
        (("report.20260101.pdf",), False),
        (("assets", "main.20260101.js"), False),
        (("assets", "logo2024.png"), False),
        (("photo-MacBook2.jpg",), False),
        (("photo-IMG_2041.jpg",), False),
        (("readme-TEMPLATE.js",), False),
        (("jquery-3.7.1.min.js",), False),
        (("assets", "page-BxY3k2_a.html"), False),
        (("style.css",), False),
    ],
)
def test_only_a_name_with_a_hash_is_kept_for_ever(names: tuple[str, ...], *, immutable: bool) -> None:
    assert ("immutable" in assets.cache_control(names)) is immutable


@pytest.fixture
def error_page(site: Path) -> str:
    """A site of many pages, which says itself what is not there."""
    (site / "404.html").write_text("<title>nothing here</title>", encoding="utf-8")
    (site / "about.html").write_text("<title>about</title>", encoding="utf-8")
    return "<title>nothing here</title>"


@pytest.mark.parametrize("path", ["/orders/7", "/logo.png", "/guide/x"])
async def test_a_sites_own_error_page_is_sent_with_the_404(get: Get, error_page: str, path: str) -> None:
    answer = await get(path, Accept="text/html,*/*;q=0.8")
    assert (answer.status, await answer.text()) == (404, error_page)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "ETag" not in answer.headers


async def test_what_a_page_fetches_gets_no_error_page(get: Get, error_page: str) -> None:
    answer = await get("/logo.png", Accept="image/*")
    assert (answer.status, error_page in await answer.text()) == (404, False)


async def test_a_page_is_found_without_its_extension(get: Get, error_page: str) -> None:
    answer = await get("/about")
    assert (answer.status, await answer.text()) == (200, "<title>about</title>")


async def test_metrics_are_not_the_page(get: Get) -> None:
    answer = await get("/metrics", Accept="text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert (answer.status, await answer.text()) == (404, "Metrics have a port of their own; see metrics_port.")


async def test_a_person_may_open_a_page_of_that_name(get: Get) -> None:
    answer = await get("/metrics", Accept="text/html")
    assert (answer.status, await answer.text()) == (200, "<title>index</title>")


async def test_an_unchanged_file_is_a_304_with_the_same_headers(get: Get) -> None:
    first = await get("/assets/index-BxY3k2_a.js")
    again = await get("/assets/index-BxY3k2_a.js", If_None_Match=first.headers["ETag"])
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    assert again.headers["Vary"] == first.headers["Vary"] == "Accept-Encoding"


# Encodings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "coding", "body"),
    [
        ("gzip, deflate, br", "br", b"brotli bytes"),
        ("gzip", "gzip", b"gzip bytes"),
        ("br;q=0, gzip;q=0.5", "gzip", b"gzip bytes"),
        ("identity", None, b"hello('plain')"),
        ("*", "br", b"brotli bytes"),
    ],
)
async def test_the_sibling_that_the_client_takes_is_sent(
    get: Get, accept: str, coding: str | None, body: bytes
) -> None:
    answer = await get("/assets/index-BxY3k2_a.js", Accept_Encoding=accept)
    assert (answer.headers.get("Content-Encoding"), await answer.read()) == (coding, body)
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Vary"] == "Accept-Encoding"


async def test_each_encoding_has_its_own_etag(get: Get) -> None:
    tags = {(await get("/assets/index-BxY3k2_a.js", Accept_Encoding=a)).headers["ETag"] for a in ("br", "gzip", "")}
    assert len(tags) == 3


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "part", "content_range"),
    [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
    ],
)
async def test_a_range_is_a_206_of_its_bytes(get: Get, wanted: str, part: str, content_range: str) -> None:
    answer = await get("/style.css", Range=wanted)
    assert (answer.status, await answer.text(), answer.headers["Content-Range"]) == (206, part, content_range)


async def test_a_range_behind_the_end_is_a_416_that_says_the_length(get: Get) -> None:
    answer = await get("/style.css", Range="bytes=10-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "lines=1-2", "bytes=-0", "bytes=x"])
async def test_a_range_of_another_kind_gets_the_whole_file(get: Get, wanted: str) -> None:
    answer = await get("/style.css", Range=wanted)
    assert (answer.status, await answer.text()) == (200, "0123456789")


async def test_a_part_of_another_version_is_never_mixed_in(get: Get) -> None:
    stale = await get("/style.css", Range="bytes=2-4", If_Range='"older"')
    assert (stale.status, await stale.text()) == (200, "0123456789")
    same = await get("/style.css", Range="bytes=2-4", If_Range=stale.headers["ETag"])
    assert (same.status, await same.text()) == (206, "234")


async def test_head_has_the_headers_without_the_bytes(get: Get) -> None:
    answer = await get("/style.css", method="HEAD")
    assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "10", b"")


# The folder -----------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^frontend: .*/gone\" is not a folder; build the site first"):
        Frontend(str(tmp_path / "gone"))


def test_a_password_in_an_address_that_is_taken_for_a_folder_is_not_printed() -> None:
    with pytest.raises(UsageError, match=r'^frontend: "localhost:5173" is not a folder;'):
        Frontend("user:s3cret@localhost:5173")


@pytest.mark.parametrize("text", ["localhost:5173", "localhost:5173/", ":5173", "5173", "ws://localhost:5173"])
def test_an_address_of_a_dev_server_in_other_words_is_recognized(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Frontend(text)
    assert str(refused.value) == (f'frontend: "{text}" is not a folder; for a dev server write http://localhost:5173')


def test_a_folder_without_an_index_page_is_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^frontend: .* has no index\.html; name the folder that the build wrote"):
        Frontend(str(tmp_path))


def test_the_types_do_not_depend_on_the_machine() -> None:
    assert assets.content_type("a.woff2") == "font/woff2"
    assert assets.content_type("a.unknown") == "application/octet-stream"


# Changes and size -----------------------------------------------------------------------------------------------------


async def test_a_replaced_file_is_seen_within_a_second(
    site: Path, aiohttp_client: Callable[..., Awaitable[Client]]
) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", Frontend(str(site)).serve)
    client = await aiohttp_client(app)
    assert await (await client.get("/style.css")).text() == "0123456789"
    (site / "new").write_text("another", encoding="utf-8")
    (site / "new").replace(site / "style.css")
    replaced = time.monotonic()
    while await (await client.get("/style.css")).text() != "another":
        # With room for a busy machine.
        assert time.monotonic() - replaced < 10


@pytest.fixture
def large(site: Path) -> bytes:
    """The body of a file that is not kept in memory."""
    body = bytes(range(256)) * (5 << 12)
    (site / "large.bin").write_bytes(body)
    return body


async def test_a_large_file_is_sent_from_the_disk(get: Get, large: bytes) -> None:
    answer = await get("/large.bin")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(large)))
    assert await answer.read() == large


async def test_a_large_file_has_parts_conditions_and_head(get: Get, large: bytes) -> None:
    part = await get("/large.bin", Range="bytes=1000-700000")
    assert (part.status, await part.read()) == (206, large[1000:700001])
    same = await get("/large.bin", If_None_Match=part.headers["ETag"])
    assert (same.status, await same.read()) == (304, b"")
    head = await get("/large.bin", method="HEAD")
    assert (head.status, head.headers["Content-Length"], await head.read()) == (200, str(len(large)), b"")
    behind = await get("/large.bin", Range=f"bytes={len(large)}-")
    assert (behind.status, behind.headers["Content-Range"]) == (416, f"bytes */{len(large)}")


async def test_a_large_file_that_is_cut_while_it_is_sent_is_never_taken_for_whole(
    get: Get, site: Path, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread

    def cut(descriptor: int, size: int, place: int) -> bytes:
        piece = pread(descriptor, size, place)
        os.truncate(site / "large.bin", place + size)
        return piece

    monkeypatch.setattr(os, "pread", cut)
    with pytest.raises(ClientPayloadError):
        await (await get("/large.bin")).read()


async def test_an_empty_file_is_a_200_of_no_bytes(get: Get, site: Path) -> None:
    (site / "empty.css").touch()
    answer = await get("/empty.css")
    assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "0", b"")


async def test_a_failed_condition_is_a_412_that_is_not_cached(get: Get) -> None:
    answer = await get("/assets/index-BxY3k2_a.js", If_Match='"older"')
    assert (answer.status, answer.headers["Cache-Control"]) == (412, "no-store")


@pytest.mark.parametrize("folder", ["assets", "linked"])
async def test_an_empty_segment_names_no_other_file(folder: str, get: Get, site: Path) -> None:
    (site / "linked").symlink_to("assets")
    assert (await get(f"/{folder}/index-BxY3k2_a.js")).status == 200
    assert (await get(f"/{folder}//index-BxY3k2_a.js")).status == 404


async def test_a_site_of_its_own_has_the_policy_that_it_asks_for_and_else_none(site: Path) -> None:
    for policy in ("default-src 'self'; frame-ancestors https://portal.example", ""):
        settings = Settings(host="127.0.0.1", port=0, frontend=str(site), content_security_policy=policy)
        async with (
            running(create_app(settings), settings) as server,
            ClientSession(server.addresses[0]) as client,
            client.get("/") as answer,
        ):
            assert answer.headers.get("Content-Security-Policy", "") == policy


def test_a_policy_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^content_security_policy: "):
        Settings(content_security_policy="default-src 'self'\r\nSet-Cookie: a=b")
