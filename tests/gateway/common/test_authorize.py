"""The token of a request, wherever its client may put it."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from moorline.gateway.common.access.authorize import bearer_token


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([("Authorization", "Bearer a.b.c")], "a.b.c"),
        ([("Authorization", "bearer  a.b.c ")], "a.b.c"),
        ([("Authorization", "Basic abc")], None),
        ([("Authorization", "Bearer ")], None),
        ([("Sec-WebSocket-Protocol", "moorline, moorline.jwt.a.b-c_d")], "a.b-c_d"),
        ([("Sec-WebSocket-Protocol", "moorline"), ("Sec-WebSocket-Protocol", "moorline.jwt.x")], "x"),
        ([("Sec-WebSocket-Protocol", "moorline, moorline.jwt.")], None),
        ([("Sec-WebSocket-Protocol", "moorline.jwt.a, moorline.jwt.b")], None),
        ([("Authorization", "Bearer one"), ("Sec-WebSocket-Protocol", "moorline.jwt.two")], "one"),
        ([], None),
    ],
)
def test_the_token_is_found_where_a_client_may_put_it(headers: list[tuple[str, str]], token: str | None) -> None:
    assert bearer_token(make_mocked_request("GET", "/", headers=CIMultiDict(headers))) == token
