"""The option `route`, read from a flag or from a table of moorline.toml, and the addresses of upstreams. Pure.

    --route /auth=http://127.0.0.1:9000

    [[gateway.route]]
    path = "/auth"
    upstream = "https://auth.example.com"
    rewrite = "/v2"
    host = "upstream"
    proxy_read_timeout = "10s"

The functions raise ValueError with the words that follow the option's name and, for a text, the quoted value.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from moorline.gateway.common.config.options import did_you_mean
from moorline.gateway.common.config.units import parse_duration
from moorline.gateway.proxy.routes import GATEWAY_PATHS, Host, Route
from moorline.gateway.proxy.timeouts import Timeouts

T = TypeVar("T")

__all__ = ["check_routes", "parse_route", "parse_upstream", "route_of_table", "show_route"]

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]+)(:\d*)?")
# What no client percent-encodes: elsewhere one path has two spellings.
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*")


def parse_upstream(text: str) -> str:
    """An upstream's address, as `Upstream` takes it."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and _AUTHORITY.fullmatch(parts.netloc) is not None and parts.port != 0
    except ValueError:
        # A bracket that is not closed, or a port beyond 65535.
        valid = False
    if not valid and "@" in text:
        raise ValueError("has a user or a password; an upstream is scheme, host and port alone")
    if not valid:
        raise ValueError("is not an upstream; write for example http://127.0.0.1:8000")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("has a path; an upstream is scheme, host and port alone")
    return f"{parts.scheme}://{parts.netloc}"


def parse_route(text: str) -> Route:
    """`/auth=http://127.0.0.1:9000`"""
    path, equals, upstream = text.partition("=http")
    if not equals:
        raise ValueError("is not a route; write for example /auth=http://127.0.0.1:9000")
    return Route(path=_parse_path(path), upstream=(parse_upstream("http" + upstream),))


def show_route(route: Route) -> str:
    """A route as a flag gives it, without what only a table can say."""
    return f"{route.path}={', '.join(route.upstream)}"


def route_of_table(table: Mapping[str, object]) -> Route:
    """One `[[gateway.route]]`."""
    for key in table:
        if key not in _KEYS:
            raise ValueError(f"{key}: there is no such key{did_you_mean(key, _KEYS)}")
    for key, example in (("path", '"/auth"'), ("upstream", '"http://127.0.0.1:9000"')):
        if key not in table:
            raise ValueError(f"{key}: it is missing; write for example {key} = {example}")
    upstreams = table["upstream"]
    if not isinstance(upstreams, list):
        upstreams = [upstreams]
    return Route(
        path=_checked("path", table["path"], _parse_path),
        upstream=tuple(_checked("upstream", url, parse_upstream) for url in upstreams),
        rewrite=_checked("rewrite", table["rewrite"], _parse_path) if "rewrite" in table else None,
        host=_checked("host", table.get("host", Host.CLIENT.value), _parse_host),
        time_limits={key: _time_limit(key, table[key]) for key in _TIME_LIMITS if key in table},
    )


def check_routes(routes: Sequence[Route]) -> None:
    """Refuse routes that cannot work beside each other."""
    paths = [route.path.rstrip("/") for route in routes]
    for route, path in zip(routes, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f'path: "{route.path}" is given twice; for several upstreams write a list')
        if any(own.takes(route.path) for own in GATEWAY_PATHS):
            raise ValueError(f'path: "{route.path}" is the gateway\'s own')
        if not route.upstream:
            raise ValueError(f'upstream: the route "{route.path}" has none')
        if len(set(route.upstream)) < len(route.upstream):
            raise ValueError(f'upstream: the route "{route.path}" has one twice')


# ----------------------------------------------------------------------------------------------------------------------


def _checked(key: str, value: object, parse: Callable[[str], T]) -> T:
    if not isinstance(value, str):
        raise ValueError(f"{key}: a {type(value).__name__} is not a value; write text in quotes")
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f'{key}: "{value}" {error}') from None


def _parse_path(text: str) -> str:
    if not _PATH.fullmatch(text) or "//" in text or any(part in (".", "..") for part in text.split("/")):
        raise ValueError("is not a path; write for example /auth, in letters that need no percent-encoding")
    return text


def _time_limit(key: str, value: object) -> float:
    """A bare number is seconds, as in the file's other tables."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    seconds = _checked(key, str(value) if is_number else value, parse_duration)
    if seconds == 0:
        raise ValueError(f'{key}: "{value}" is too little; write a larger one')
    return seconds


def _parse_host(text: str) -> Host:
    if text not in _HOSTS:
        raise ValueError(f"is not one of {', '.join(_HOSTS)}")
    return Host(text)


_HOSTS = tuple(host.value for host in Host)
_TIME_LIMITS = tuple(field.name for field in dataclasses.fields(Timeouts))
_KEYS = ("path", "upstream", "rewrite", "host", *_TIME_LIMITS)
