"""A right while it is held: when the hook is asked again, and what ends it."""

import asyncio
import logging
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.rights import Right, Rights
from tests.support.eventlogs import until

# None of these waits for it but where it fails.
STEP = 10.0
LATER = 3600.0


class Hook:
    """Answers with `result`, or raises it, once it may."""

    def __init__(self) -> None:
        self.result: Principal | Exception = Principal("alice")
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        self.asked += 1
        await self.answers.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def held(hook: Hook, principal: Principal, *, again: float | None = LATER) -> tuple[Rights, Right]:
    rights, request = Rights(hook, again=again), make_mocked_request("GET", "/")
    return rights, rights.take(principal, lambda: rights.ask(request, None, None))


async def ended(right: Right) -> None:
    end = asyncio.Event()
    right.on_end(end.set)
    async with asyncio.timeout(STEP):
        await end.wait()


async def test_a_right_expires_before_the_hook_is_due_again() -> None:
    _, right = held(Hook(), Principal("alice", expires=time.time() + 0.05))
    await ended(right)
    assert right.expired


def asked_now(hook: Hook, principal: Principal) -> tuple[Rights, Right]:
    """The hook may take as long as it likes."""
    rights, request = Rights(hook, again=LATER), make_mocked_request("GET", "/")
    now = asyncio.get_running_loop().time()
    return rights, rights.take(principal, lambda: rights.ask(request, None, None), ask_by=now)


async def test_a_right_expires_also_while_the_hook_works() -> None:
    hook = Hook()
    hook.answers.clear()
    rights, right = asked_now(hook, Principal("alice", expires=time.time() + 0.2))
    await until(lambda: hook.asked)
    await ended(right)
    assert right.expired
    rights.release(right)


async def test_a_hook_that_works_is_due_in_the_next_process_as_well() -> None:
    hook = Hook()
    hook.answers.clear()
    rights, right = asked_now(hook, Principal("alice"))
    await until(lambda: hook.asked)
    assert right.ask_by is not None
    assert right.ask_by <= asyncio.get_running_loop().time()
    rights.release(right)


async def test_a_right_that_has_ended_has_no_timer() -> None:
    rights, right = held(Hook(), Principal("alice"))
    rights.close("alice")
    assert right._timer is None


async def test_a_right_that_was_closed_does_not_expire_and_one_that_has_expired_is_not_closed() -> None:
    rights, closed = held(Hook(), Principal("alice"))
    rights.close("alice")
    rights.revoke("alice", time.time())
    assert (closed.ended, closed.expired) == (True, False)
    rights, expired = held(Hook(), Principal("alice"))
    rights.revoke("alice", time.time())
    rights.revoke("alice", time.time() + 1)
    rights.close("alice")
    assert (expired.ended, expired.expired) == (True, True)


@pytest.mark.parametrize("failure", [RuntimeError(), web.HTTPInternalServerError(), web.HTTPServiceUnavailable()])
async def test_a_hook_that_fails_is_asked_again(failure: Exception) -> None:
    hook = Hook()
    hook.result = failure
    rights, right = held(hook, Principal("alice"), again=0.001)
    await until(lambda: hook.asked >= 3)
    rights.release(right)
    assert not right.ended


async def test_a_hook_that_does_not_answer_is_asked_again() -> None:
    hook = Hook()
    hook.answers.clear()
    rights, right = held(hook, Principal("alice"), again=0.001)
    await until(lambda: hook.asked >= 3)
    rights.release(right)
    assert not right.ended


async def test_a_hook_that_was_replaced_decides_nothing_any_more() -> None:
    former, hook = Hook(), Hook()
    former.answers.clear()
    former.result = web.HTTPForbidden()
    rights, right = held(former, Principal("alice"), again=0.001)
    await until(lambda: former.asked >= 1)
    right._again = LATER
    rights.replace(hook)
    await until(lambda: hook.asked >= 1)
    former.answers.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not right.ended


async def test_a_right_has_one_timer_however_often_the_hook_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, hook = asyncio.get_running_loop(), Hook()
    call_later, timers = loop.call_later, list[asyncio.TimerHandle]()

    def noted(delay: float, callback: object, *args: object) -> asyncio.TimerHandle:
        timers.append(call_later(delay, callback, *args))  # type: ignore[arg-type]
        return timers[-1]

    hook.result = Principal("alice", expires=time.time() + LATER)
    rights, right = held(hook, hook.result, again=0.001)
    monkeypatch.setattr(loop, "call_later", noted)
    await until(lambda: hook.asked >= 5)
    rights.release(right)
    assert timers
    assert all(timer.cancelled() or timer.when() <= loop.time() + 1 for timer in timers)


@pytest.mark.parametrize("again", [None, LATER])
async def test_a_hook_that_another_process_would_have_asked_is_asked_then(again: float | None) -> None:
    hook, now = Hook(), asyncio.get_running_loop().time()
    rights, request = Rights(hook, again=again), make_mocked_request("GET", "/")
    right = rights.take(Principal("alice"), lambda: rights.ask(request, None, None), ask_by=now + 0.01)
    await until(lambda: hook.asked >= 1)
    rights.release(right)


async def test_rights_that_began_at_once_are_not_asked_about_at_once() -> None:
    now = asyncio.get_running_loop().time()
    rights = Rights(Hook(), again=LATER)
    taken = [rights.take(Principal("alice"), lambda: rights.ask(None, None, None)) for _ in range(20)]  # type: ignore[arg-type]
    dues = [right.ask_by - now for right in taken if right.ask_by is not None]
    assert len({round(due) for due in dues}) > 10
    assert LATER / 2 <= min(dues) < max(dues) <= LATER + STEP
    for right in taken:
        rights.release(right)


async def test_a_second_revocation_counts_as_the_first_did() -> None:
    issued = time.time()
    rights = Rights(Hook(), again=None)
    rights.revoke("alice", issued - 1)
    right = rights.take(Principal("alice", issued=issued), None)
    rights.revoke("alice", issued)
    assert right.expired


async def test_a_revocation_that_is_told_again_ends_nothing_that_began_since() -> None:
    rights, at = Rights(Hook(), again=None), time.time()
    rights.revoke("alice", at)
    right = rights.take(Principal("alice"), None)
    rights.revoke("alice", at)
    assert not right.ended


async def test_what_was_issued_until_a_revocation_is_refused_and_what_came_later_goes_on() -> None:
    hook, at = Hook(), time.time()
    rights, later = Rights(hook, again=None), Principal("alice", issued=at + 0.5)
    right = rights.take(later, None)
    rights.revoke("alice", at)
    assert not right.ended
    hook.result = Principal("alice", issued=at)
    with pytest.raises(web.HTTPUnauthorized):
        await rights.ask(make_mocked_request("GET", "/"), None, None)
    hook.result = later
    assert await rights.ask(make_mocked_request("GET", "/"), None, None) is later


async def test_a_right_that_was_released_has_no_timer() -> None:
    rights, right = held(Hook(), Principal("alice", expires=time.time() + LATER))
    rights.release(right)
    assert right._timer is None


async def test_nothing_is_kept_of_a_question_that_was_answered_or_failed() -> None:
    hook, request = Hook(), make_mocked_request("GET", "/")
    rights = Rights(hook, again=None)
    await rights.ask(request, None, None)
    hook.result = web.HTTPForbidden()
    with pytest.raises(web.HTTPForbidden):
        await rights.ask(request, None, None)
    assert rights._asking == {}


async def test_the_line_about_the_end_does_not_name_the_principal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rights, right = held(Hook(), Principal("alice"))
    rights.close("alice")
    assert right.ended
    assert "a right has ended" in caplog.text
    assert "alice" not in caplog.text
