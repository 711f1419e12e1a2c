"""`nginx_conf`: locations and timeouts of an nginx configuration, so that development has the routes of production.

Of the file, and of those that it includes, the first server with a `proxy_pass` counts. What else stands there is
either without a meaning for routes, or it is returned as unused, by file and line. What would change where requests go
without a trace (`rewrite`, `if`, `internal`, named locations, variables in `proxy_pass`) is an error, unless the option
is lenient.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moorline.gateway.common.config.units import parse_duration
from moorline.gateway.common.errors import UsageError, missing_extra
from moorline.gateway.proxy.locations import Kind, Location, Target
from moorline.gateway.proxy.route_option import parse_upstream
from moorline.gateway.proxy.routes import Host, Match, Route
from moorline.gateway.proxy.timeouts import Timeouts

__all__ = ["NginxConf", "read_nginx_conf"]

_TIMEOUTS = tuple(field.name for field in dataclasses.fields(Timeouts))
# nginx checks the rest; crossplane can only where it knows the block around.
_ARGUMENTS = {
    **dict.fromkeys((*_TIMEOUTS, "proxy_pass", "proxy_http_version"), (1,)),
    "location": (1, 2),
    "proxy_set_header": (2,),
}
_PASS = re.compile(r"(https?)://([^/]+)(/.*)?")
_CHANGES_ROUTES = ("rewrite", "if", "internal")
_LEADS_TO_NAMED = ("try_files", "error_page")
# About listeners, logs, TLS, files, compression and buffers: nothing that a route decides.
_NO_ROUTE = re.compile(
    r"listen|server_name|server_tokens|access_log|error_log|log_format|map|types|default_type|include|index|etag|charset"
    r"|expires|root|alias|http2|sendfile|tcp_\w+|keepalive\w*|least_conn|zone|gzip\w*|ssl_\w+|worker_\w+|events|user|pid|daemon"
    r"|proxy_(request_)?buffer\w*|proxy_busy_buffers_size|proxy_http_version|\w+_temp_path"
)
# What the gateway sends as well, whatever the client sent.
_OWN_HEADERS = frozenset(
    {"connection", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id"}
)
_CLIENT_HOSTS = frozenset({"$host", "$http_host", "$host:$server_port"})


@dataclasses.dataclass(frozen=True, slots=True)
class _Directive:
    name: str
    args: Sequence[str]
    file: str
    line: int
    block: Sequence["_Directive"] = ()

    @classmethod
    def of(cls, parsed: Mapping[str, Any]) -> "_Directive":
        block = tuple(map(cls.of, parsed.get("block", ())))
        directive = cls(parsed["directive"], parsed["args"], parsed["file"], parsed["line"], block)
        if len(directive.args) not in _ARGUMENTS.get(directive.name, (len(directive.args),)):
            raise UsageError(f"nginx_conf: {_place(directive)} {directive.name}: it has a wrong number of arguments")
        return directive

    def all(self, name: str) -> Iterator["_Directive"]:
        return (each for each in self.block if each.name == name)

    def has_pass(self) -> bool:
        return any(each.name == "proxy_pass" or each.has_pass() for each in self.block)


@dataclasses.dataclass(frozen=True, slots=True)
class NginxConf:
    """What is used of a configuration, and a line about each thing that is not."""

    locations: Sequence[Location]
    notes: Sequence[str]


def read_nginx_conf(file: str, *, is_own: Callable[[str], bool], lenient: bool = False) -> NginxConf:
    """The locations of the first server that passes anything on.

    `is_own` tells whether an address is this gateway's.

    Raises:
        UsageError: the file cannot be read, or something in it would be followed wrongly.
    """
    top = _Directive("", (), file, 0, _parsed(file))
    http = _Directive("", (), file, 0, [*top.block, *(each for block in top.all("http") for each in block.block)])
    servers = list(http.all("server"))
    used = next((server for server in servers if server.has_pass()), None)
    if used is None:
        raise UsageError(f'nginx_conf: "{file}" has no location with a proxy_pass')
    reader = _Reader(_groups(http), is_own, lenient=lenient)
    for server in servers:
        if server is not used and server.has_pass():
            reader.notes.append(f"{_place(server)} server: only the first one with a proxy_pass is used")
    outside = _Scope().entered(_Directive("", (), file, 0, [each for each in http.block if each.name != "http"]))
    reader.read(used, outside)
    return NginxConf(reader.locations, [*reader.notes, *_grouped(reader.unused)])


def _parsed(file: str) -> Sequence[_Directive]:
    try:
        import crossplane
    except ImportError:
        raise UsageError(f"nginx_conf: {missing_extra('nginx')}") from None
    try:
        # crossplane reports this as a problem of the file, in the words of an exception.
        with open(file, "rb"):
            pass
        payload = crossplane.parse(file, combine=True, comments=False, check_ctx=False, strict=False)
    except OSError as error:
        raise UsageError(f'nginx_conf: "{file}" cannot be read ({error.strerror})') from None
    for problem in payload["errors"]:
        # Its words are empty where the tokens of a directive end.
        words = problem["error"] or "it ends within a directive; a ; or a block is missing"
        raise UsageError(f'nginx_conf: "{file}": {words}')
    return [_Directive.of(each) for config in payload["config"] for each in config["parsed"]]


def _groups(http: _Directive) -> Mapping[str, _Directive]:
    return {each.args[0]: each for each in http.all("upstream") if each.args}


@dataclasses.dataclass(frozen=True, slots=True)
class _Scope:
    """What a block inherits: single values by name, and the headers, which a block has all of its own or none."""

    values: Mapping[str, _Directive] = dataclasses.field(default_factory=dict)
    headers: Sequence[_Directive] = ()

    def entered(self, block: _Directive) -> "_Scope":
        own = {each.name: each for each in block.block if each.name in (*_TIMEOUTS, "proxy_http_version")}
        return _Scope({**self.values, **own}, list(block.all("proxy_set_header")) or self.headers)

    def header(self, name: str) -> str | None:
        found = [each.args[1] for each in self.headers if each.args[0].lower() == name]
        return found[-1] if found else None

    @property
    def upgrades(self) -> bool:
        version = self.values.get("proxy_http_version")
        return version is not None and version.args[0] != "1.0" and self.header("upgrade") == "$http_upgrade"

    @property
    def timeouts(self) -> Timeouts:
        return Timeouts(**{name: _seconds(each) for name, each in self.values.items() if name in _TIMEOUTS})


class _Reader:
    """Reads one server, location by location."""

    def __init__(
        self,
        groups: Mapping[str, _Directive],
        is_own: Callable[[str], bool],
        *,
        lenient: bool,
    ) -> None:
        self._groups = groups
        self._is_own = is_own
        self._lenient = lenient
        self.locations: list[Location] = []
        self.notes: list[str] = []
        self.unused: list[_Directive] = []

    def read(self, block: _Directive, outside: _Scope) -> None:
        """A server, or a location with others inside."""
        scope = outside.entered(block)
        for each in block.block:
            if each.name == "location":
                self._location(each, scope)
            elif each.name in _CHANGES_ROUTES or _leads_to_named(each):
                self._refuse(each, "it would change where requests go, and is not followed")
            elif not self._is_understood(each):
                self.unused.append(each)

    def _location(self, block: _Directive, outside: _Scope) -> None:
        scope = outside.entered(block)
        kind, path = _matched(block)
        if path.startswith("@"):
            self.unused.append(block)
            return
        passes = list(block.all("proxy_pass"))
        try:
            target, route = self._target(passes[-1], kind, path, scope) if passes else (Target.FRONTEND, None)
        except ValueError as error:
            self._refuse(passes[-1], str(error))
            target, route = Target.FRONTEND, None
        if passes and not scope.upgrades:
            self.notes.append(
                f"{_place(block)} location {path}: WebSockets do not pass: "
                "it lacks proxy_http_version 1.1, or proxy_set_header Upgrade $http_upgrade"
            )
        self.locations.append(
            Location(kind=kind, path=path, target=target, timeouts=scope.timeouts, upgrades=scope.upgrades, route=route)
        )
        self.read(block, outside)

    def _target(self, passed: _Directive, kind: Kind, path: str, scope: _Scope) -> tuple[Target, Route | None]:
        """Raises ValueError, with the reason, where the gateway cannot pass it on as nginx does."""
        if "$" in (text := passed.args[0]):
            raise ValueError("it holds variables, which are not followed")
        match = _PASS.fullmatch(text)
        if match is None or match[2].startswith("unix:"):
            raise ValueError(f'"{text}" is no address with http:// or https://')
        scheme, name, uri = match.groups()
        if uri is not None and kind in (Kind.REGEX, Kind.REGEX_ANY_CASE):
            raise ValueError("nginx takes no path here in a location with a regular expression")
        upstream = self._upstream(scheme, name)
        if all(map(self._is_own, upstream)):
            if uri not in (None, path):
                raise ValueError("it passes another path to this gateway itself")
            return Target.GATEWAY, None
        host = Host.CLIENT if scope.header("host") in _CLIENT_HOSTS else Host.UPSTREAM
        return Target.UPSTREAM, Route(path=path, upstream=upstream, match=Match.TEXT, rewrite=uri, host=host)

    def _upstream(self, scheme: str, name: str) -> tuple[str, ...]:
        group = self._groups.get(name)
        if group is None:
            return (parse_upstream(f"{scheme}://{name}"),)
        servers = [each for each in group.all("server") if each.args and "down" not in each.args]
        for each in servers:
            if len(each.args) > 1 and each not in self.unused:
                self.unused.append(each)
        # nginx's default for a server of a group is 80, with https as well.
        urls = [each.args[0] if ":" in each.args[0] else f"{each.args[0]}:80" for each in servers]
        if not urls:
            raise ValueError(f"upstream {name} has no server")
        return tuple(parse_upstream(f"{scheme}://{url}") for url in urls)

    def _is_understood(self, each: _Directive) -> bool:
        # Files are the front end's, whatever the order in which nginx tries them.
        if each.name in _TIMEOUTS or each.name in ("proxy_pass", "try_files"):
            return True
        if each.name != "proxy_set_header":
            return _NO_ROUTE.fullmatch(each.name) is not None
        name, value = each.args[0].lower(), each.args[-1]
        passes = f"$http_{name.replace('-', '_')}"
        return name in _OWN_HEADERS or value == passes or (name == "host" and value in {*_CLIENT_HOSTS, "$proxy_host"})

    def _refuse(self, each: _Directive, reason: str) -> None:
        if not self._lenient:
            raise UsageError(f"nginx_conf: {_place(each)} {each.name}: {reason}; nginx_conf_lenient leaves it out")
        self.notes.append(f"{_place(each)} {each.name}: left out: {reason}")


def _leads_to_named(each: _Directive) -> bool:
    """`try_files $uri @app`: what nginx does not find as a file goes to another location."""
    return each.name in _LEADS_TO_NAMED and any(argument.startswith("@") for argument in each.args)


def _matched(location: _Directive) -> tuple[Kind, str]:
    """`location = /x`, `location ~ "\\.js$"`, `location /x`"""
    *modifier, path = location.args
    if modifier and modifier[0] not in (kind.value for kind in Kind):
        raise UsageError(f'nginx_conf: {_place(location)} location: "{modifier[0]}" is no modifier')
    kind = Kind(modifier[0] if modifier else "")
    if kind in (Kind.REGEX, Kind.REGEX_ANY_CASE):
        try:
            re.compile(path)
        except re.error as error:
            raise UsageError(f'nginx_conf: {_place(location)} location: "{path}": {error}') from None
    return kind, path


def _seconds(directive: _Directive) -> float:
    text = "".join(directive.args)
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f'nginx_conf: {_place(directive)} {directive.name}: "{text}" {error}') from None
    if seconds == 0:
        raise UsageError(f'nginx_conf: {_place(directive)} {directive.name}: "{text}" is too little')
    return seconds


def _place(directive: _Directive) -> str:
    return f"{directive.file}:{directive.line}"


def _grouped(unused: Sequence[_Directive]) -> Iterator[str]:
    """One line for each file: `nginx/moorline/chat.conf: not used: limit_conn (22), limit_req (25)`"""
    for file in dict.fromkeys(each.file for each in unused):
        of_file = [f"{each.name} ({each.line})" for each in unused if each.file == file]
        yield f"{file}: not used: {', '.join(of_file)}"
