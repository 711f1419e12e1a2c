"""Server-sent events: the data of each one, from bytes in whatever pieces. Pure.

The decoder of the `openai` package takes as long for one event as everything else that a token costs here.
See https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

__all__ = ["MAX_EVENT", "EventData"]

#: Bytes of an event with its lines. A piece of text comes in some 300, a whole answer of 128k tokens in half of this.
MAX_EVENT = 1 << 20


class EventData:
    """Feed it what arrives; it gives what has become whole. An event that the end of the stream cuts off is none."""

    def __init__(self) -> None:
        # Of the line that is not whole. Not a list of pieces: each of a single byte would take forty.
        self._begun = bytearray()
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self.overflowed = False
        """An event has more than MAX_EVENT bytes. The caller ends the stream: nothing behind it is understood."""

    def receive_data(self, received: bytes) -> list[bytes]:
        """The data of the events that `received` completes, without those that have none: names, ids and comments."""
        # A server that flushes each event: no line is searched for, which takes longer than all else that is done here.
        if received[:6] == b"data: " and received.find(b"\n") == len(received) - 2 and self._at_start(received):
            return [received[6:-2]]
        if self._after_cr and received[:1] == b"\n":
            received = received[1:]
        if not received:
            return []
        self._after_cr = received[-1:] == b"\r"
        lines = received.splitlines()
        begun = b"" if received[-1:] in (b"\n", b"\r") else lines.pop()
        if lines:
            if self._begun:
                lines[0] = bytes(self._begun + lines[0])
                self._begun.clear()
            events = self._events(lines)
        else:
            events = []
        self._begun += begun
        self.overflowed = self.overflowed or len(self._begun) + self._size > MAX_EVENT
        return events

    def _at_start(self, received: bytes) -> bool:
        """Whether `received`, which has its first line feed before its last byte, is an event and nothing else."""
        return (
            received[-1:] == b"\n"
            and len(received) <= MAX_EVENT
            and not (self._begun or self._data or self._after_cr or self.overflowed)
            and b"\r" not in received
        )

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                # With its name and end: lines without any data take memory, too.
                self._size += len(line) + 1
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                if self._size > MAX_EVENT:
                    self.overflowed = True
                    break
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        return events
