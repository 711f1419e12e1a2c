"""The command line, through real processes."""

import ast
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.commandline import read
from moorline.gateway.common.config.options import specs
from moorline.gateway.common.web.listen import listen
from moorline.gateway.run.cli import main
from moorline.gateway.run.commands import COMMANDS, TABLES
from moorline.gateway.settings import Settings
from tests.support.process import PYTHONPATH, refused, run_program, started, started_command

# What the user may get wrong ------------------------------------------------------------------------------------------


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    (holder,) = listen("127.0.0.1", 0)
    port = holder.getsockname()[1]
    with holder:
        line = await refused("gateway", "--port", str(port), cwd=tmp_path)
    assert line == f"port: {port} is in use on localhost; end the program that has it or choose another with --port"


async def test_a_missing_frontend_folder_is_one_line(tmp_path: Path) -> None:
    assert "missing" in await refused("gateway", "--port", "0", "--frontend", "missing", cwd=tmp_path)


async def test_an_unwritable_database_is_one_line(tmp_path: Path) -> None:
    line = await refused("backend", "--port", "0", "--database", "sqlite:///no/such/folder/x.db", cwd=tmp_path)
    assert line.startswith("database: ")


async def test_serve_ends_with_the_line_of_its_backend(tmp_path: Path) -> None:
    # Few sockets, or the gateway may warn that there are not enough descriptors.
    options = ("--port", "0", "--max-connections", "100", "--database", "sqlite:///no/such/folder/x.db")
    line = await refused("serve", *options, cwd=tmp_path)
    assert line.startswith("database: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["serve", "--proxy-raed-timeout", "1s"],
            "--proxy-raed-timeout: there is no such option; did you mean --proxy-read-timeout?",
        ),
        (
            ["gateway", "--proxy-read-timeout=1x"],
            '--proxy-read-timeout: "1x" is not a duration; write for example 90s, 1m30s or 250ms',
        ),
        (["gateway", "--port"], "--port: the value is missing"),
        (["gateway", "extra"], "extra: gateway takes no such argument"),
        (["servr"], "servr: there is no such command; did you mean serve?"),
        (["gateway", "--config", "none.toml"], '--config: there is no file "none.toml"'),
        (
            ["serve", "--upstream", "http://a"],
            "--upstream: serve starts a backend of its own; `moorline gateway` takes yours",
        ),
        (
            ["serve", "--backend-command", "x", "--model", "y"],
            "--model: it is of moorline's own backend, which backend_command replaces",
        ),
        (["serve", "--temperature", "9"], "temperature: 9 is not between 0 and 2"),
        (["gateway", "--help=yes"], "-h/--help: takes no value"),
        (["serve", "--reload=yes"], "--reload: takes no value; write --reload or --no-reload"),
        (
            ["gateway", "--no-close-frames=1"],
            "--no-close-frames: takes no value; write --close-frames or --no-close-frames",
        ),
        (["check", "http://[::1"], '"http://[::1" is not an address; write for example http://localhost:4321'),
        (["check", "ftp://a"], '"ftp://a" is not an address; write for example http://localhost:4321'),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"moorline: {line}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[gateway\n", "moorline.toml: "),
        (
            "[gatway]\n",
            "moorline.toml: gatway: there are the tables [gateway], [backend], [serve] and [check]; "
            "did you mean gateway?",
        ),
        ("gateway = 3\n", "moorline.toml: gateway is a table; write [gateway] and its options below"),
        ("[gateway]\nprot = 1\n", "[gateway] prot: there is no such option; did you mean port?"),
        (
            "[gateway]\nfrontend_command = 'x'\n",
            "[gateway] frontend_command: there is no such option; write it in [serve]",
        ),
        ("[gateway]\nmodel = 'x'\n", "[gateway] model: there is no such option; write it in [backend]"),
        # Not the option of check, which no server has.
        ("[gateway]\nbackend = 'http://a'\n", "[gateway] backend: there is no such option\n"),
        ("port = 1\n", "moorline.toml: port: an option stands in a table; write it below [gateway]"),
        (
            "[gateway.route]\npath = '/a'\n",
            "[gateway.route] is one of several; write [[gateway.route]], with two brackets on each side",
        ),
        ("[gateway.port]\n", "[gateway] port: a table is not a value; "),
        ("[gateway]\nport = true\n", '[gateway] port: "true" is not a port'),
    ],
)
def test_a_wrong_file_is_one_line(
    text: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text(text, encoding="utf-8")
    assert main(["gateway"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"moorline: {line}")
    assert err.count("\n") == 1


def test_a_file_in_another_encoding_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text("[gateway]\n", encoding="utf-16")
    assert main(["gateway"]) == 2
    assert capsys.readouterr().err == "moorline: moorline.toml: it is not UTF-8; save it in this encoding\n"


def test_a_file_that_cannot_be_read_is_named_as_it_was_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").mkdir()
    assert main(["gateway"]) == main(["gateway", "--config", "moorline.toml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "moorline: moorline.toml cannot be read (Is a directory)",
        'moorline: --config: "moorline.toml" cannot be read (Is a directory)',
    ]


def test_check_asks_where_the_options_of_the_gateway_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = f"http://127.0.0.1:{unused_tcp_port}"
    (tmp_path / "moorline.toml").write_text(f'[gateway]\nport = 1\n[check]\nbackend = "{backend}"\n', encoding="utf-8")
    assert main(["check", "--host", "127.0.0.1", "--port", str(unused_tcp_port)]) == 1
    printed = capsys.readouterr()
    assert f"through the gateway: {backend}\n" in printed.out
    assert f"straight to the backend: {backend}\n" in printed.out
    assert printed.err == ""


def test_check_asks_the_backend_of_serve_at_its_port(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text(f"[serve]\nbackend_port = {unused_tcp_port}\n", encoding="utf-8")
    assert main(["check", "--port", str(unused_tcp_port)]) == 1
    assert f"straight to the backend: http://127.0.0.1:{unused_tcp_port}\n" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["gateway", "backend"])
async def test_a_variable_of_check_is_known_to_the_other_commands(module: str, tmp_path: Path) -> None:
    env = {"MOORLINE_BACKEND": "http://127.0.0.1:8000", "MOORLINE_MODEL": "x"}
    async with started("moorline", module, "--port", "0", cwd=tmp_path, env=env) as program:
        await program.line("backend")
        assert await program.stop() == 0
    assert "there is no such option" not in program.err


async def test_an_unknown_variable_and_flags_of_other_commands_are_warnings(tmp_path: Path) -> None:
    async with started(
        "moorline",
        "gateway",
        "--port",
        "0",
        "--model",
        "x",
        "--frontend-command",
        "x",
        "--origin",
        "http://a",
        cwd=tmp_path,
        env={"MOORLINE_DRAINS": "1s", "MOORLINE_MODEL": "x"},
    ) as program:
        await program.line("page")
        assert await program.stop() == 0
    assert program.err.splitlines()[:4] == [
        "moorline: warning: --model: an option of moorline backend, it is ignored here",
        "moorline: warning: --frontend-command: an option of moorline serve, it is ignored here",
        "moorline: warning: --origin: an option of moorline check, it is ignored here",
        "moorline: warning: MOORLINE_DRAINS: there is no such option, it is ignored; did you mean MOORLINE_DRAIN?",
    ]


# Help -----------------------------------------------------------------------------------------------------------------


async def test_the_first_help_fits_a_screen_and_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 24
    assert all(f"  {command} " in text for command in ("serve", "gateway", "backend", "check"))


@pytest.mark.parametrize(
    ("module", "arguments", "settings"),
    [
        ("gateway", ["--help"], Settings),
        ("serve", ["--help"], BackendSettings),
        ("backend", ["-h"], BackendSettings),
    ],
)
async def test_a_command_s_help_has_every_option_with_its_default(
    module: str, arguments: list[str], settings: type[Settings] | type[BackendSettings], tmp_path: Path
) -> None:
    status, out, err = await run_program("moorline", module, *arguments, cwd=tmp_path)
    assert (status, err) == (0, "")
    words = " ".join(out.split())
    for spec in specs(settings).values():
        assert spec.flag in words or f"--[no-]{spec.flag[2:]}" in words
        if settings is Settings and spec.default:
            assert f"default: {spec.show(spec.default)}" in words


async def test_moorline_backend_is_the_backend_program(tmp_path: Path) -> None:
    status, out, _ = await run_program("moorline", "backend", "--help", cwd=tmp_path)
    assert status == 0
    assert out.startswith("Usage: moorline backend [OPTIONS]")


@pytest.mark.parametrize("module", ["gateway", "backend"])
async def test_version(module: str, tmp_path: Path) -> None:
    status, out, _ = await run_program("moorline", module, "--version", cwd=tmp_path)
    assert status == 0
    assert out.startswith("moorline ")


@pytest.mark.parametrize(
    ("arguments", "unread"),
    [
        (["--version"], ("aiohttp", "asyncio", "argparse")),
        (["--help"], ("aiohttp", "asyncio", "argparse")),
        (["serve", "--help"], ("aiohttp", "asyncio")),
        (["check", "http://127.0.0.1:1"], ("aiohttp",)),
    ],
    ids=" ".join,
)
async def test_a_command_imports_what_it_needs_and_no_more(
    arguments: list[str], unread: tuple[str, ...], tmp_path: Path
) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted(sys.modules)))\n"
        f"sys.argv[1:] = {arguments}\n"
        "from moorline.gateway.run.cli import main\n"
        "main()\n"
    )
    async with started_command(sys.executable, "-c", program, cwd=tmp_path, env={"PYTHONPATH": PYTHONPATH}) as running:
        await running.ended()
    modules = ast.literal_eval(running.out.splitlines()[-1])
    assert not set(unread) & set(modules)


# Running --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_gateway_prints_its_page_and_ends_cleanly(number: int, tmp_path: Path) -> None:
    async with (
        started("moorline", "gateway", "--port", "0", cwd=tmp_path) as program,
        aiohttp.ClientSession() as client,
    ):
        page = (await program.line("page")).split()[1]
        assert page.endswith("/chat/patient:demo")
        async with client.get(page.replace("/chat/patient:demo", "/healthz")) as response:
            assert response.status == 200
        assert await program.stop(number) == 0
    assert "Traceback" not in program.err


async def test_flags_beat_variables_and_variables_beat_the_file(tmp_path: Path) -> None:
    (tmp_path / "moorline.toml").write_text(
        '[gateway]\nport = 0\nhost = "::1"\nupstream = "http://127.0.0.1:1"\nfrontend = "http://127.0.0.1:4"\n',
        encoding="utf-8",
    )
    async with started(
        "moorline",
        "gateway",
        "--upstream",
        "http://127.0.0.1:3",
        cwd=tmp_path,
        env={"MOORLINE_UPSTREAM": "http://127.0.0.1:2", "MOORLINE_HOST": "127.0.0.1"},
    ) as program:
        assert "http://127.0.0.1:" in await program.line("page")
        assert "http://127.0.0.1:4" in await program.line("frontend")
        assert "http://127.0.0.1:3" in await program.line("backend")


@pytest.mark.parametrize(("command", "library"), [("gateway", "aiohttp"), ("backend", "aiohttp"), ("serve", "typing")])
async def test_ctrl_c_while_the_libraries_are_read_ends_without_a_word(
    command: str, library: str, tmp_path: Path
) -> None:
    (tmp_path / f"{library}.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8"
    )
    environ = {"PYTHONPATH": os.pathsep.join([str(tmp_path), PYTHONPATH])}
    # As the command that pip installs: `python -m` itself reads libraries first.
    program = f"import sys; sys.argv[1:] = ['{command}']; from moorline.__main__ import main; sys.exit(main())"
    async with started_command(sys.executable, "-c", program, cwd=tmp_path, env=environ) as running:
        assert (await running.ended(), running.out, running.err) == (130, "", "")


def test_keys_that_serve_does_not_use_beside_others_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = '[gateway]\nupstream = "http://127.0.0.1:9"\nauthorize = "a:b"\n[backend]\nmodel = "x"\nauthorize = "a:b"\n'
    Path("moorline.toml").write_text(own, encoding="utf-8")
    read(COMMANDS["serve"], [], environ={}, tables=TABLES)
    assert capsys.readouterr().err == (
        "moorline: warning: [gateway] upstream: serve does not use it; "
        "serve starts a backend of its own; `moorline gateway` takes yours\n"
    )
    read(COMMANDS["serve"], ["--backend-command", "x"], environ={"MOORLINE_MODEL": "y"}, tables=TABLES)
    replaced = "serve does not use it; it is of moorline's own backend, which backend_command replaces"
    assert capsys.readouterr().err == "".join(
        f"moorline: warning: [backend] {name}: {replaced}\n" for name in ("model", "authorize")
    )


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("port = 8123", "[backend] port: serve does not use it; write backend_port in [serve]"),
        ('drain = "1s"', "[backend] drain: serve does not use it; both parts drain within that of [gateway]"),
    ],
)
def test_a_key_that_serve_does_not_use_is_said(
    key: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moorline.toml").write_text(f"[backend]\n{key}\n", encoding="utf-8")
    read(COMMANDS["serve"], [], environ={}, tables=TABLES)
    assert capsys.readouterr().err == f"moorline: warning: {line}\n"
    read(COMMANDS["backend"], [], environ={}, tables=TABLES)
    assert capsys.readouterr().err == ""
