"""`rate_limit`: how many messages a session takes in a minute.

They are counted in the log itself: it is exact over restarts and however many backends share it, needs no memory, and
costs one read per message, only where the option is set.
"""

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.log import EventLog

__all__ = ["rate_limit_refusal"]

_WINDOW_SECONDS = 60.0


async def rate_limit_refusal(log: EventLog, session_id: str, *, per_minute: int, now: float) -> Refusal | None:
    """The refusal of one more message or retry, where the last minute holds `per_minute`."""
    # Each run has at most two rows: what was asked, and the answer.
    rows = await log.rows(session_id, before=None, limit=2 * per_minute)
    asked = {row.run_id for row in rows if row.role == "user"}
    # A retry has no row for its question; its answer stands for it.
    times = [row.at for row in rows if row.role == "user" or row.run_id not in asked]
    recent = [at for at in times if at > now - _WINDOW_SECONDS]
    if len(recent) < per_minute:
        return None
    return Refusal(ErrorCode.RATE_LIMITED, retry_after=max(0.0, recent[-per_minute] + _WINDOW_SECONDS - now))
