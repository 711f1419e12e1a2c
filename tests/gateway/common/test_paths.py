"""Paths that one program may read as another path than the next does."""

import itertools

import pytest

from moorline.gateway.common.access.paths import refusal, segments
from tests.support.odd_paths import AMBIGUOUS, OUT_OF_API

PLAIN = (
    "/",
    "/api/chat/s-1/messages?patient_id=patient:demo",
    "/api/chat/s1/messages?q=/../%2e;\\",
    "/api//chat/s1",
    "/api/search/100%25",
    "/api/search/100%252520",
    "/api/files/a;v=1",
    "/api/files/..a/b.",
    "/api/files/a%2Fb",
    "/ws/a%2Fb",
    "/ws//x",
    "/ws/%7e",
    "/ws/a/b?c&&e=",
    "/ws",
    "*",
    # The frontend's own rules are in site/assets.
    "/a;b/../c",
    "/apis/../x",
)


@pytest.mark.parametrize("target", PLAIN)
def test_a_path_with_one_reading_passes(target: str) -> None:
    assert refusal(target) is None


@pytest.mark.parametrize("target", OUT_OF_API)
def test_dot_segments_in_any_spelling_are_refused(target: str) -> None:
    assert refusal(target)


def test_a_path_that_is_plain_at_a_glance_is_so_by_all_rules() -> None:
    segments_of_paths = ("", "api", "ws", "chat", "a.b", ".", "..", "...", "a;b", "a%2e", "a\\b", "..\x7f", "é", "a b")
    for names in itertools.product(segments_of_paths, repeat=3):
        target = "/" + "/".join(names)
        # Only the rules read an absolute target.
        assert refusal(target) == refusal("http://localhost" + target), target


@pytest.mark.parametrize("target", AMBIGUOUS)
def test_first_segments_that_frameworks_read_differently_are_refused(target: str) -> None:
    assert refusal(target)


def test_capitals_get_past_no_rule() -> None:
    assert refusal("/API/chat/%2e%2e/s1")
    assert refusal("/api/CHAT/s1;v=1/messages")


def test_the_authority_of_an_absolute_target_is_not_part_of_its_path() -> None:
    assert segments("http://localhost/api/x?q") == ["api", "x"]
    assert refusal("http://localhost/api/../x")


def test_a_path_that_is_encoded_again_and_again_is_refused_in_bounded_time() -> None:
    assert refusal("/api/x/y/z/%" + "25" * 4000)
