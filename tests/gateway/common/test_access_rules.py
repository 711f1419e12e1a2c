from typing import Any

import pytest

from moorline.gateway.common.access.rules import AccessRules, client_network, is_host, is_json
from moorline.gateway.common.config.settings import CommonSettings


def rules(**options: Any) -> AccessRules:
    return AccessRules.of(CommonSettings(**options))


# Origin ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "localhost:4321"),
        ("http://localhost:4321", "localhost:4321"),
        ("http://LocalHost:4321", "localhost:4321"),
        ("http://[::1]:4321", "[::1]:4321"),
        ("https://chat.example.com", "chat.example.com"),
        ("https://chat.example.com", "chat.example.com:443"),
        ("https://chat.example.com:443", "chat.example.com"),
        ("http://chat.example.com", "chat.example.com:80"),
        ("https://chat.example.com:8443", "chat.example.com:8443"),
    ],
)
def test_the_pages_own_origin_passes_whatever_the_scheme(origin: str | None, host: str) -> None:
    assert rules().allows_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "localhost:4321"),
        ("http://localhost:5173", "localhost:4321"),
        ("http://localhost", "localhost:4321"),
        ("null", "localhost:4321"),
        ("null", "null"),
        ("", ""),
        ("http://localhost:4321, http://evil.example", "localhost:4321"),
        ("http://localhost:4321.evil.example", "localhost:4321"),
        ("http://user@localhost:4321", "localhost:4321"),
        ("file://localhost:4321", "localhost:4321"),
        ("http://localhost:4321", ""),
        ("http://localhost:8080", "localhost"),
        ("http://a,b", "a,b"),
    ],
)
def test_any_other_origin_is_refused(origin: str, host: str) -> None:
    assert not rules().allows_origin(origin, host)


def test_a_listed_origin_passes_with_its_scheme_and_port_alone() -> None:
    listed = rules(allowed_origins=("https://app.example:443",))
    assert listed.allows_origin("https://app.example", "localhost:4321")
    assert not listed.allows_origin("http://app.example", "localhost:4321")
    assert not listed.allows_origin("https://app.example:8443", "localhost:4321")
    assert not listed.allows_origin("null", "localhost:4321")


def test_a_star_lifts_both_checks() -> None:
    anybody = rules(allowed_origins=("*",))
    assert anybody.allows_origin("https://evil.example", "localhost:4321")
    assert anybody.allows_host("evil.example")


# Host -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:4321", "LOCALHOST.", "a.localhost:1", "127.0.0.1:8000", "10.1.2.3", "[::1]:4321"]
)
def test_names_that_no_attacker_can_resolve_to_us_are_ours(host: str) -> None:
    assert rules().allows_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4321",
        "localhost.evil.example",
        "evillocalhost",
        "x-localhost:80",
        "1.2.3.4.nip.io",
    ],
)
def test_a_name_that_is_pointed_at_us_by_dns_is_not_ours(host: str) -> None:
    assert not rules().allows_host(host)


def test_the_hosts_of_allowed_origins_are_ours_unless_allowed_hosts_says_which() -> None:
    assert rules(allowed_origins=("https://app.example:8443",)).allows_host("app.example")
    named = rules(allowed_origins=("https://app.example",), allowed_hosts=("chat.example",))
    assert named.allows_host("chat.example:4321")
    assert not named.allows_host("app.example")


@pytest.mark.parametrize("host", ["", "a b", "a,b", "user@a", "a/b", "a:b", "[::1", "a;b", "a:\u0663", "\u212a"])
def test_what_is_no_host_is_known_as_such(host: str) -> None:
    assert not is_host(host)


# CORS and bodies ------------------------------------------------------------------------------------------------------


def test_a_listed_origin_may_read_and_bring_its_cookies() -> None:
    headers = rules(allowed_origins=("https://app.example",)).cors_headers("https://app.example")
    assert headers == {
        "Access-Control-Allow-Origin": "https://app.example",
        "Access-Control-Allow-Credentials": "true",
    }


def test_a_star_lets_every_page_read_and_send_no_cookies() -> None:
    assert rules(allowed_origins=("*",)).cors_headers("https://app.example") == {"Access-Control-Allow-Origin": "*"}


def test_an_origin_that_is_not_listed_may_not_read() -> None:
    assert rules().cors_headers("http://localhost:4321") == rules().cors_headers(None) == {}


@pytest.mark.parametrize(
    ("content_type", "json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("", False),
    ],
)
def test_only_json_is_json(content_type: str, *, json: bool) -> None:
    assert is_json(content_type) is json


@pytest.mark.parametrize(
    ("options", "public"),
    [
        ({}, False),
        ({"allowed_hosts": ("localhost", "127.0.0.1:4321", "[::1]")}, False),
        ({"allowed_origins": ("http://app.localhost:5173", "*")}, False),
        ({"allowed_hosts": ("chat.example.com",)}, True),
        ({"allowed_hosts": ("192.0.2.1",)}, True),
        ({"allowed_hosts": ("localhost",), "allowed_origins": ("https://chat.example.com",)}, True),
    ],
)
def test_a_host_or_a_page_that_is_not_this_machines_is_a_public_name(options: dict[str, Any], *, public: bool) -> None:
    assert rules(**options).has_public_name is public


# The client's address -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "real_ip", "client"),
    [
        ("127.0.0.1", [], None, "127.0.0.1"),
        ("127.0.0.1", ["9.9.9.9"], None, "9.9.9.9"),
        ("127.0.0.1", ["6.6.6.6, 9.9.9.9"], None, "9.9.9.9"),
        ("127.0.0.1", ["6.6.6.6", "9.9.9.9, 127.0.0.2"], None, "9.9.9.9"),
        ("127.0.0.1", ["127.0.0.3"], None, "127.0.0.3"),
        ("127.0.0.1", ["nonsense"], None, "127.0.0.1"),
        ("127.0.0.1", [], "9.9.9.9", "9.9.9.9"),
        ("127.0.0.1", [], "nonsense", "127.0.0.1"),
        ("127.0.0.1", ["9.9.9.9"], "6.6.6.6", "9.9.9.9"),
        ("127.0.0.1", ['fe80::1% request_id=forged "GET /x'], None, "127.0.0.1"),
        ("127.0.0.1", [], "fe80::1% request_id=forged", "127.0.0.1"),
        ("127.0.0.1", ["9.9.9.9, fe80::1%eth0"], None, "127.0.0.1"),
        ("127.0.0.1", ["6.6.6.6, 9.9.9.9:51234"], None, "9.9.9.9"),
        ("127.0.0.1", ["[2001:db8::7]:443, 127.0.0.2:80"], None, "2001:db8::7"),
        ("127.0.0.1", ["[2001:db8::7]"], None, "2001:db8::7"),
        ("127.0.0.1", [], "9.9.9.9:51234", "9.9.9.9"),
        ("127.0.0.1", ["9.9.9.9, 8.8.8.8:x"], None, "127.0.0.1"),
        ("127.0.0.1", ["9.9.9.9, [fe80::1%eth0]:80"], None, "127.0.0.1"),
        ("::ffff:127.0.0.1", ["9.9.9.9"], None, "9.9.9.9"),
        ("8.8.8.8", ["9.9.9.9"], "9.9.9.9", "8.8.8.8"),
        ("", ["9.9.9.9"], None, ""),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy_of_ours(
    peer: str, forwarded_for: list[str], real_ip: str | None, client: str
) -> None:
    assert rules().client_address(peer, forwarded_for, real_ip) == client


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("10.0.0.0/8", "::FFFF:10.1.2.3", True),
        ("10.0.0.0/8", "0:0:0:0:0:ffff:a01:203", True),
        ("fe80::/64", "fe80::7%eth0", True),
        ("::/0", "10.1.2.3", False),
        ("::ffff:0:0/96", "10.1.2.3", True),
    ],
)
def test_a_proxy_is_trusted_in_whatever_way_its_address_is_written(proxies: str, peer: str, *, trusted: bool) -> None:
    assert rules(trusted_proxies=(proxies,)).trusts(peer) is trusted


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("::FFFF:909:909", "9.9.9.9"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:DB8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8::1:0:0:0:8", "2001:db8:0:1::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
    ],
)
def test_all_spellings_of_an_address_and_all_of_an_ipv6_network_are_one_client(address: str, network: str) -> None:
    assert client_network(address) == network
