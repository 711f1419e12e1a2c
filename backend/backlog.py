"""What was read of an answer and is not in the log yet: text and parts, in their order. Pure."""

import re
from collections import deque

from moorline.backend.parts import Part, encode_part, storable

__all__ = ["MAX_PARTS", "Backlog", "Room"]

#: Parts of one answer. Each is an event, which a client keeps for as long as it shows the answer.
MAX_PARTS = 256

_TRAILING_HIGH_SURROGATE = re.compile("[\ud800-\udbff]\\Z")


class Room:
    """How much more an answer may hold: bytes of UTF-8, of its text and parts together, and parts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts = MAX_PARTS
        self.limit = "max_answer"
        """What did not fit exceeds this."""

    def fitting(self, text: str) -> str:
        """As much of `text` as there is room for; it is taken."""
        if text.isascii() and len(text) <= self._size:
            self._size -= len(text)
            return text
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= self._size:
            self._size -= len(data)
            return text
        # Before the character that does not fit as a whole: its continuation bytes are 10xxxxxx.
        end, self._size = self._size, 0
        while data[end] & 0xC0 == 0x80:
            end -= 1
        return data[:end].decode("utf-8", "surrogatepass")

    def fits(self, part: str) -> bool:
        """Whether there is room for the JSON of a part; if so, it is taken."""
        if self._parts == 0:
            self.limit = f"{MAX_PARTS} parts"
            return False
        size = len(part.encode())
        if size > self._size:
            return False
        self._parts -= 1
        self._size -= size
        return True


class Backlog:
    """`take` a piece, write it, and say so with `written` or `put_back`."""

    def __init__(self) -> None:
        self._waiting: deque[str | Part] = deque()
        #: Of all that waits, in characters, with what was taken and is not written.
        self.size = 0

    def put(self, piece: str | Part) -> None:
        """Add a piece. Half a surrogate pair goes behind a part, to its other half."""
        half = "" if isinstance(piece, str) else self._half()
        self._waiting.append(piece)
        if half:
            self._waiting.append(half)
        self.size += _size(piece)

    def take(self, *, last: bool = False) -> str | Part | None:
        """The next part, or all text before it; None where there is neither. `last`: nothing more comes.

        Some servers split the escape of an emoji: half a surrogate pair waits for the other.
        """
        if self._waiting and not isinstance(self._waiting[0], str):
            return self._waiting.popleft()
        texts: list[str] = []
        while self._waiting and isinstance(piece := self._waiting[0], str):
            texts.append(piece)
            self._waiting.popleft()
        text = "".join(texts)
        if text.isascii():
            return storable(text) or None
        if not last and not self._waiting and (held := _TRAILING_HIGH_SURROGATE.search(text)):
            self._waiting.append(held[0])
            text = text[: held.start()]
        return storable(text) or None

    def _half(self) -> str:
        """The first half of a surrogate pair with which the text ends that waits; it is taken from there."""
        last = self._waiting[-1] if self._waiting else ""
        if not isinstance(last, str) or _TRAILING_HIGH_SURROGATE.search(last) is None:
            return ""
        self._waiting.pop()
        if last[:-1]:
            self._waiting.append(last[:-1])
        return last[-1]

    def put_back(self, piece: str | Part) -> None:
        """The log did not take the piece: it comes before what has arrived since."""
        self._waiting.appendleft(piece)

    def written(self) -> None:
        """The log has taken the piece."""
        self.size = sum(map(_size, self._waiting)) if self._waiting else 0

    @property
    def has_part(self) -> bool:
        """Whether a part waits."""
        return bool(self._waiting) and any(not isinstance(piece, str) for piece in self._waiting)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self.size = 0


def _size(piece: str | Part) -> int:
    return len(piece if isinstance(piece, str) else encode_part(piece))
