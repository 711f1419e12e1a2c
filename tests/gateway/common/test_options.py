import dataclasses
from typing import Any

import pytest

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.options import (
    BOOL,
    DURATION,
    INT,
    SIZE,
    TEXT,
    changed,
    choice,
    load,
    option,
    specs,
    unknown_variables,
)
from moorline.gateway.common.errors import UsageError
from moorline.gateway.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    wait: float = option(30.0, DURATION, "waits", group="Time")
    grace: float | None = option(5.0, DURATION, "waits more", can_be_off=True)
    names: tuple[str, ...] = option((), TEXT, "who", group="People")
    loud: bool = option(False, BOOL, "says so")
    size: int = option(1024, SIZE, "how much")
    count: int = option(1, INT, "how many")
    style: str = option("plain", choice("plain", "fancy"), "how")


def read(
    flags: dict[str, str | list[str]] | None = None,
    environ: dict[str, str] | None = None,
    table: dict[str, object] | None = None,
) -> Example:
    return load(Example, flags=flags or {}, environ=environ or {}, table=table or {}, table_name="example")


def test_without_any_source_the_defaults_stand() -> None:
    assert read() == Example()


def test_flags_beat_variables_and_variables_beat_the_file() -> None:
    table: dict[str, object] = {"wait": "1s", "count": 1, "size": 1}
    environ = {"MOORLINE_WAIT": "2s", "MOORLINE_COUNT": "2"}
    read_all = read({"wait": "3s"}, environ, table)
    assert (read_all.wait, read_all.count, read_all.size) == (3.0, 2, 1)


def test_a_list_is_repeated_as_a_flag_comma_separated_as_a_variable_and_an_array_in_the_file() -> None:
    assert read({"names": ["a", "b"]}).names == ("a", "b")
    assert read(environ={"MOORLINE_NAMES": "a, b,"}).names == ("a", "b")
    assert read(table={"names": ["a", "b"]}).names == ("a", "b")
    assert read(table={"names": "a"}).names == ("a",)


def test_off_is_none_where_the_option_can_be_off_and_no_value_elsewhere() -> None:
    assert read({"grace": "off"}).grace is None
    with pytest.raises(UsageError, match=r'^--wait: "off" is not a duration'):
        read({"wait": "off"})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"loud": True}, Example(loud=True)),
        ({"count": 2}, Example(count=2)),
        ({"wait": 2.5}, Example(wait=2.5)),
        ({"wait": "2m"}, Example(wait=120.0)),
    ],
)
def test_the_file_s_own_types_are_read_as_text_would_be(table: dict[str, object], expected: Example) -> None:
    assert read(table=table) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"wiat": 1}, r"^\[example\] wiat: there is no such option; did you mean wait\?$"),
        ({"wait": {}}, r"^\[example\] wait: a table is not a value"),
        ({"names": [["a"]]}, r"^\[example\] names: a list in a list is not a value"),
        ({"count": [1, 2]}, r"^\[example\] count: takes one value, not a list$"),
        ({"style": "bold"}, r'^\[example\] style: "bold" is not one of plain, fancy$'),
        ({"count": -1}, r'^\[example\] count: "-1" is not a whole number$'),
    ],
)
def test_what_is_wrong_in_the_file_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(table=table)


def test_a_wrong_variable_is_named_with_its_value() -> None:
    with pytest.raises(UsageError, match=r'^MOORLINE_LOUD: "yes" is neither true nor false$'):
        read(environ={"MOORLINE_LOUD": "yes"})


def test_settings_are_built_again_from_what_was_changed() -> None:
    settings = Example(wait=0.001, grace=None, names=("a", "b"), loud=True, size=3, style="fancy")
    assert Example(**changed(settings)) == settings
    assert "count" not in changed(settings)


def test_an_ignored_option_keeps_its_default_whatever_is_given() -> None:
    loaded = load(
        Example,
        flags={"wait": "1s"},
        environ={"MOORLINE_SIZE": "x"},
        table={"count": 9, "loud": True},
        table_name="example",
        ignored=("wait", "size", "count"),
    )
    assert loaded == Example(loud=True)


def test_unknown_variables_are_told_with_the_nearest_known() -> None:
    environ = {"MOORLINE_WIAT": "1", "MOORLINE_COUNT": "1", "PATH": ""}
    (line,) = unknown_variables(environ, specs(Example))
    assert line == "MOORLINE_WIAT: there is no such option, it is ignored; did you mean MOORLINE_WAIT?"


def test_an_option_stands_under_the_heading_last_named() -> None:
    assert [spec.group for spec in specs(Example).values()] == ["Time", "Time"] + 5 * ["People"]


@pytest.mark.parametrize("settings", [Settings, BackendSettings])
def test_every_option_has_a_heading_a_meaning_and_a_default_that_can_be_written(
    settings: type[Settings] | type[BackendSettings],
) -> None:
    for spec in specs(settings).values():
        assert spec.group, spec.name
        assert spec.meaning, spec.name
        if text := spec.show(spec.default):
            assert spec.parse(text, spec.flag) == spec.default


@pytest.mark.parametrize("name", ["upstream", "allowed_origins", "allowed_hosts", "trusted_proxies"])
@pytest.mark.parametrize(
    "value", ["ftp://me:secret@host/?password=secret", "me:secret@host:99999", "http://a:se@cret@h/x"]
)
@pytest.mark.parametrize("source", ["flags", "environ", "table"])
def test_a_password_in_a_bad_address_is_not_printed(name: str, value: str, source: str) -> None:
    given = {"flags": {name: [value]}, "environ": {f"MOORLINE_{name.upper()}": value}, "table": {name: [value]}}
    sources: dict[str, Any] = {"flags": {}, "environ": {}, "table": {}, source: given[source]}
    with pytest.raises(UsageError) as refused:
        load(Settings, **sources, table_name="gateway")
    assert name in str(refused.value).replace("-", "_").lower()
    assert "secret" not in str(refused.value)
    assert "cret" not in str(refused.value)
