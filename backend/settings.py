"""Every option of the backend: flag, MOORLINE_ variable, moorline.toml key, unit, default and meaning. Pure.

Times are seconds, sizes bytes; None stands for `off`. `OPENAI_API_KEY` and `OPENAI_BASE_URL` are those of the `openai`
library, see `provider.py`.
"""

import dataclasses

from moorline.gateway.common.config.named import REFERENCE
from moorline.gateway.common.config.options import DURATION, INT, NUMBER, PORT, SIZE, TEXT, Kind, option
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.config.urls import shown_url
from moorline.gateway.common.errors import UsageError

__all__ = ["POSTGRES", "SQLITE", "Settings", "has_password", "shown_database"]

SQLITE = "sqlite:///"
#: libpq knows both names.
POSTGRES = ("postgresql://", "postgres://")

_ABOVE_ZERO = (
    "heartbeat",
    "run_timeout",
    "llm_read_timeout",
    "llm_connect_timeout",
    "send_timeout",
    "max_tokens",
    "max_answer",
    "max_bytes",
    "max_prompt",
    "max_unfinished",
)
# Limits that are given as a number, or off.
_ONE_OR_OFF = (
    "rate_limit",
    "rate_limit_per_principal",
    "rate_limit_per_address",
    "max_runs_per_principal",
    "max_runs_per_address",
    "new_sessions_per_address",
    "max_connections_per_principal",
    "handshakes_per_principal",
)


# Of libpq's parameters. A file's name (passfile) is no secret.
_PASSWORDS = ("password", "sslpassword")


def shown_database(text: str) -> str:
    """A database's address as it may be printed: without user, password and parameters."""
    return text if text.startswith(SQLITE) else shown_url(text)


def has_password(text: str) -> bool:
    """Whether a database's address holds a password: in an argument other users of the machine can read it."""
    scheme, _, rest = text.partition("://")
    user, at, _ = rest.rpartition("@")
    names = (option.partition("=")[0] for option in rest.partition("?")[2].split("&"))
    return f"{scheme}://".startswith(POSTGRES) and (
        bool(at and user.partition(":")[2]) or any(name in _PASSWORDS for name in names)
    )


def _parse_database(text: str) -> str:
    if text == SQLITE + ":memory:":
        raise UsageError(
            f'database: "{text}" would keep no chat beyond the end; write for example sqlite:///moorline.db'
        )
    if text.startswith(SQLITE) and text != SQLITE:
        return text
    if not text.startswith(POSTGRES):
        # Not a ValueError, which is printed with the text as it is.
        raise UsageError(
            f'database: "{shown_database(text)}" is not a database; '
            "write for example sqlite:///moorline.db or postgresql://user@host/name"
        )
    user, at, _ = text.partition("://")[2].rpartition("@")
    if at and (set(user) & set("@/?#") or user.count(":") > 1):
        raise UsageError(f'database: "{shown_database(text)}": in a password : / ? # @ are written %3A %2F %3F %23 %40')
    return text


DATABASE = Kind("URL", _parse_database, is_secret=has_password, secret_place="~/.pgpass, ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """The backend's options; construct it directly in tests, or with `moorline.gateway.common.config.options.load`."""

    port: int = option(8000, PORT, "listen on this port; 0 picks a free one and prints it")
    database: str = option(
        "sqlite:///moorline.db",
        DATABASE,
        "where the chats are kept: sqlite:///FILE, relative to the current folder, or postgresql://USER@HOST/NAME",
        group="Chats",
    )
    database_pool: int = option(10, INT, "connections to PostgreSQL for statements; a process has three more")
    responder: str = option(
        "",
        REFERENCE,
        "your async generator function `answer(turn)`, or an object with it, which answers in place of the model; its "
        "module is installed, or in the current folder",
        group="Model",
    )
    model: str = option("gpt-5-mini", TEXT, "the model that answers, in the provider's spelling")
    system_prompt: str = option(
        "You are a helpful assistant. Answer clearly and briefly.",
        TEXT,
        "the system message before each chat",
    )
    max_tokens: int = option(1024, INT, "limit of an answer, in the model's tokens")
    max_answer: int = option(
        1 << 20,
        SIZE,
        "limit of an answer, as UTF-8, whatever the provider sends; beyond it the answer ends as `length`",
    )
    temperature: float | None = option(None, NUMBER, "0 to 2; off leaves it to the provider", can_be_off=True)
    llm_connect_timeout: float = option(5.0, DURATION, "connecting to the provider")
    llm_read_timeout: float = option(60.0, DURATION, "silence of the provider within an answer")
    run_timeout: float = option(600.0, DURATION, "time for a whole answer")
    max_runs: int = option(2000, INT, "answers at once in this process; as many again wait", group="Limits")
    rate_limit: int | None = option(None, INT, "messages per minute and session", can_be_off=True)
    rate_limit_per_principal: int | None = option(
        60, INT, "messages per minute of one principal, as the authorize hook names it", can_be_off=True
    )
    rate_limit_per_address: int | None = option(
        300, INT, "messages per minute of one client address (IPv6: of a /64)", can_be_off=True
    )
    max_runs_per_principal: int | None = option(
        10, INT, "answers at once of one principal, at most max_runs", can_be_off=True
    )
    max_runs_per_address: int | None = option(
        100, INT, "answers at once of one client address, at most max_runs", can_be_off=True
    )
    new_sessions_per_address: int | None = option(
        60, INT, "sessions that begin per minute, of one client address", can_be_off=True
    )
    max_connections_per_principal: int | None = option(
        200, INT, "sockets and requests at once of one principal; more get 429", can_be_off=True
    )
    handshakes_per_principal: int | None = option(
        600, INT, "sockets that one principal may open in a minute; more get 429", can_be_off=True
    )
    max_prompt: int = option(
        256 << 10, SIZE, "limit of what the model is shown of a session: its newest messages, as UTF-8"
    )
    metrics_port: int | None = option(
        None,
        PORT,
        "Prometheus: /metrics on 127.0.0.1 at this port; under serve behind the gateway's ports",
        can_be_off=True,
    )
    heartbeat: float = option(20.0, DURATION, "between two pings to a client (version 1: 30s)")
    send_timeout: float = option(30.0, DURATION, "time for a client to read what is sent to it")
    max_bytes: int = option(64 << 10, SIZE, "limit of a message, as UTF-8")
    max_unfinished: int = option(
        64 << 20, SIZE, "messages and bodies that have come in part, in all but for 4KiB of each; more get 1013 or 503"
    )

    retention: float | None = option(
        None, DURATION, "erase sessions without a message for this long", can_be_off=True, group="Privacy"
    )
    audit_log: str | None = option(
        None,
        TEXT,
        "file for a line of JSON per access: principal, action, session (hashed with log_key), outcome",
        can_be_off=True,
    )

    def files(self) -> dict[str, str]:
        """Also those with chats or accesses in them."""
        files = super(Settings, self).files()
        if self.database.startswith(SQLITE):
            files[f'database: "{self.database}"'] = self.database.removeprefix(SQLITE)
        if self.audit_log is not None:
            files[f'audit_log: "{self.audit_log}"'] = self.audit_log
        return files

    def __post_init__(self) -> None:
        super(Settings, self).__post_init__()
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature: {self.temperature:g} is not between 0 and 2")
        for name in _ABOVE_ZERO:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}: 0 would let nothing through; write more than 0")
        if self.max_runs < 1:
            raise UsageError("max_runs: 0 would answer no message; write 1 or more")
        if self.retention == 0:
            raise UsageError("retention: 0 would keep nothing; write for example 90d, or off")
        if self.database_pool < 1:
            raise UsageError("database_pool: 0 would reach no database; write 1 or more")
        for name in _ONE_OR_OFF:
            if getattr(self, name) == 0:
                raise UsageError(f"{name}: 0 would answer no message; write 1 or more, or off")
