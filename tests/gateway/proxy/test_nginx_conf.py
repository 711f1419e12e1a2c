"""What is read of an nginx configuration, and what is said of the rest."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from moorline.gateway.common.errors import UsageError
from moorline.gateway.proxy.locations import Location, LocationRoutes, Locations, Target
from moorline.gateway.proxy.nginx_conf import NginxConf, read_nginx_conf
from moorline.gateway.proxy.routes import Host, Route
from moorline.gateway.proxy.timeouts import Timeouts
from tests.gateway.conftest import StartGateway
from tests.support.nginx import SOURCE
from tests.support.raw import answering, listening

OWN = "http://127.0.0.1:4321"
UPGRADES = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"
Read = Callable[..., NginxConf]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(text_of_the_server, outside=text_beside_it, lenient=…)`"""

    def read_text(text: str, *, outside: str = "", lenient: bool = False) -> NginxConf:
        file = tmp_path / "site.conf"
        file.write_text(f"{outside}\nserver {{\n{text}\n}}\n", encoding="utf-8")
        return read_nginx_conf(str(file), is_own=lambda url: url == OWN, lenient=lenient)

    return read_text


def only(conf: NginxConf) -> Location:
    (location,) = conf.locations
    return location


def test_a_location_gives_path_upstream_and_rewrite(read: Read) -> None:
    route = only(read("location /auth/ { proxy_pass https://auth.example/v2/; }")).route
    assert route is not None
    assert (route.path, route.upstream, route.rewrite) == ("/auth/", ("https://auth.example",), "/v2/")
    assert route.host is Host.UPSTREAM


def test_an_upstream_block_gives_the_servers_that_are_not_down(read: Read) -> None:
    group = "upstream app { least_conn; server 10.0.0.1:80; server app.example; server 10.0.0.2 down; }"
    route = only(read("location / { proxy_pass http://app; }", outside=group)).route
    assert route is not None
    assert route.upstream == ("http://10.0.0.1:80", "http://app.example:80")


def test_a_location_to_the_gateways_own_address_is_the_gateways(read: Read) -> None:
    location = only(read(f"location /b {{ proxy_pass {OWN}; }}"))
    assert (location.target, location.route) == (Target.GATEWAY, None)


def test_time_limits_are_inherited_and_default_to_nginxs(read: Read) -> None:
    text = "proxy_read_timeout 90; location / { proxy_pass http://a; proxy_send_timeout 1m30s; send_timeout 500ms; }"
    timeouts = only(read(text, outside="proxy_connect_timeout 3s;")).timeouts
    assert (timeouts.proxy_connect_timeout, timeouts.proxy_read_timeout) == (3, 90)
    assert (timeouts.proxy_send_timeout, timeouts.send_timeout, timeouts.client_body_timeout) == (90, 0.5, 60)


@pytest.mark.parametrize(
    ("inside", "host"),
    [
        ("proxy_set_header Host $host;", Host.CLIENT),
        ("proxy_set_header Host $http_host;", Host.CLIENT),
        ("proxy_set_header Host $proxy_host;", Host.UPSTREAM),
        ("proxy_set_header X-Real-IP $remote_addr;", Host.UPSTREAM),
        ("", Host.CLIENT),
    ],
)
def test_a_location_with_headers_of_its_own_inherits_none(read: Read, inside: str, host: Host) -> None:
    text = f"proxy_set_header Host $host; location / {{ proxy_pass http://a; {inside} }}"
    route = only(read(text)).route
    assert route is not None
    assert route.host is host


def test_a_location_without_upgrade_passes_no_websocket_and_says_so(read: Read) -> None:
    conf = read("location /x { proxy_pass http://a; }")
    assert not only(conf).upgrades
    assert conf.notes[0].endswith(
        "site.conf:3 location /x: WebSockets do not pass: "
        "it lacks proxy_http_version 1.1, or proxy_set_header Upgrade $http_upgrade"
    )
    assert only(read(f"location /x {{ proxy_pass http://a; {UPGRADES} }}")).upgrades


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("location / { proxy_pass http://$x; }", "proxy_pass: it holds variables, which are not followed"),
        ("location / { proxy_pass http://a; rewrite ^ /x; }", "rewrite: it would change where requests go"),
        ("if ($x) { return 1; } location / { proxy_pass http://a; }", "if: it would change where requests go"),
        ("location / { proxy_pass http://a; internal; }", "internal: it would change where requests go"),
        ("location / { try_files $uri @a; } location @a { proxy_pass http://a; }", "try_files: it would change"),
        ("error_page 404 = @a; location @a { proxy_pass http://a; }", "error_page: it would change"),
        ("location / { proxy_pass http://unix:/a.sock; }", 'proxy_pass: "http://unix:/a.sock" is no address'),
        ("location ~ x { proxy_pass http://a/b; }", "proxy_pass: nginx takes no path here"),
        (f"location / {{ proxy_pass {OWN}/x; }}", "proxy_pass: it passes another path to this gateway itself"),
    ],
)
def test_what_would_change_routes_is_refused_or_left_out_by_file_and_line(read: Read, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"^nginx_conf: .*site\.conf:3 ") as error:
        read(text)
    assert message in str(error.value)
    assert str(error.value).endswith("; nginx_conf_lenient leaves it out")
    assert any("site.conf:3 " in note and "left out: " in note for note in read(text, lenient=True).notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("location / { root /x; }", "has no location with a proxy_pass"),
        (
            "location / { proxy_pass http://a; proxy_read_timeout soon; }",
            'proxy_read_timeout: "soon" is not a duration',
        ),
        ("location / { proxy_pass http://a; proxy_read_timeout 0; }", 'proxy_read_timeout: "0" is too little'),
        ("location ~ ( { proxy_pass http://a; }", 'location: "(": '),
        ("location / { proxy_pass http://a;", "unexpected end of file"),
        ("location / { proxy_pass; }", "proxy_pass: it has a wrong number of arguments"),
        ("location / { proxy_pass http://a; proxy_set_header Host; }", "proxy_set_header: it has a wrong number"),
        ("location ! / { proxy_pass http://a; }", 'location: "!" is no modifier'),
    ],
)
def test_what_cannot_be_read_is_one_line(read: Read, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(text, lenient=True)
    assert str(error.value).startswith("nginx_conf: ")
    assert message in str(error.value)


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'^nginx_conf: ".*none\.conf" cannot be read \(No such file or directory\)$'):
        read_nginx_conf(str(tmp_path / "none.conf"), is_own=lambda url: False)


def test_a_file_that_ends_within_a_directive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "half.conf").write_text("proxy_pass http://a", encoding="utf-8")
    with pytest.raises(UsageError, match=r'^nginx_conf: ".*half\.conf": it ends within a directive; a ; or a block '):
        read_nginx_conf(str(tmp_path / "half.conf"), is_own=lambda url: False)


def test_what_is_not_used_is_listed_once_a_file(read: Read) -> None:
    site = "location / { proxy_pass http://a; limit_conn z 1;\ngzip on; add_header A b; }"
    conf = read(f"auth_basic x;\n{site} location /f {{ try_files $uri /index.html; }}")
    assert conf.notes[-1].endswith("site.conf: not used: auth_basic (3), limit_conn (4), add_header (5)")


def test_moorlines_own_configuration_leads_to_the_gateway() -> None:
    conf = read_nginx_conf(str(SOURCE / "moorline.conf"), is_own=lambda url: url == OWN)
    led = {location.path: location for location in conf.locations if location.target is Target.GATEWAY}
    assert list(led) == ["/ws/", "/api/", "/docs", "/openapi.json", "/"]
    assert all(location.upgrades for location in led.values())
    assert {location.timeouts.proxy_read_timeout for location in led.values()} == {86400.0}


async def test_a_gateway_with_moorlines_own_configuration_serves_page_and_backend(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    heads: list[bytes] = []
    async with listening(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", heads)) as backend:
        gateway = await start_gateway(backend, port=4321, nginx_conf=str(SOURCE / "moorline.conf"))
        for path in ("/api/x", "/docs", "/ws/x"):
            assert await (await gateway.get(path)).text() == "ok"
        assert "<title>page</title>" in await (await gateway.get("/chat/patient:demo")).text()
        assert [(await gateway.get(path)).status for path in ("/healthz", "/none.js")] == [200, 404]
        assert (await gateway.post("/")).status == 405
    assert "chat.conf: not used: client_header_timeout (15), large_client_header_buffers (18), " in caplog.text


# nginx's order --------------------------------------------------------------------------------------------------------


def found(read: Read, locations: Sequence[str], path: str) -> str | None:
    conf = read(" ".join(f"location {location} {{ proxy_pass http://a; }}" for location in locations))
    location = Locations(conf.locations).find(path)
    return None if location is None else f"{location.kind.value} {location.path}".strip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/a", "/a"),
        ("/ab", "/a"),
        ("/a/b", "= /a/b"),
        ("/a/b/", "/a/"),
        ("/a/x.js", r"~ \.js$"),
        ("/a/x.JS", r"~* \.js$"),
        ("/final/x.js", "^~ /final/"),
    ],
)
def test_the_location_is_the_one_that_nginx_takes(read: Read, path: str, expected: str) -> None:
    locations = ["/", "/a", "/a/", "= /a/b", "^~ /final/", r"~ \.js$", r"~* \.js$"]
    assert found(read, locations, path) == expected


def test_a_route_of_the_user_comes_before_every_location(read: Read) -> None:
    conf = read("location /auth/ { proxy_pass http://a; } location ~ ^/auth { proxy_pass http://a; }")
    own = Route(path="/auth", upstream=("http://own:1",))
    routes = LocationRoutes([own], conf.locations, timeouts=Timeouts(), max_fails=1, fail_timeout=10)
    for path in ("/auth", "/auth/x"):
        destination = routes.match(path)
        assert destination is not None
        assert destination.route is own
    assert not routes.is_folder("/auth")


def test_without_a_location_for_it_a_path_is_the_front_ends(read: Read) -> None:
    assert found(read, ["/a"], "/b") is None
