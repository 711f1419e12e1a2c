"""The tables of the page "Threats" are true: options, defaults, what each can hold, and the products."""

import re

import pytest

from moorline.backend.eventlog.base import SNAPSHOT_BYTES
from moorline.backend.eventlog.tail import MAX_BYTES
from moorline.backend.retention import _PRUNE_SECONDS as PRUNE_SECONDS
from moorline.backend.settings import Settings as BackendSettings
from moorline.backend.sse import MAX_EVENT
from moorline.backend.tickets import LIFE_SECONDS
from moorline.backend.tickets import PER_MINUTE as TICKETS
from moorline.backend.writer import _READ_AHEAD as READ_AHEAD
from moorline.gateway.common.access.jwt import _MOST_VERIFIED as VERIFIED
from moorline.gateway.common.access.jwt import _MOST_VERIFIED_BYTES as VERIFIED_BYTES
from moorline.gateway.common.access.principal_names import MOST_NAME_BYTES
from moorline.gateway.common.config.options import Spec, specs
from moorline.gateway.common.config.units import parse_size
from moorline.gateway.common.web.idle import _RESERVED_CONNECTIONS as RESERVED
from moorline.gateway.common.web.idle import _SILENT_PER_ADDRESS as SILENT
from moorline.gateway.settings import Settings
from moorline.gateway.site.docs import DOCS
from moorline.gateway.site.files import MAX_KEPT
from moorline.gateway.site.static import _PIECE as PIECE

PAGE = (DOCS / "threats.md").read_text(encoding="utf-8")
MIB = 1 << 20
SPECS: tuple[dict[str, Spec], ...] = (dict(specs(Settings)), dict(specs(BackendSettings)))
#: For a response, 64 KiB and one read beyond it, at both ends.
EACH = {
    "gateway: a request and its response on their way": 4 * (64 << 10),
    "gateway: a file of the page on its way": PIECE,
    "backend: a page of history or of events that is not read": SNAPSHOT_BYTES,
    "backend: a page of events for a socket that is not read": SNAPSHOT_BYTES,
    "backend: what the model is shown of a chat": BackendSettings().max_prompt,
    "backend: an event of the provider": MAX_EVENT,
    # A character has four bytes at most.
    "backend: text of an answer that the log has not taken": 4 * READ_AHEAD,
}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its first two lines."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1:]]


TABLES = ("What bounds the memory", "What bounds the disk", "What one client may take", "What ends a wait")


@pytest.mark.parametrize("row", [row for heading in TABLES for row in rows(heading)], ids=lambda row: row[0])
def test_each_option_has_the_default_that_the_page_says(row: list[str]) -> None:
    _, name, default, *_ = row
    assert default in [spec[name].show(spec[name].default) for spec in SPECS if name in spec]


@pytest.mark.parametrize("row", rows("What bounds the memory"), ids=lambda row: row[0])
def test_what_it_can_be_in_all_is_the_product(row: list[str]) -> None:
    what, _, default, each, total = row
    if each == "-":
        assert parse_size(default) == parse_size(total)
    else:
        assert parse_size(each) == EACH[what]
        assert int(default) * parse_size(each) // MIB * MIB == parse_size(total)


@pytest.mark.parametrize("row", rows("What bounds the disk"), ids=lambda row: row[0])
def test_what_a_client_can_add_to_the_database_in_a_minute_is_the_product(row: list[str]) -> None:
    what, _, default, each, total = row
    most = BackendSettings().max_bytes if what.startswith("messages") else BackendSettings().max_answer
    assert parse_size(each) == most
    assert int(default) * most == parse_size(total)


def test_the_numbers_in_the_text_are_the_codes() -> None:
    assert re.findall(r"claims of ([\d,]+) tokens, whose\s+text is (\d+) MiB", PAGE) == [
        (f"{VERIFIED:,}", str(VERIFIED_BYTES // MIB))
    ]
    assert re.findall(r"name, of (\d+) KiB at most", PAGE) == [str(MOST_NAME_BYTES >> 10)]
    assert re.findall(r"a principal has (\d+) in a minute, is kept for two minutes", PAGE) == [str(TICKETS)]
    assert LIFE_SECONDS + PRUNE_SECONDS <= 120
    assert re.findall(r"last (\d+) are kept", PAGE) == [str(RESERVED)]
    kept = re.findall(r"(\d+) MiB of (files|events)", PAGE)
    assert kept == [(str(MAX_KEPT // MIB), "files"), (str(MAX_BYTES // MIB), "events")]
    assert re.findall(r"Of one address (\d+)\s+connections may be silent", PAGE) == [str(SILENT)]
