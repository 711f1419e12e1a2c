"""What nginx adds to the answers of the parts: headers, caching, compression, and a log without names."""

from pathlib import Path

import aiohttp
import pytest

from tests.support import needs
from tests.support.backends import receive_until
from tests.support.nginx import NAME, Nginx, nginx
from tests.support.stack import SOCKET, Stack, socket

pytestmark = needs.nginx

API = "/api/chat/s1/messages"


@pytest.mark.parametrize("path", ["/chat/patient:demo", "/chat.js", API, "/docs", "/missing.js"])
async def test_each_security_header_is_there_once(either: Nginx, path: str) -> None:
    async with aiohttp.ClientSession(either.tls) as session, session.get(path, ssl=either.trust()) as answer:
        assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.getall("Referrer-Policy") == ["no-referrer"]
        assert answer.headers.getall("X-Frame-Options") == ["DENY"]
        assert answer.headers.getall("Strict-Transport-Security") == ["max-age=31536000"]


async def test_the_plain_port_redirects_to_tls(front: Nginx) -> None:
    headers = {"Host": NAME}
    async with (
        aiohttp.ClientSession(front.redirect) as session,
        session.get("/chat/p1?x=1", headers=headers, allow_redirects=False) as answer,
    ):
        assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/chat/p1?x=1")


async def test_a_request_for_another_name_is_not_redirected_there(front: Nginx) -> None:
    headers = {"Host": "evil.example"}
    async with (
        aiohttp.ClientSession(front.redirect) as session,
        session.get("/", headers=headers, allow_redirects=False) as answer,
    ):
        assert answer.headers["Location"] == f"https://{NAME}/"


async def test_history_is_compressed(parts: Stack, front: Nginx) -> None:
    parts.script.put("Good morning. " * 200, None)
    async with socket(parts.backend) as client:
        await client.send('{"message": "Hello"}')
        await receive_until(client, "message")
    async with aiohttp.ClientSession(front.plain) as session, session.get(API) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert [row["role"] for row in await answer.json()] == ["user", "assistant"]


async def test_the_page_and_its_files_are_asked_for_again_and_not_sent_again(either: Nginx) -> None:
    async with aiohttp.ClientSession(either.plain) as session:
        for path in ("/chat/patient:demo", "/chat.js"):
            async with session.get(path) as first:
                assert (first.status, first.headers["Cache-Control"]) == (200, "no-cache")
            async with session.get(path, headers={"If-None-Match": first.headers["ETag"]}) as second:
                assert second.status == 304


async def test_hashed_files_are_kept_and_missing_ones_are_no_page(
    parts: Stack, nginx_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "dist"
    for folder in ("assets", "_astro"):
        (root / folder).mkdir(parents=True)
    (root / "index.html").write_text("<title>page</title>", encoding="utf-8")
    for name in ("assets/index-BxY3k2_a.js", "assets/my-document.js", "_astro/Chat.D8sU4xQK.js", "main-5INURTSO.js"):
        (root / name).write_text("//", encoding="utf-8")
    async with nginx(nginx_folder, parts.backend, root=root) as front, aiohttp.ClientSession(front.plain) as session:
        async with session.get("/assets/index-BxY3k2_a.js") as hashed:
            assert hashed.headers["Cache-Control"] == "max-age=315360000"
        async with session.get("/_astro/Chat.D8sU4xQK.js") as hashed:
            assert hashed.headers["Cache-Control"] == "max-age=315360000"
        async with session.get("/main-5INURTSO.js") as hashed:
            assert hashed.headers["Cache-Control"] == "max-age=315360000"
        async with session.get("/assets/my-document.js") as named:
            assert named.headers["Cache-Control"] == "no-cache"
        async with session.get("/orders/7") as route:
            assert await route.text() == "<title>page</title>"
        for path in ("/assets/index-00000000.js", "/assets/none", "/none.js", "/.env"):
            async with session.get(path) as missing:
                assert missing.status == 404


async def test_a_sites_own_error_page_is_sent_for_a_missing_file(
    parts: Stack, nginx_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "dist"
    root.mkdir()
    (root / "index.html").write_text("<title>page</title>", encoding="utf-8")
    (root / "404.html").write_text("<title>nothing here</title>", encoding="utf-8")
    async with (
        nginx(nginx_folder, parts.backend, root=root) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.get("/none.js") as missing,
    ):
        assert (missing.status, await missing.text()) == (404, "<title>nothing here</title>")


async def test_no_log_of_nginx_names_a_patient_or_a_session(front: Nginx, parts: Stack) -> None:
    async with aiohttp.ClientSession(front.plain) as session:
        paths = (
            "/chat/patient:demo",
            "/api/chat/secret-session/messages?patient_id=patient:demo",
            "/chats/patient:demo",
            "/patient:demo.json",
            "/wss/chat/patient:demo/secret-session",
            "/x//api/chat/secret-session",
            "/secret-session",
        )
        for path in paths:
            async with session.get(path) as answer:
                await answer.read()
        async with session.get(SOCKET) as refused:
            assert refused.status == 400
    log = front.log()
    assert '"GET /api/..." 200' in log
    assert "patient" not in log
    assert "secret-session" not in log


async def test_an_unreachable_backend_is_a_502_with_no_path_in_the_log(nginx_folder: Path) -> None:
    async with nginx(nginx_folder, "http://127.0.0.1:9") as front, aiohttp.ClientSession(front.plain) as session:
        async with session.get("/api/chat/secret-session/messages") as answer:
            assert answer.status == 502
        assert "secret-session" not in front.log()


async def test_health_is_not_for_the_world(either: Nginx) -> None:
    async with aiohttp.ClientSession(either.plain) as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(path) as answer:
                assert answer.status == 404
