"""What the gateway's options refuse together, each value being right by itself."""

from typing import Any

import pytest

from moorline.gateway.common.config.options import load
from moorline.gateway.common.errors import UsageError
from moorline.gateway.settings import Settings


def loaded(**flags: str) -> Settings:
    return load(Settings, flags=flags, environ={}, table={}, table_name="gateway")


@pytest.mark.parametrize("name", ["client_heartbeat", "upstream_heartbeat"])
@pytest.mark.parametrize("value", ["30s", "31s"])
def test_a_heartbeat_that_is_not_below_proxy_read_timeout_is_refused_with_both_values(name: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        loaded(**{name: value, "proxy_read_timeout": "30s"})
    assert str(refused.value) == f'{name}: "{value}" is not below proxy_read_timeout, "30s"; lower it, or write off'


@pytest.mark.parametrize("value", ["off", "29s", "29.9s"])
def test_a_heartbeat_that_is_below_or_off_is_taken(value: str) -> None:
    loaded(client_heartbeat=value, upstream_heartbeat=value, proxy_read_timeout="30s")


@pytest.mark.parametrize(
    "name",
    [
        "client_heartbeat",
        "upstream_heartbeat",
        "heartbeat_timeout",
        "max_frame_size",
        "max_connections",
        "handshake_timeout",
        "proxy_connect_timeout",
        "proxy_read_timeout",
        "proxy_send_timeout",
        "send_timeout",
        "client_header_timeout",
        "client_body_timeout",
    ],
)
def test_nothing_is_not_enough(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: 0 is too little"):
        loaded(**{name: "0"})


@pytest.mark.parametrize("text", ["http://x", "*", "a b", "a/b", "[::1"])
def test_what_is_no_host_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        loaded(allowed_hosts=text)
    said = f'--allowed-hosts: "{text}" is not a host; write the name alone, for example chat.example.com'
    assert str(refused.value) == said


@pytest.mark.parametrize("text", ["http://[::1", "http://a b", "http://a:0", "a:8000"])
def test_what_is_no_upstream_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not an upstream; write for example http://127\.0\.0\.1:8000$"):
        loaded(upstream=text)


def test_an_upstream_with_a_password_is_refused_without_it() -> None:
    with pytest.raises(UsageError, match=r'"http://a" has a user or a password; an upstream is scheme, host and port'):
        loaded(upstream="http://me:secret@a")


@pytest.mark.parametrize("text", ["http://[::1]:8000", "http://backend", "http://back_end:80", "http://10.0.0.7:1/"])
def test_an_upstream_is_a_name_or_an_address_and_a_port(text: str) -> None:
    assert loaded(upstream=text).upstream == (text.removesuffix("/"),)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("client_heartbeat", "off", None),
        ("upstream_heartbeat", "500ms", 0.5),
        ("heartbeat_timeout", "1m", 60.0),
        ("close_frames", "false", False),
        ("close_timeout", "3s", 3.0),
        ("max_frame_size", "off", None),
        ("max_frame_size", "1MiB", 1 << 20),
    ],
)
def test_the_tunnels_options_are_read(name: str, text: str, value: Any) -> None:
    assert getattr(loaded(**{name: text}), name) == value
