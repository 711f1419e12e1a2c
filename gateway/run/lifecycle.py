"""The states of a supervised process, and what takes it from one to the next. Pure."""

import enum

__all__ = ["Event", "State", "after"]


class State(enum.Enum):
    """Where a process is in its life."""

    STARTING = "started, not ready yet"
    UP = "ready"
    RESTARTING = "told to end at once; the next one starts when it has"
    BACKOFF = "ended; the next one starts after a delay"
    WAITING_FOR_CHANGE = "ended at its start; the next one starts when a source has changed"
    LEAVING = "its successor has its place; it ends by itself, and no other one starts"
    STOPPING = "told to drain; no other one starts"
    STOPPED = "ended; no other one starts"


class Event(enum.Enum):
    """What happens to a process, or is asked of it."""

    READY = "it reports that it is ready, or what has changed since"
    ENDED = "it has ended"
    BROKEN = "it has ended at its start, and only a changed source can help"
    REFUSED = "it has ended because of its options, before it was ever ready"
    DELAY_OVER = "the delay before the next start is over"
    RESTART = "a restart is asked for"
    LEAVE = "another process has its place"
    STOP = "a stop is asked for"


_NEXT: dict[State, dict[Event, State]] = {
    State.STARTING: {
        Event.READY: State.UP,
        Event.ENDED: State.BACKOFF,
        Event.BROKEN: State.WAITING_FOR_CHANGE,
        Event.REFUSED: State.STOPPED,
        Event.RESTART: State.RESTARTING,
        Event.LEAVE: State.STOPPING,
        Event.STOP: State.STOPPING,
    },
    State.UP: {
        Event.READY: State.UP,
        Event.ENDED: State.BACKOFF,
        Event.RESTART: State.RESTARTING,
        Event.LEAVE: State.LEAVING,
        Event.STOP: State.STOPPING,
    },
    # Its report may be on the way; whatever its end looks like, it was asked for.
    State.RESTARTING: {
        Event.READY: State.RESTARTING,
        Event.ENDED: State.STARTING,
        Event.BROKEN: State.STARTING,
        Event.REFUSED: State.STARTING,
        Event.RESTART: State.RESTARTING,
        Event.LEAVE: State.STOPPING,
        Event.STOP: State.STOPPING,
    },
    State.BACKOFF: {
        Event.DELAY_OVER: State.STARTING,
        Event.RESTART: State.STARTING,
        Event.LEAVE: State.STOPPED,
        Event.STOP: State.STOPPED,
    },
    State.WAITING_FOR_CHANGE: {
        Event.RESTART: State.STARTING,
        Event.LEAVE: State.STOPPED,
        Event.STOP: State.STOPPED,
    },
    State.LEAVING: {
        Event.READY: State.LEAVING,
        Event.ENDED: State.STOPPED,
        Event.BROKEN: State.STOPPED,
        Event.REFUSED: State.STOPPED,
        Event.RESTART: State.LEAVING,
        Event.LEAVE: State.LEAVING,
        Event.STOP: State.STOPPING,
    },
    State.STOPPING: {
        Event.READY: State.STOPPING,
        Event.ENDED: State.STOPPED,
        Event.BROKEN: State.STOPPED,
        Event.REFUSED: State.STOPPED,
        Event.RESTART: State.STOPPING,
        Event.LEAVE: State.STOPPING,
        Event.STOP: State.STOPPING,
    },
    State.STOPPED: {
        Event.RESTART: State.STOPPED,
        Event.LEAVE: State.STOPPED,
        Event.STOP: State.STOPPED,
    },
}


def after(state: State, event: Event) -> State:
    """The next state. KeyError where the event cannot happen in this one."""
    return _NEXT[state][event]
