"""nginx/ and the gateway agree: a directive that has a twin among the options has the option's default."""

import re

from moorline.gateway.common.config.units import parse_duration
from moorline.gateway.settings import Settings
from tests.support.nginx import SOURCE

_TWIN = re.compile(r"^\s*(\w+)\s+(\S+);\s*# gateway: (\w+)$", re.MULTILINE)
# Options that bear a name of nginx's.
_NAMES = {
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "send_timeout",
    "client_header_timeout",
    "client_body_timeout",
}


def _twins() -> dict[str, tuple[str, str]]:
    text = (SOURCE / "moorline" / "chat.conf").read_text(encoding="utf-8")
    return {option: (directive, value) for directive, value, option in _TWIN.findall(text)}


def test_every_option_with_a_name_of_nginx_has_its_twin_there() -> None:
    assert set(_twins()) == _NAMES
    assert all(directive == option for option, (directive, _) in _twins().items())


def test_twins_have_the_same_value() -> None:
    defaults = Settings()
    assert {option: parse_duration(value) for option, (_, value) in _twins().items()} == {
        option: getattr(defaults, option) for option in _NAMES
    }


def test_one_address_has_as_many_connections_as_at_the_gateway() -> None:
    text = (SOURCE / "moorline" / "chat.conf").read_text()
    assert re.findall(r"^limit_conn \w+ (\d+);$", text, re.MULTILINE) == [str(Settings().max_connections_per_address)]
