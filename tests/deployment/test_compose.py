"""The Compose file and the Dockerfile of nginx/: well formed, and run without containers."""

import asyncio
import contextlib
import re
import shlex
import signal
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from moorline.gateway.common.config.commandline import read
from moorline.gateway.run.commands import COMMANDS, TABLES
from tests.support import needs
from tests.support.chat_client import ChatClient
from tests.support.compose import COMPOSE, Compose, compose
from tests.support.nginx import NAME, SOURCE, Nginx, nginx
from tests.support.openai_server import DONE, OpenAIServer, finish, openai_server, says
from tests.support.process import ROOT, Program, started
from tests.support.stack import socket

ENVIRON = {"POSTGRES_PASSWORD": "secret", "MOORLINE_LOG_KEY": "key", "OPENAI_API_KEY": "sk-secret"}
PROGRAMS = ("backend-1", "backend-2", "gateway-1", "gateway-2")
PATIENCE = 120.0
WITHIN = 10.0
DOCKERFILE = SOURCE / "Dockerfile"


# The files ------------------------------------------------------------------------------------------------------------


def test_the_file_follows_the_compose_specification() -> None:
    assert set(compose(ENVIRON).document["services"]) == {"nginx", *PROGRAMS, "postgres"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("image: nginx:1.28", "imago: nginx:1.28"),
        ("restart: unless-stopped", "restart: sometimes"),
        ("interval: 10s", "interval: soon"),
        ("condition: service_healthy", "condition: service_fine"),
        ("source: upstream", "source: downstream"),
        ("- chats:/var", "- talks:/var"),
        ("depends_on: [gateway-1, gateway-2]", "depends_on: [gateway-1, gateway-3]"),
        ("nofile: 65536", "nofile: many"),
    ],
)
def test_a_mistake_in_the_file_is_found(right: str, wrong: str) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert right in text
    with pytest.raises(ValueError, match=r"."):
        compose(ENVIRON, text=text.replace(right, wrong, 1))


@pytest.mark.parametrize("name", ENVIRON)
def test_a_secret_that_is_not_set_ends_the_start(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        compose({key: value for key, value in ENVIRON.items() if key != name})


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_options_of_a_service_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    service = compose(ENVIRON).service(name)
    read(COMMANDS[service.command[0]], service.command[1:], environ=service.environ, tables=TABLES)
    assert capsys.readouterr().err == ""


def test_no_dump_of_the_memory_of_a_service_is_kept() -> None:
    services = compose(ENVIRON).document["services"]
    assert {name: service["ulimits"]["core"] for name, service in services.items()} == dict.fromkeys(services, 0)


def test_files_that_are_mounted_exist() -> None:
    volumes = compose(ENVIRON).document["services"]["nginx"]["volumes"]
    mounted = {volume.partition(":")[0] for volume in volumes} - {"./certificates"}
    assert mounted == {"./moorline.conf", "./moorline"}
    assert all((SOURCE / path).exists() for path in mounted)


def test_the_image_has_what_the_dockerfile_copies_and_a_user_without_rights() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert all((ROOT / path).exists() for path in copied)
    ignored = (SOURCE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{path}" for path in copied} == {line for line in ignored if line.startswith("!")}
    (extras,) = re.findall(r"/source\[([\w,]+)\]", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == re.findall(r"--uid (\d+)", text)


def test_the_command_of_the_image_exists() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    (entry,), (command,) = (re.findall(rf"^{name} \[(.+)\]$", text, re.MULTILINE) for name in ("ENTRYPOINT", "CMD"))
    assert shlex.split(entry.replace(",", "")) == ["moorline"]
    name, *arguments = shlex.split(command.replace(",", ""))
    read(COMMANDS[name], arguments, environ={}, tables=TABLES)


# The processes --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(folder: Path, file: Compose, **environ: str) -> AsyncIterator[dict[str, Program]]:
    """The file's programs of moorline, all accepting connections."""
    async with contextlib.AsyncExitStack() as stack:
        programs: dict[str, Program] = {}
        for name in PROGRAMS:
            service = file.service(name)
            changed = {key: value for key, value in environ.items() if key in service.environ}
            (folder / name).mkdir()
            start = started("moorline", *service.command, cwd=folder / name, env={**service.environ, **changed})
            programs[name] = await stack.enter_async_context(start)
        for name, program in programs.items():
            assert file.service(name).address in await program.line('"started"', patience=PATIENCE)
        yield programs


def dial(front: Nginx, session: str) -> Callable[[], connect]:
    """A browser's sockets of this session, at the public name."""
    origin, port = f"https://{NAME}", int(front.tls.rpartition(":")[2])
    path = f"/ws/chat/patient:demo/{session}"
    return lambda: socket(origin, path, host="127.0.0.1", port=port, ssl=front.trust(), origin=origin)


@contextlib.asynccontextmanager
async def chatting(front: Nginx, session: str) -> AsyncIterator[ChatClient]:
    client = ChatClient(dial(front, session))
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(model: OpenAIServer, client: ChatClient, question: str, answer: str) -> None:
    model.reply(says(answer), finish("stop"), DONE)
    assert (await client.say(question)).content == answer


@needs.nginx
@needs.postgres
# Four programs start at once: 6 s of CPU, and 3 s on two idle cores.
@pytest.mark.timeout(2 * PATIENCE)
async def test_the_chat_goes_on_when_a_gateway_and_a_backend_are_killed(tmp_path: Path, postgres_database: str) -> None:
    file = compose(ENVIRON)
    (tmp_path / "nginx").mkdir()
    upstream = file.document["configs"]["upstream"]["content"]
    async with openai_server() as model, contextlib.AsyncExitStack() as stack:
        environ = {"MOORLINE_DATABASE": postgres_database, "OPENAI_BASE_URL": model.base_url}
        programs = await stack.enter_async_context(running(tmp_path, file, **environ))
        front = await stack.enter_async_context(nginx(tmp_path / "nginx", upstream))
        # One by each gateway: nginx gives the second to the gateway that has fewer.
        first = await stack.enter_async_context(chatting(front, "s1"))
        await ask(model, first, "Hello", "Good morning.")
        second = await stack.enter_async_context(chatting(front, "s2"))
        await ask(model, second, "Hello", "Good evening.")
        for name in ("gateway-1", "backend-1"):
            await programs[name].stop(signal.SIGKILL)
        killed = time.monotonic()
        for client in (first, second):
            await ask(model, client, "And now?", "Still here.")
        print(f"both chats go on {(took := time.monotonic() - killed):.1f} s after the kills")
        assert took < WITHIN
        for client in (first, second):
            said = [row.content for row in client.transcript.rows.values()]
            assert said[0] == "Hello"
            assert said[2:] == ["And now?", "Still here."]
        assert len(first.outages) + len(second.outages) >= 1
