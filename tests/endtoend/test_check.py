"""`moorline check` as a process, against others."""

from pathlib import Path

from tests.support.process import run_program, started


async def test_all_is_well_with_a_running_serve(tmp_path: Path) -> None:
    async with started("moorline", "serve", "--port", "0", "--backend-port", "0", cwd=tmp_path) as program:
        backend = (await program.line("backend", "http://")).split()[1]
        page = (await program.line("page")).split()[1].removesuffix("/chat/patient:demo")
        status, out, err = await run_program("moorline", "check", page, "--backend", backend, cwd=tmp_path)
    assert (status, err) == (0, ""), out
    for hop in ("name", "TCP", "HTTP", "upgrade", "answer"):
        assert hop in out
    assert backend.removeprefix("http://") in out


async def test_a_gateway_without_its_backend_is_found_out(tmp_path: Path) -> None:
    arguments = ("--port", "0", "--upstream", "http://127.0.0.1:1")
    async with started("moorline", "gateway", *arguments, cwd=tmp_path) as program:
        page = (await program.line("page")).split()[1].removesuffix("/chat/patient:demo")
        status, out, _ = await run_program("moorline", "check", page, cwd=tmp_path)
    assert status == 1
    assert "502" in out
    assert "backend" in out
