"""Routes as nginx's `location` blocks give them: which of them takes a path, and where it leads. Pure.

nginx's rules (ngx_http_core_module): the exact location; else the longest prefix, which counts at once with `^~`; else
the first regular expression in the order of the file; else that prefix. The path is compared decoded, with repeated
slashes merged.
"""

import dataclasses
import enum
import re
from collections.abc import Sequence

from moorline.gateway.proxy.routes import Destination, Owner, Route, Routes, decoded, is_gateways_own
from moorline.gateway.proxy.timeouts import Timeouts

__all__ = ["Kind", "Location", "LocationRoutes", "Locations", "Target"]


class Kind(enum.Enum):
    """The modifier between `location` and its path."""

    PREFIX = ""
    FINAL_PREFIX = "^~"
    EXACT = "="
    REGEX = "~"
    REGEX_ANY_CASE = "~*"


class Target(enum.Enum):
    """Where a location leads."""

    UPSTREAM = "to the servers that its proxy_pass names"
    GATEWAY = "to this gateway, which its proxy_pass names"
    FRONTEND = "to no proxy: nginx serves files, which are the front end's here"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Location:
    """One location, with what it inherits."""

    kind: Kind
    path: str
    target: Target
    timeouts: Timeouts
    upgrades: bool
    """Whether handshakes are passed on as such: `proxy_set_header Upgrade $http_upgrade`."""
    route: Route | None = None
    """Of Target.UPSTREAM."""

    @property
    def is_regex(self) -> bool:
        return self.kind in (Kind.REGEX, Kind.REGEX_ANY_CASE)


class Locations:
    """All of a server, in the order of the file."""

    def __init__(self, locations: Sequence[Location]) -> None:
        self._exact = {each.path: each for each in locations if each.kind is Kind.EXACT}
        prefixes = [each for each in locations if each.kind in (Kind.PREFIX, Kind.FINAL_PREFIX)]
        self._prefixes = sorted(prefixes, key=lambda each: -len(each.path))
        self._patterns = [
            (re.compile(each.path, re.IGNORECASE if each.kind is Kind.REGEX_ANY_CASE else 0), each)
            for each in locations
            if each.is_regex
        ]
        passing = {each.path for each in prefixes if each.target is not Target.FRONTEND}
        named = {*self._exact, *(each.path for each in prefixes)}
        self._folders = {path[:-1] for path in passing if path.endswith("/") and path[:-1] not in named} - {""}

    def is_folder(self, path: str) -> bool:
        """Whether nginx redirects to the same path with a slash: a location that passes on begins there."""
        return path in self._folders

    def find(self, path: str) -> Location | None:
        """The location of a decoded path."""
        if (exact := self._exact.get(path)) is not None:
            return exact
        longest = next((each for each in self._prefixes if path.startswith(each.path)), None)
        if longest is not None and longest.kind is Kind.FINAL_PREFIX:
            return longest
        return next((each for pattern, each in self._patterns if pattern.search(path)), longest)


class LocationRoutes(Routes):
    """All routes of a gateway that has nginx's locations. Routes of the user count before them; the defaults are for
    what nginx passes to this gateway.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        locations: Sequence[Location],
        *,
        timeouts: Timeouts,
        max_fails: int,
        fail_timeout: float,
    ) -> None:
        beside = [location.route for location in locations if location.route is not None]
        super().__init__(routes, beside=beside, timeouts=timeouts, max_fails=max_fails, fail_timeout=fail_timeout)
        self._locations = Locations(locations)
        self._destinations: dict[tuple[Location, Destination | None], Destination] = {}
        self._beside = beside

    @property
    def templates(self) -> tuple[str, ...]:
        return (*super().templates, *(template for route in self._beside for template in route.templates))

    def match(self, path: str) -> Destination | None:
        default = super().match(path)
        if is_gateways_own(path) or (default is not None and default.route.owner is Owner.USER):
            return default
        location = self._locations.find(decoded(path))
        if location is None or location.target is Target.FRONTEND:
            return self.frontend
        if location.target is Target.GATEWAY and default is None:
            # The page, from a folder.
            return None
        return self._destination(location, None if location.route is not None else default)

    def is_folder(self, path: str) -> bool:
        """See `Locations.is_folder`. Routes of the user count before."""
        default = super().match(path)
        is_option = default is not None and default.route.owner is Owner.USER
        return not is_option and self._locations.is_folder(decoded(path))

    def _destination(self, location: Location, default: Destination | None) -> Destination:
        """With the limits of the location. There are as many as locations and defaults."""
        key = (location, default)
        if (known := self._destinations.get(key)) is None:
            route = default.route if location.route is None and default is not None else location.route
            assert route is not None, "a location has a route or leads to the gateway"
            known = self.destination(route, timeouts=location.timeouts, upgrades=location.upgrades)
            self._destinations[key] = known
        return known
