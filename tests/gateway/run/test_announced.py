"""Which lines of a server's output name its address, as the servers print them."""

import pytest

from moorline.gateway.run.announced import announced_address, port_of, without_colours, without_controls

ANNOUNCED = {
    "  \x1b[32m➜\x1b[39m  \x1b[1mLocal\x1b[22m:   \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m": "http://localhost:5173",
    "  ➜  Local:   http://localhost:5173/app/": "http://localhost:5173",
    "┃ Local    http://localhost:4322/": "http://localhost:4322",
    "   - Local:        http://localhost:3000": "http://localhost:3000",
    "  Local:            https://localhost:8443": "https://localhost:8443",
    "<i> [webpack-dev-server] Loopback: http://localhost:8080/, http://[::1]:8080/": "http://localhost:8080",
    "INFO:     Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)": "http://127.0.0.1:8000",
    "INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)": "http://127.0.0.1:8000",
    " * Running on http://127.0.0.1:5000": "http://127.0.0.1:5000",
    "Starting development server at http://127.0.0.1:8000/": "http://127.0.0.1:8000",
    "Server running at http://localhost:1234": "http://localhost:1234",
    "Server listening at http://[::1]:3000": "http://[::1]:3000",
}
NOT_ANNOUNCED = [
    "  ➜  Network: http://192.168.1.7:5173/",
    "proxying /api to http://localhost:8000",
    "GET http://localhost:5173/src/main.ts 404",
    "Debugger listening on ws://127.0.0.1:9229/5b1c",
    "Local: http://localhost.example.com:80/",
    "Local: http://localhost:99999/",
    "Local: http://127.0.0.1.example.com/",
    "",
]


@pytest.mark.parametrize(("line", "address"), ANNOUNCED.items(), ids=ANNOUNCED.values())
def test_a_server_announces_its_address(line: str, address: str) -> None:
    assert announced_address(line) == address


@pytest.mark.parametrize("line", NOT_ANNOUNCED)
def test_other_addresses_are_not_taken_for_the_servers(line: str) -> None:
    assert announced_address(line) is None


def test_a_line_keeps_its_colours_and_loses_what_moves_the_cursor() -> None:
    assert without_controls("\x1b[2J\x1b[1;1H\x1b[32mready\x1b[39m\x07\x1b]0;title\x07") == "\x1b[32mready\x1b[39m"


def test_the_text_of_a_line_has_neither() -> None:
    assert without_colours("\x1b[2K\x1b[32mready\x1b[39m\tnow\x9b") == "ready\tnow"


@pytest.mark.parametrize(
    ("address", "port"), [("http://localhost:3000", 3000), ("http://localhost", 80), ("https://[::1]", 443)]
)
def test_an_address_without_a_port_has_the_usual_one(address: str, port: int) -> None:
    assert port_of(address) == port
