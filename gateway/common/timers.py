"""When long timers fire: coalesced, so that one wait for events serves the heartbeats of many sockets. Pure."""

import math

__all__ = ["coalesced"]

# With 10,000 sockets and heartbeats of 20 s, 125 are due in each. A timer that fires alone costs several times its own
# work: the process is woken for it, and both peers for what it sends.
_TICK = 0.25
# A shorter time is kept as exactly as it was set. What was set for ten seconds has a little less left by now.
_LONG = 9.95


def coalesced(due: float, now: float) -> float:
    """`due`, or up to a quarter of a second later where it is about ten seconds away or more."""
    return due if due - now < _LONG else math.ceil(due / _TICK) * _TICK
