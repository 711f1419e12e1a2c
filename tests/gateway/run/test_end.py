"""How `moorline gateway` ends, as a real process."""

import asyncio
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.faulty_upstream import HANDSHAKE, dial
from tests.support.gateway_process import echoing
from tests.support.websocket_frames import close_frame

GOODBYE = close_frame(1001, "gateway restarting")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_sockets_do_not_delay_the_end(number: int, tmp_path: Path) -> None:
    async with (
        echoing(tmp_path, "--drain", "5m") as (program, address),
        connect(address, proxy=None) as one,
        connect(address, proxy=None) as other,
    ):
        program.send(number)
        for socket in (one, other):
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (1001, "gateway restarting")
        async with asyncio.timeout(10):
            assert await program.ended() == 0
    assert f"gateway: {signal.Signals(number).name}: draining for at most 5m" in program.err
    assert "gateway: ended after" in program.err


async def test_under_nohup_sighup_is_ignored(tmp_path: Path) -> None:
    async with echoing(tmp_path, under=["nohup"]) as (program, address), connect(address, proxy=None) as socket:
        program.send(signal.SIGHUP)
        await socket.send("x")
        assert await socket.recv() == "x"
        assert await program.stop(signal.SIGTERM) == 0
    assert "SIGHUP" not in program.err
    assert "configuration" not in program.err


async def test_sigint_drains_where_a_shell_ignores_it_for_what_runs_in_the_background(tmp_path: Path) -> None:
    ignoring = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash"]
    async with echoing(tmp_path, under=ignoring) as (program, address), connect(address, proxy=None) as socket:
        program.send(signal.SIGINT)
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (1001, "gateway restarting")
        assert await program.ended() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once_unless_it_asks_for_a_reload(tmp_path: Path, first: signal.Signals) -> None:
    async with echoing(tmp_path, "--drain", "5m", "--close-timeout", "5m") as (program, address):
        port = int(address.split(":")[2].partition("/")[0])
        async with dial(port) as client:
            await client.send(HANDSHAKE)
            await client.head()
            program.send(first)
            # It is told, and neither answers nor goes.
            assert await client.exactly(len(GOODBYE)) == GOODBYE
            for number in (signal.SIGHUP, signal.SIGUSR2):
                program.send(number)
                await program.line(f"{number.name} during the drain: nothing is reloaded any more")
            assert await program.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "SIGTERM during the drain: ending at once" in program.err
