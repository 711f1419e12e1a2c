"""The model's server of a measurement, a process of its own: Chat Completions, with the time in each token.

A token is the reading of the system's monotonic clock when it was written, so any process that receives it knows
how long it was on its way. All answers go on until `finish` is asked for.
"""

import asyncio
import time
from typing import cast

from moorline.gateway.common.loop import run
from tests.bench.processes import commands, raise_file_limit

__all__ = ["TOKENS_PER_SECOND"]

TOKENS_PER_SECOND = 20
# The answers are spread over so many moments between two tokens: no provider has a common beat.
_PHASES = 25
_BACKLOG = 1024

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    '{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}'
)


def _chunk(text: str) -> bytes:
    event = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


_END = _chunk(_EVENT % ("", '"stop"')) + _chunk("[DONE]") + b"0\r\n\r\n"


class Answers:
    """Those under way, by phase."""

    def __init__(self) -> None:
        self._phases: list[set[asyncio.Transport]] = [set() for _ in range(_PHASES)]
        self._begun = 0
        self.written = 0

    def begin(self, transport: asyncio.Transport) -> None:
        transport.write(_HEAD)
        self._phases[self._begun % _PHASES].add(transport)
        self._begun += 1

    def forget(self, transport: asyncio.Transport) -> None:
        for phase in self._phases:
            phase.discard(transport)

    async def write(self) -> None:
        """Tokens, for ever."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            for phase in self._phases:
                due += 1 / TOKENS_PER_SECOND / _PHASES
                await asyncio.sleep(max(0.0, due - clock()))
                token = _chunk(_EVENT % (f'"content":"{time.monotonic():.6f} "', "null"))
                for transport in phase:
                    transport.write(token)
                self.written += len(phase)

    # Commands ---------------------------------------------------------------------------------------------------------

    async def count(self) -> int:
        """How many are under way."""
        return sum(map(len, self._phases))

    async def finish(self) -> int:
        """End all of them; how many tokens there were."""
        for phase in self._phases:
            for transport in phase:
                transport.write(_END)
            phase.clear()
        written, self.written = self.written, 0
        return written


class Provider(asyncio.Protocol):
    """One connection: a request whose body ends begins an answer."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._request = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, end, body = self._request.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        if end and lengths and len(body) >= lengths[0]:
            self._request = body[lengths[0] :]
            self._answers.begin(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answers.forget(self._transport)


async def main() -> None:
    raise_file_limit(1 << 16)
    answers = Answers()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Provider(answers), "127.0.0.1", 0, backlog=_BACKLOG)
    writing = asyncio.create_task(answers.write())
    await commands(server.sockets[0].getsockname()[1], {"count": answers.count, "finish": answers.finish})
    writing.cancel()
    server.close()


if __name__ == "__main__":
    run(main())
