"""The states of a supervised process, as a table."""

import itertools

import pytest

from moorline.gateway.run.lifecycle import Event, State, after


def run(*events: Event) -> State:
    state = State.STARTING
    for event in events:
        state = after(state, event)
    return state


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([Event.READY], State.UP),
        ([Event.READY, Event.ENDED], State.BACKOFF),
        ([Event.READY, Event.ENDED, Event.DELAY_OVER], State.STARTING),
        ([Event.BROKEN], State.WAITING_FOR_CHANGE),
        ([Event.BROKEN, Event.RESTART], State.STARTING),
        ([Event.REFUSED], State.STOPPED),
        ([Event.READY, Event.RESTART, Event.ENDED], State.STARTING),
        ([Event.RESTART, Event.READY, Event.BROKEN], State.STARTING),
        ([Event.READY, Event.STOP, Event.ENDED], State.STOPPED),
        ([Event.ENDED, Event.STOP], State.STOPPED),
        ([Event.READY, Event.LEAVE, Event.ENDED], State.STOPPED),
        ([Event.READY, Event.LEAVE, Event.STOP], State.STOPPING),
        ([Event.LEAVE], State.STOPPING),
    ],
)
def test_a_process_goes_from_state_to_state(events: list[Event], state: State) -> None:
    assert run(*events) is state


@pytest.mark.parametrize("state", State)
def test_a_stop_holds_in_every_state(state: State) -> None:
    assert after(state, Event.STOP) in (State.STOPPING, State.STOPPED)


@pytest.mark.parametrize("event", [Event.READY, Event.RESTART, Event.LEAVE, Event.STOP])
def test_a_process_that_drains_is_not_started_again(event: Event) -> None:
    assert after(State.STOPPING, event) is State.STOPPING


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, (Event.RESTART, Event.LEAVE, Event.STOP))))
def test_a_request_may_come_in_every_state(state: State, event: Event) -> None:
    assert after(state, event) in State


def test_a_report_of_a_process_that_does_not_live_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        after(State.BACKOFF, Event.READY)
