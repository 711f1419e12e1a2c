"""Which upstreams a request goes to: routes by the beginning of its path, of which the longest wins. Pure.

A path is compared as the client wrote it and in whole segments: `/auth` takes `/auth` and `/auth/x`, but not
`/authors`; `/auth/` takes only what is below it.
"""

import dataclasses
import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, unquote

from moorline.gateway.proxy.timeouts import Timeouts
from moorline.gateway.proxy.upstreams import Upstream, Upstreams

__all__ = [
    "GATEWAY_PATHS",
    "Destination",
    "Host",
    "Match",
    "Owner",
    "Route",
    "Routes",
    "decoded",
    "default_routes",
    "is_gateways_own",
]


class Match(enum.Enum):
    """Which paths a route takes."""

    EXACT = "this one alone"
    SEGMENTS = "this one and those below it"
    TEXT = "all that begin with its letters, as nginx compares and replaces them"


class Host(enum.Enum):
    """Which Host the upstream is sent; the client's is in X-Forwarded-Host."""

    CLIENT = "client"
    UPSTREAM = "upstream"


class Owner(enum.Enum):
    """What is reached by a route."""

    GATEWAY = "the gateway itself"
    USER = "a server of the user's, named by a route"
    BACKEND = "the chat backend: the option `upstream`"
    FRONTEND = "the front end's dev server: the option `frontend`"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route, as it was configured."""

    path: str
    upstream: tuple[str, ...] = ()
    owner: Owner = Owner.USER
    match: Match = Match.SEGMENTS
    rewrite: str | None = None
    """What the upstream gets in place of `path`."""
    host: Host = Host.CLIENT
    time_limits: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Those of `Timeouts` that differ from the gateway's."""

    def takes(self, path: str) -> bool:
        """Whether a request for this path goes there, if no longer route takes it."""
        return re.match(self.expression, path) is not None

    @property
    def expression(self) -> str:
        """What a path that it takes begins with, as a regular expression."""
        path = re.escape(self.path)
        if self.match is Match.EXACT:
            return rf"{path}\Z"
        if self.match is Match.TEXT or self.path.endswith("/"):
            return path
        return rf"{path}(?=/|\Z)"

    def sent(self, target: str) -> str:
        """A request's target as the upstream gets it."""
        if self.rewrite is None:
            return target
        path, question_mark, query = target.partition("?")
        if self.match is Match.TEXT:
            below = decoded(path)[len(self.path) :]
            return self.rewrite + quote(below, safe=_SAFE, encoding="latin-1") + question_mark + query
        return _below(self.rewrite, path[len(self.path.rstrip("/")) :]) + question_mark + query

    def returned(self, path: str) -> str:
        """The client's name of a path that the upstream names. One that the route does not reach stays as it is."""
        if self.rewrite is None:
            return path
        if self.match is Match.TEXT:
            return self.path + path[len(self.rewrite) :] if path.startswith(self.rewrite) else path
        prefix = self.rewrite.rstrip("/")
        is_below = path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/", "?", "#")
        return _below(self.path, path[len(prefix) :]) if is_below else path

    @property
    def templates(self) -> tuple[str, ...]:
        """aiohttp's patterns for the paths that it takes; they are the names of its requests in logs and metrics."""
        if self.match is Match.EXACT:
            return (self.path,)
        if self.match is Match.TEXT:
            return (self.path + "{path:.*}",) if _PLAIN.fullmatch(self.path) else ()
        below = self.path.rstrip("/") + "/{path:.*}"
        return (below,) if self.path.endswith("/") else (self.path, below)


# nginx writes a path anew where it replaces a part of it; these are what a path may hold (RFC 3986 section 3.3).
_SAFE = "/:@!$&'()*+,;=~"
_SLASHES = re.compile("/{2,}")
# What a pattern of aiohttp's may hold as it is.
_PLAIN = re.compile(r"/[A-Za-z0-9._~/-]*")


def decoded(path: str) -> str:
    """A path as nginx compares it: without percent-encoding, and with repeated slashes merged."""
    return _SLASHES.sub("/", unquote(path, "latin-1"))


def _below(prefix: str, rest: str) -> str:
    return (prefix.rstrip("/") + rest) or "/"


GATEWAY_PATHS = tuple(
    Route(path=path, owner=Owner.GATEWAY) for path in ("/healthz", "/readyz", "/moorline-client.tgz", "/-")
)


def is_gateways_own(path: str) -> bool:
    """Whether the gateway answers a request for this path itself, whatever the routes."""
    return any(route.takes(path) for route in GATEWAY_PATHS)


# Of two routes of one length the one whose owner stands first counts: those of the user replace the defaults.
_PRECEDENCE = tuple(Owner)


def default_routes(upstream: Sequence[str], *, frontend: str) -> list[Route]:
    """Those that need no configuration: of the chat backend and, where `frontend` is an address, of the front end.

    A dev server may use exactly `/ws` for its own socket, as webpack's does; chats are below it.
    """
    urls = tuple(upstream)
    routes = [
        Route(path="/ws/" if frontend else "/ws", upstream=urls, owner=Owner.BACKEND),
        Route(path="/api/", upstream=urls, owner=Owner.BACKEND),
        Route(path="/docs", upstream=urls, owner=Owner.BACKEND, match=Match.EXACT),
        Route(path="/openapi.json", upstream=urls, owner=Owner.BACKEND, match=Match.EXACT),
    ]
    if frontend:
        routes.append(Route(path="/", upstream=(frontend,), owner=Owner.FRONTEND, host=Host.UPSTREAM))
    return routes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """A route at work: with the state of its upstreams."""

    route: Route
    upstreams: Upstreams
    timeouts: Timeouts
    upgrades: bool = True
    """Whether handshakes are passed on as such."""


class Routes:
    """All routes of a gateway. Those to the same upstreams share their state. `match` does not find those `beside`."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        beside: Sequence[Route] = (),
        timeouts: Timeouts,
        max_fails: int,
        fail_timeout: float,
    ) -> None:
        self._shared = {
            route.upstream: Upstreams(route.upstream, max_fails=max_fails, fail_timeout=fail_timeout)
            for route in (*routes, *beside)
        }
        self._upstreams = tuple(self._shared.values())
        table = [
            (route, self.destination(route, timeouts=dataclasses.replace(timeouts, **route.time_limits)))
            for route in routes
        ]
        self._table: list[tuple[Route, Destination | None]] = [*table, *((route, None) for route in GATEWAY_PATHS)]
        self._table.sort(key=lambda entry: _rank(entry[0]))
        # One search instead of a comparison for each route: every request is matched.
        self._expression = re.compile("|".join(f"({route.expression})" for route, _ in self._table))

    def destination(self, route: Route, *, timeouts: Timeouts, upgrades: bool = True) -> Destination:
        """A route with the state of its upstreams."""
        return Destination(route, self._shared[route.upstream], timeouts, upgrades)

    @property
    def frontend(self) -> Destination | None:
        """The dev server's; None where the page comes from a folder."""
        return next((each for route, each in self._table if route.owner is Owner.FRONTEND), None)

    def match(self, path: str) -> Destination | None:
        """Where a request for this path goes; None: the gateway answers it itself."""
        found = self._expression.match(path)
        return None if found is None or found.lastindex is None else self._table[found.lastindex - 1][1]

    @property
    def templates(self) -> tuple[str, ...]:
        """Those of all routes, the first to be compared first."""
        return tuple(template for route in self for template in route.templates)

    def __iter__(self) -> Iterator[Route]:
        """All that have upstreams, the first to be compared first."""
        return (route for route, destination in self._table if destination is not None)

    @property
    def upstreams(self) -> tuple[Upstreams, ...]:
        """The upstreams of all routes, each group once."""
        return self._upstreams

    def group(self, upstream: Sequence[str]) -> Upstreams:
        """Those of the routes with these addresses."""
        return next(group for group in self._upstreams if tuple(each.url for each in group) == tuple(upstream))

    def move_frontend(self, url: str) -> None:
        """The dev server serves at this address from now on."""
        for route, destination in self._table:
            if destination is not None and route.owner is Owner.FRONTEND:
                for upstream in destination.upstreams:
                    upstream.move(url)

    def each_upstream(self) -> Iterator[Upstream]:
        return (upstream for group in self._upstreams for upstream in group)


def _rank(route: Route) -> tuple[int, int, bool, int]:
    """The longest first. `/api` and `/api/` are of one length, so that the user's replaces the default."""
    length = len(route.path.rstrip("/"))
    return -length, _PRECEDENCE.index(route.owner), route.match is not Match.EXACT, -len(route.path)
