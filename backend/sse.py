"""Server-sent events: the data of each one, from bytes in whatever pieces. Pure.

The `openai` package has a decoder of its own, which takes as long for one event as all the rest of a token's way here.
See https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

__all__ = ["EventData"]


class EventData:
    """Feed it what arrives; it gives what has become whole. An event that the end of the stream cuts off is none."""

    def __init__(self) -> None:
        # Of the line that is not whole: a long one that comes in many pieces is put together once.
        self._begun: list[bytes] = []
        self._after_cr = False
        self._data: list[bytes] = []

    def receive_data(self, received: bytes) -> list[bytes]:
        """The data of the events that `received` completes, without those that have none: names, ids and comments."""
        if self._after_cr and received[:1] == b"\n":
            received = received[1:]
        if not received:
            return []
        self._after_cr = received[-1:] == b"\r"
        lines = received.splitlines()
        begun = [] if received[-1:] in (b"\n", b"\r") else [lines.pop()]
        if not lines:
            self._begun += begun
            return []
        if self._begun:
            lines[0] = b"".join((*self._begun, lines[0]))
        self._begun = begun
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events
