"""Routes of a real process: from its file and its flags, in every worker."""

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.nginx import SOURCE
from tests.support.process import started


async def answer(request: web.Request) -> web.Response:
    return web.Response(text=request.path_qs)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_routes_of_the_file_and_of_the_command_line(tmp_path: Path, workers: str) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    async with server, aiohttp.ClientSession() as http:
        url = str(server.make_url("")).rstrip("/")
        text = f'[[gateway.route]]\npath = "/auth"\nupstream = "{url}"\nrewrite = "/v2"\nhost = "upstream"\n'
        (tmp_path / "moorline.toml").write_text(text, encoding="utf-8")
        arguments = ("--host", "127.0.0.1", "--port", "0", "--workers", workers)
        async with started("moorline", "gateway", *arguments, cwd=tmp_path) as program:
            page = await program.page()
            async with http.get(f"{page}/auth/x") as response:
                assert await response.text() == "/v2/x"
        # A flag comes before the file, as for every option.
        async with started("moorline", "gateway", *arguments, "--route", f"/flag={url}", cwd=tmp_path) as program:
            page = (await program.line("page")).split()[1].partition("/chat")[0]
            async with http.get(f"{page}/flag/x") as response:
                assert await response.text() == "/flag/x"


async def test_reload_follows_the_hook_in_every_worker(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    rules = tmp_path / "rules.py"
    rules.write_text("async def authorize(request, patient_id, session_id):\n    return 'alice'\n", encoding="utf-8")
    options = ("--host", "127.0.0.1", "--port", "0", "--backend-port", "0", "--workers", "2", "--reload")
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        route = ("--authorize", "rules:authorize", "--route", f"/auth={str(server.make_url('')).rstrip('/')}")
        async with started("moorline", "serve", *options, *route, cwd=tmp_path) as program:
            page = await program.page()
            async with http.get(f"{page}/auth") as response:
                assert response.status == 200
            refusing = "from aiohttp import web\n\n\n" + rules.read_text(encoding="utf-8")
            rules.write_text(refusing.replace("return 'alice'", "raise web.HTTPForbidden"), encoding="utf-8")
            await program.lines("authorize: rules:authorize was loaded again", 2)
            for _ in range(4):
                async with http.get(f"{page}/auth", headers={"Connection": "close"}) as response:
                    assert response.status == 403


async def test_serve_with_moorlines_own_nginx_configuration(tmp_path: Path) -> None:
    arguments = ("--host", "127.0.0.1", "--port", "0", "--nginx-conf", str(SOURCE / "moorline.conf"))
    async with started("moorline", "serve", *arguments, cwd=tmp_path) as program, aiohttp.ClientSession() as http:
        page = (await program.line("page")).split()[1].partition("/chat")[0]
        async with http.get(f"{page}/healthz") as response:
            assert response.status == 200
        assert "chat.conf: not used: " in program.err
