import email.utils
import time
from collections.abc import Iterator

import pytest

from moorline.gateway.site.conditions import Unsatisfiable, selected_range, status_by_conditions

MODIFIED = 1_700_000_000
SAME = email.utils.formatdate(MODIFIED, usegmt=True)
EARLIER = email.utils.formatdate(MODIFIED - 1, usegmt=True)
LATER = email.utils.formatdate(MODIFIED + 1, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"If-None-Match": '"now"'}, 304),
        ({"If-None-Match": 'W/"now"'}, 304),
        ({"If-None-Match": '"old", W/"now"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"old"'}, None),
        ({"If-None-Match": "now"}, None),
        ({"If-Modified-Since": SAME}, 304),
        ({"If-Modified-Since": LATER}, 304),
        ({"If-Modified-Since": EARLIER}, None),
        ({"If-Modified-Since": "yesterday"}, None),
        ({"If-None-Match": '"old"', "If-Modified-Since": SAME}, None),
        ({"If-Match": '"now"'}, None),
        ({"If-Match": "*"}, None),
        ({"If-Match": 'W/"now"'}, 412),
        ({"If-Match": '"old"'}, 412),
        ({"If-Match": '"old"', "If-None-Match": '"now"'}, 412),
        ({"If-Match": '"now"', "If-Unmodified-Since": EARLIER}, None),
        ({"If-Unmodified-Since": EARLIER}, 412),
        ({"If-Unmodified-Since": SAME}, None),
        ({"If-Unmodified-Since": SAME, "If-None-Match": '"now"'}, 304),
    ],
)
def test_conditions_are_evaluated_in_the_order_of_the_rfc(headers: dict[str, str], status: int | None) -> None:
    assert status_by_conditions(headers, etag="now", modified=MODIFIED) == status


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_far_from_greenwich")
@pytest.mark.parametrize(
    "date", ["Tue, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"]
)
def test_each_of_http_s_three_forms_of_a_date_is_in_gmt(date: str) -> None:
    assert status_by_conditions({"If-Modified-Since": date}, etag="", modified=MODIFIED) == 304
    assert status_by_conditions({"If-Modified-Since": date}, etag="", modified=MODIFIED + 1) is None


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=7-", (7, 10)),
        ("bytes=7-99", (7, 10)),
        ("bytes=-2", (8, 10)),
        ("bytes=-99", (0, 10)),
        (" bytes=2-4 ", (2, 5)),
        ("bytes=-0", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
        ("bytes=1x-2", None),
        ("bytes=\u0661-\u0662", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_one_range_of_bytes_is_selected_and_all_else_is_the_whole(wanted: str, part: tuple[int, int] | None) -> None:
    assert selected_range({"Range": wanted}, etag="now", modified=MODIFIED, size=10) == part


@pytest.mark.parametrize(("wanted", "size"), [("bytes=10-", 10), ("bytes=4-3", 10), ("bytes=0-", 0), ("bytes=-1", 0)])
def test_a_range_that_selects_nothing_is_unsatisfiable(wanted: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        selected_range({"Range": wanted}, etag="now", modified=MODIFIED, size=size)


@pytest.mark.parametrize(
    ("if_range", "is_honoured"),
    [
        ('"now"', True),
        ('"old"', False),
        ('W/"now"', False),
        (SAME, True),
        (EARLIER, False),
        (LATER, False),
        ("x", False),
    ],
)
def test_a_part_is_sent_only_of_the_version_that_the_client_has(if_range: str, *, is_honoured: bool) -> None:
    headers = {"Range": "bytes=0-0", "If-Range": if_range}
    part = selected_range(headers, etag="now", modified=MODIFIED, size=10)
    assert (part is not None) is is_honoured
