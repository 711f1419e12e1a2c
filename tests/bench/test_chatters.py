"""The clients of a measurement."""

import asyncio

import pytest

from tests.bench.chatters import Chatters


@pytest.mark.parametrize("again", [False, True])
async def test_a_client_that_is_turned_away_dials_again_where_it_is_to(*, again: bool) -> None:
    refused: list[bool] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if refused:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            await reader.read(1)  # its Close frame
        else:
            refused.append(True)
            writer.write(b"HTTP/1.1 503 Busy\r\n\r\nno room")
        writer.close()

    clients = Chatters()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        opening = clients.open(server.sockets[0].getsockname()[1], ["s"], hello=False, again=again)
        if again:
            await opening
        else:
            with pytest.raises(RuntimeError, match=r"(?s)503 Busy.*no room"):
                await opening
        assert await clients.close() == again
