"""The option `route`, as people write it: each mistake is one line with key and value."""

import tomllib

import pytest

from moorline.gateway.common.config.options import load
from moorline.gateway.common.errors import UsageError
from moorline.gateway.proxy.routes import Host, Route
from moorline.gateway.settings import Settings


def read(*flags: str, file: str = "", environ: dict[str, str] | None = None) -> tuple[Route, ...]:
    table = tomllib.loads(file).get("gateway", {})
    given: dict[str, str | list[str]] = {"route": list(flags)} if flags else {}
    return load(Settings, flags=given, environ=environ or {}, table=table, table_name="gateway").route


def test_a_flag_gives_path_and_upstream() -> None:
    assert read("/auth=http://127.0.0.1:9000", "/a=b=https://x.example/") == (
        Route(path="/auth", upstream=("http://127.0.0.1:9000",)),
        Route(path="/a=b", upstream=("https://x.example",)),
    )


def test_a_variable_gives_several_routes() -> None:
    found = read(environ={"MOORLINE_ROUTE": "/a=http://one:1,/b=http://two:2"})
    assert [route.path for route in found] == ["/a", "/b"]


def test_a_table_gives_all_of_a_route() -> None:
    file = """
        [[gateway.route]]
        path = "/auth"
        upstream = ["https://a.example", "https://b.example"]
        rewrite = "/v2"
        host = "upstream"

        [[gateway.route]]
        path = "/files/"
        upstream = "http://127.0.0.1:9000"
        proxy_read_timeout = "1m30s"
        send_timeout = 5
    """
    upstreams = ("https://a.example", "https://b.example")
    assert read(file=file) == (
        Route(path="/auth", upstream=upstreams, rewrite="/v2", host=Host.UPSTREAM),
        Route(
            path="/files/",
            upstream=("http://127.0.0.1:9000",),
            time_limits={"proxy_read_timeout": 90, "send_timeout": 5},
        ),
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("/auth", '--route: "/auth" is not a route; write for example /auth=http://127.0.0.1:9000'),
        ("auth=http://x", '--route: "auth=http://x" is not a path'),
        ("/a%20b=http://x", '--route: "/a%20b=http://x" is not a path'),
        ("/a/../b=http://x", '--route: "/a/../b=http://x" is not a path'),
        ("/auth=http://x:99999", '--route: "/auth=http://x:99999" is not an upstream'),
        ("/auth=http://x/v2", '--route: "/auth=http://x/v2" has a path'),
        ("/healthz=http://x", 'route: path: "/healthz" is the gateway\'s own'),
        ("/-/x=http://x", 'route: path: "/-/x" is the gateway\'s own'),
    ],
)
def test_a_flag_that_cannot_work_is_one_line(flag: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(flag)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('upstream = "http://x"', "[[gateway.route]] path: it is missing"),
        ('path = "/a"', "[[gateway.route]] upstream: it is missing"),
        ('path = "/a"\nupstream = "ftp://x"', '[[gateway.route]] upstream: "ftp://x" is not an upstream'),
        ('path = "/a"\nupstream = 9000', "[[gateway.route]] upstream: a int is not a value; write text in quotes"),
        ('path = "/a"\nupstream = []', 'route: upstream: the route "/a" has none'),
        ('path = "/a"\nupstream = ["http://x", "http://x"]', 'route: upstream: the route "/a" has one twice'),
        (
            'path = "/a"\nupstream = "http://x"\nhots = "client"',
            "[[gateway.route]] hots: there is no such key; did you",
        ),
        (
            'path = "/a"\nupstream = "http://x"\nhost = "x"',
            '[[gateway.route]] host: "x" is not one of client, upstream',
        ),
        ('path = "/a"\nupstream = "http://x"\nrewrite = "v2"', '[[gateway.route]] rewrite: "v2" is not a path'),
        (
            'path = "/a"\nupstream = "http://x"\nproxy_read_timeout = "soon"',
            '[[gateway.route]] proxy_read_timeout: "soon" is not a duration',
        ),
        (
            'path = "/a"\nupstream = "http://x"\nsend_timeout = 0',
            '[[gateway.route]] send_timeout: "0" is too little; write a larger one',
        ),
        (
            'path = "/a"\nupstream = "http://x"\nproxy_connect_timeout = true',
            "[[gateway.route]] proxy_connect_timeout: a bool is not a value; write text in quotes",
        ),
    ],
)
def test_a_table_that_cannot_work_is_one_line(lines: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(file=f"[[gateway.route]]\n{lines}")
    assert str(error.value).startswith(message)


def test_a_path_given_twice_is_one_line() -> None:
    with pytest.raises(UsageError, match=r'^route: path: "/a" is given twice'):
        read("/a=http://x", "/a/=http://y")
