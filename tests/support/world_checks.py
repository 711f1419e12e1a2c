"""What must hold in a `World`, whatever has happened in it."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from moorline.backend.events import Event, Finish, MessageEnded, RunStarted, UserMessage
from moorline.backend.parts import Part, encode_part, kept
from tests.support.backends import STEP
from tests.support.view import View, fold
from tests.support.world import SESSIONS, World

__all__ = ["check_runs", "check_tabs"]


async def check_tabs(world: World) -> None:
    """Each tab that is connected shows the fold of the log."""
    await world.settle()
    for tab in world.tabs:
        if not tab.connected:
            continue
        async with asyncio.timeout(STEP):
            # An answer may grow between the two reads.
            while (view := _folded(await world.events(tab.session))).seq != tab.seen.seq:
                await world.settle()
        expected = [(row.message_id, row.content, row.finish, _shown(row.parts), "") for row in view.rows]
        if (run := view.run) is not None and (run.text or run.parts or run.status):
            expected.append((run.message_id, run.text, None, _shown(run.parts), run.status))
        seen = tab.seen.rows.values()
        shown = [(row.message_id, row.content, row.finish, row.parts, row.status) for row in seen]
        assert [row for row in shown if any(row[1:])] == expected
        assert tab.seen.run_id == (view.run and view.run.run_id)


def _shown(parts: Iterable[Part]) -> list[Any]:
    return [json.loads(encode_part(part)) for part in parts]


def _folded(events: list[Event]) -> View:
    view = View()
    for event in events:
        view = fold(view, event)
    return view


async def check_runs(world: World) -> None:
    """What was acknowledged is there, once; each command has one run and each run one end."""
    started = 0
    for session in SESSIONS:
        events = await world.events(session)
        users = [event for event in events if isinstance(event, UserMessage)]
        runs = Counter(event.run_id for event in events if isinstance(event, RunStarted))
        ends = Counter(event.run_id for event in events if isinstance(event, MessageEnded))
        assert set(runs.values()) <= {1}
        assert runs == ends
        for event in events:
            if isinstance(event, MessageEnded):
                _check_answer(world, event)
        mine = {name: text for name, (where, text) in world.sent.items() if where == session}
        assert max(Counter(user.client_msg_id for user in users).values(), default=0) <= 1
        for user in users:
            assert (mine | world.forgotten)[user.client_msg_id] == user.content
            assert world.acks.get(user.client_msg_id, user.run_id) == user.run_id
        retries = {name for name, where in world.retried.items() if where == session}
        acknowledged = {world.acks[name] for name in mine | dict.fromkeys(retries, "") if name in world.acks}
        assert acknowledged <= set(runs)
        assert len(runs) == len(users) + len(retries)
        started += len(runs)
    if len(world.processes) == 1:
        # Where there are several, one that survives may answer in the place of one that was killed.
        assert len(world.calls) <= started + world.erased_runs


def _check_answer(world: World, end: MessageEnded) -> None:
    """What the model said is there, with its parts: all of it, or, where the process was killed, its beginning."""
    if not end.content:
        assert end.finish not in (Finish.STOP, Finish.LENGTH)
        return
    call = world.calls[int(end.content[1 : end.content.index("]")])]
    said = "".join(call.said)
    said = said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert end.content == (said[: len(end.content)] if end.finish is Finish.INTERRUPTED else said)
    parts = kept(call.parts)
    assert end.parts == (parts[: len(end.parts)] if end.finish is Finish.INTERRUPTED else parts)
