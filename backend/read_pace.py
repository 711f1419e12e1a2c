"""How often the answers under way are read, all of them together. Pure.

A read costs several times what a piece of text in it does: the event loop, the parser, the task of the run, a row of
the log and a frame follow each. Where a few answers come each piece is read at once. Where there are hundreds, each
answer waits for its turn, and what its provider sends meanwhile gathers in the kernel: the event loop is not full, so
that text waits for this turn and for nothing else.
"""

__all__ = ["LONGEST_WAIT", "READS_PER_SECOND", "ReadPace"]

#: A third of a core, on the machine of gateway/docs/performance.md. 500 answers have a turn every 150 ms.
READS_PER_SECOND = 3333
#: Seconds from one read of an answer to the next. Text that is later is seen to stutter.
LONGEST_WAIT = 0.2


class ReadPace:
    """Gives the reads of all answers their times, evenly spaced and in the order in which they are asked for."""

    __slots__ = ("_last", "_longest", "_spacing")

    def __init__(self, *, per_second: float = READS_PER_SECOND, longest: float = LONGEST_WAIT) -> None:
        self._spacing = 1 / per_second
        self._longest = longest
        self._last = 0.0

    def next_read(self, now: float) -> float:
        """When an answer that has been read at `now` may be read again."""
        self._last = min(max(self._last + self._spacing, now), now + self._longest)
        return self._last
