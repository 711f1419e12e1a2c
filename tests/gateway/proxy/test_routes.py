"""Which route takes a path."""

import pytest

from moorline.gateway.proxy.routes import Match, Route, Routes, default_routes
from moorline.gateway.proxy.timeouts import Timeouts

BACKEND, DEV_SERVER = "http://127.0.0.1:8000", "http://127.0.0.1:5173"


def table(*routes: Route, frontend: str = "") -> Routes:
    return Routes(
        [*routes, *default_routes((BACKEND,), frontend=frontend)], timeouts=Timeouts(), max_fails=1, fail_timeout=10
    )


def upstream(routes: Routes, path: str) -> str | None:
    """The address that a request for this path goes to."""
    destination = routes.match(path)
    return None if destination is None else destination.route.upstream[0]


@pytest.mark.parametrize("path", ["/ws", "/ws/chat/p/s", "/api/x", "/docs", "/openapi.json"])
def test_the_backend_has_sockets_api_and_their_documentation(path: str) -> None:
    assert upstream(table(), path) == BACKEND


@pytest.mark.parametrize("path", ["/", "/api", "/apis", "/ws-x", "/docs/intro", "/chat/patient:demo", "/healthz"])
def test_the_gateway_serves_every_other_path(path: str) -> None:
    assert upstream(table(), path) is None


@pytest.mark.parametrize("path", ["/", "/ws", "/ng-cli-ws", "/@vite/client", "/chat/patient:demo", "/docs/intro"])
def test_a_dev_server_has_what_no_other_route_takes(path: str) -> None:
    assert upstream(table(frontend=DEV_SERVER), path) == DEV_SERVER


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/-/docs"])
def test_the_gateways_own_paths_are_no_dev_servers(path: str) -> None:
    assert upstream(table(frontend=DEV_SERVER), path) is None


def test_sockets_below_ws_stay_the_backends_beside_a_dev_server() -> None:
    assert upstream(table(frontend=DEV_SERVER), "/ws/chat/p/s") == BACKEND


def test_a_route_takes_whole_segments() -> None:
    routes = table(Route(path="/auth", upstream=("http://auth:1",)))
    assert [upstream(routes, path) for path in ("/auth", "/auth/x")] == ["http://auth:1"] * 2
    assert [upstream(routes, path) for path in ("/authors", "/x/auth", "/AUTH")] == [None] * 3


def test_the_longest_route_wins_in_whatever_order_they_stand() -> None:
    short, long = Route(path="/a", upstream=("http://short:1",)), Route(path="/a/b", upstream=("http://long:1",))
    for routes in (table(short, long), table(long, short)):
        assert [upstream(routes, path) for path in ("/a/c", "/a/b", "/a/b/c")] == [
            "http://short:1", "http://long:1", "http://long:1",
        ]  # fmt: skip


@pytest.mark.parametrize("path", ["/api", "/api/"])
def test_a_route_of_the_user_replaces_a_default_of_its_path(path: str) -> None:
    assert upstream(table(Route(path=path, upstream=("http://own:1",))), "/api/x") == "http://own:1"


def test_an_exact_route_takes_nothing_below_it() -> None:
    routes = table(Route(path="/x", upstream=("http://own:1",), match=Match.EXACT))
    assert [upstream(routes, path) for path in ("/x", "/x/", "/x/y")] == ["http://own:1", None, None]


def test_routes_to_the_same_upstreams_share_their_state() -> None:
    routes = table(Route(path="/a", upstream=("http://own:1",)), Route(path="/b", upstream=("http://own:1",)))
    one, other, backend = (routes.match(path) for path in ("/a", "/b", "/api/x"))
    assert one is not None
    assert other is not None
    assert backend is not None
    assert one.upstreams is other.upstreams is not backend.upstreams
