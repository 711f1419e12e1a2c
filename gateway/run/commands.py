"""The commands of `moorline`: which options each has, and what its help says. Pure."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.command import Command, Refusal, Section
from moorline.gateway.common.config.options import BOOL, DURATION, PORT, TEXT, Kind, option, specs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.settings import Settings

__all__ = [
    "BACKEND",
    "BACKUP",
    "CHECK",
    "COMMANDS",
    "EXPLAIN",
    "GATEWAY",
    "RESTORE",
    "REVOKE",
    "SERVE",
    "TABLES",
    "BackendSettings",
    "CheckSettings",
    "ServeSettings",
    "Settings",
]


def _is_credential(header: str) -> bool:
    return header.partition(":")[0].strip().lower() in ("authorization", "cookie", "proxy-authorization")


HEADER = Kind("TEXT", TEXT.parse, is_secret=_is_credential)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """The options that only `moorline serve` has."""

    backend_port: int | None = option(
        None, PORT, "the backend's port (default: 8000, or a free one if that is taken)", group="Backend and page"
    )
    reload: bool = option(False, BOOL, "restart the backend when its sources change, and load authorize again")
    frontend_command: str = option(
        "",
        TEXT,
        'start your dev server, as "npm run dev", and keep it running; its address is read from its output',
    )
    backend_command: str = option(
        "", TEXT, 'start your backend, as "uvicorn app:app --reload --port 8000", in place of moorline\'s own'
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """The options that only `moorline check` has."""

    backend: str = option(
        "",
        TEXT,
        "the backend's address (default: `backend_port` or `upstream`, where the gateway is on this machine)",
        group="Options",
    )
    path: str = option("", TEXT, "path of a WebSocket that is not moorline's: it is opened, and asked nothing")
    origin: str = option("", TEXT, "open the socket as a page of this origin (default: the address's own)")
    header: str = option("", HEADER, 'a header that clients send, as "Authorization: Bearer TOKEN"')
    idle: float | None = option(
        3.0, DURATION, "hold the socket in silence for so long, to find what cuts it", can_be_off=True
    )
    json: bool = option(False, BOOL, "print the result as JSON")


_CHECKED = {"host", "port", "tls_certificate", "tls_certificate_key", "upstream"}
#: The tables of moorline.toml.
TABLES: Mapping[str, type[Any]] = {
    "gateway": Settings,
    "backend": BackendSettings,
    "serve": ServeSettings,
    "check": CheckSettings,
}
SERVE = Command(
    name="serve",
    summary="Start everything: the page, the gateway, and a supervised backend process behind it.",
    sections=(
        Section("serve", ServeSettings),
        Section("gateway", Settings),
        # An origin that may use the gateway may use the backend behind it.
        Section(
            "backend",
            BackendSettings,
            ignored=("host", "port", "metrics_port"),
            fallback="gateway",
            fallback_names=specs(CommonSettings).keys(),
            unused={
                "host": "its backend listens on this machine alone",
                "port": "write backend_port in [serve]",
                "drain": "both parts drain within that of [gateway]",
                "log_key": "both parts have that of [gateway]",
            },
            replaced_by="backend_command",
        ),
    ),
    refused={
        "upstream": Refusal(
            "serve starts a backend of its own; `moorline gateway` takes yours", unless="backend_command"
        )
    },
    examples=(
        ("moorline", "the chat page on http://localhost:4321"),
        ("moorline serve --frontend dist/", "your own page"),
        ('moorline serve --frontend-command "npm run dev"', "your own page under development, with hot reload"),
        ("OPENAI_API_KEY=... moorline serve --model gpt-5-mini", "with a model that answers"),
    ),
)
GATEWAY = Command(
    name="gateway",
    summary="Start the gateway alone, in front of a backend that runs elsewhere.",
    sections=(Section("gateway", Settings),),
    examples=(
        ("moorline gateway --upstream http://127.0.0.1:8000 --frontend dist/", "your own page and backend on one port"),
    ),
)
BACKEND = Command(
    name="backend",
    summary="Start the chat backend alone.",
    sections=(Section("backend", BackendSettings),),
    examples=(
        ("moorline backend", "chats in moorline.db in the current folder"),
        ("moorline backend --database sqlite:////var/lib/moorline/chats.db --port 9000", "and elsewhere"),
        ("moorline backend --database postgresql://moorline@db/chats", "in PostgreSQL, which many backends may share"),
    ),
)
CHECK = Command(
    name="check",
    summary="Follow a question through the gateway and straight to the backend, and say which hop is broken.",
    sections=(
        Section("check", CheckSettings),
        # Where the gateway listens, and its backend; nothing else of it matters here.
        Section("gateway", Settings, ignored=specs(Settings).keys() - _CHECKED),
        Section("serve", ServeSettings, ignored=specs(ServeSettings).keys() - {"backend_port"}),
    ),
    arguments=(("URL", "the gateway's address (default: http://localhost:4321, or as configured)"),),
    examples=(
        ("moorline check", "the parts on this machine"),
        ("moorline check https://chat.example.com", "what a user meets"),
        ("moorline check wss://example.com/socket --idle 5m", "any WebSocket, and the idle timer in front of it"),
    ),
)
EXPLAIN = Command(
    name="explain",
    summary="Say what the `cause` of a log line stands for, what usually causes it, and the next step.",
    sections=(),
    arguments=(("CODE", "for example UR-idle, or its letters alone (default: all of them)"),),
    examples=(
        ("moorline explain UR-idle", "the upstream reset the connection between two frames"),
        ("moorline explain UR", "the upstream reset the connection, whenever that was"),
    ),
)
# Nothing but where the chats are matters to them.
_DATABASE = Section("backend", BackendSettings, ignored=specs(BackendSettings).keys() - {"database"})
BACKUP = Command(
    name="backup",
    summary="Write all chats to a new file, also while they go on.",
    sections=(_DATABASE,),
    arguments=(("FILE", "the file, which must not exist"),),
    examples=(("moorline backup chats-2026-01-31.db", "the chats of moorline.db in the current folder"),),
)
RESTORE = Command(
    name="restore",
    summary="Make the database from a backup, without the chats that were erased since.",
    sections=(_DATABASE,),
    arguments=(("FILE", "what `moorline backup` wrote"),),
    examples=(("moorline restore chats-2026-01-31.db", "after moorline was stopped and moorline.db moved away"),),
)
REVOKE = Command(
    name="revoke",
    summary="End what a principal has open on every backend of the database, and refuse the tokens that it has.",
    sections=(_DATABASE,),
    arguments=(("PRINCIPAL", "as the authorize hook names it, or the `sub` of its tokens"),),
    examples=(("moorline revoke dr.who", "the sockets end within two seconds; a token that is issued later counts"),),
)
COMMANDS: Mapping[str, Command] = {
    command.name: command for command in (SERVE, GATEWAY, BACKEND, CHECK, EXPLAIN, BACKUP, RESTORE, REVOKE)
}
