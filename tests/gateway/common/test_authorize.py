"""The `authorize` hook: the token that it may ask for, and what it may be and return."""

import functools
import traceback
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from moorline.gateway.common.access.authorize import HookFailed, Principal, as_authorize, bearer_token
from moorline.gateway.common.errors import UsageError


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
        ([("Authorization", "Bearer one"), ("Authorization", "Bearer two")], None),
        ([], None),
    ],
)
def test_the_token_is_found_where_a_client_may_put_it(headers: list[tuple[str, str]], token: str | None) -> None:
    assert bearer_token(make_mocked_request("GET", "/", headers=CIMultiDict(headers))) == token


async def named(request: web.Request, patient_id: str | None, session_id: str | None) -> str:
    return "dr.who"


async def principal(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    return Principal("dr.who", expires=7.0)


class Hook:
    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> str:
        return "dr.who"


REQUEST = make_mocked_request("GET", "/")


@pytest.mark.parametrize("hook", [named, principal, Hook(), functools.partial(named)])
async def test_a_hook_returns_a_principal_or_its_name(hook: Any) -> None:
    assert (await as_authorize(hook)(REQUEST, "p", "s")).name == "dr.who"
    assert (await as_authorize(principal)(REQUEST, "p", "s")).expires == 7.0


@pytest.mark.parametrize("name", ["", "a\nb", "\udcff", "x" * 1025])
async def test_a_name_that_cannot_be_used_is_refused_and_told_once_a_minute(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def hook(*_: object) -> Principal:
        return Principal(name)

    authorize = as_authorize(hook)
    for _ in range(2):
        with pytest.raises(web.HTTPUnauthorized):
            await authorize(REQUEST, "p", "s")
    (line,) = caplog.messages
    assert line.endswith("a principal's name has 1 to 1024 bytes and no control characters, and is not -; 1 refused")


@pytest.mark.parametrize("value", [None, True, 7, "", Principal(7)])  # type: ignore[arg-type]
async def test_a_hook_that_returns_no_principal_allows_nothing(value: Any) -> None:
    async def hook(*_: object) -> Any:
        return value

    with pytest.raises(HookFailed, match=r"hook in tests/gateway/common/test_authorize.py, line \d+ returned"):
        await as_authorize(hook)(REQUEST, "p", "s")


async def test_what_a_hook_raises_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def hook(*_: object) -> str:
        users: dict[str, str] = {}
        return users["token-of-dr-who"]

    with pytest.raises(HookFailed, match=r"^authorize: KeyError \(hook in .+, line \d+\); its message ") as failed:
        await as_authorize(hook)(REQUEST, "p", "s")
    assert "token-of-dr-who" not in "".join(traceback.format_exception(failed.value)) + caplog.text


async def two(request: web.Request, patient_id: str) -> str:
    return "dr.who"


@pytest.mark.parametrize("hook", [Hook, two, lambda *_: "dr.who", 7])
def test_what_is_no_hook_is_refused_in_one_line(hook: Any) -> None:
    with pytest.raises(UsageError, match=r"^authorize: .+ must be `async def authorize\(request, .+\)`$"):
        as_authorize(hook)
