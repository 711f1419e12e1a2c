"""The chat over plain HTTP, for clients that no WebSocket reaches."""

import asyncio
import functools
from typing import Any, NamedTuple, TypeVar

from aiohttp import hdrs, web

from moorline.backend.audit import Access, Audit
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import SNAPSHOT_BYTES, SNAPSHOT_ROWS
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Position, Snapshot
from moorline.backend.gate import Gate
from moorline.backend.history import newest_rows, next_events
from moorline.backend.protocol.codec import decode_object, encode, frame_limit, parse
from moorline.backend.protocol.http import ReadQuery
from moorline.backend.protocol.models import (
    Accepted,
    CancelBody,
    EraseBody,
    EventPage,
    MessageRow,
    PageEvent,
    Retried,
    RetryBody,
    SendBody,
)
from moorline.backend.protocol.v2 import event_model, row_model, snapshot_model
from moorline.backend.requests import checked_id, path_id, read_body
from moorline.backend.rights import Rights
from moorline.backend.runs import Runs
from moorline.backend.session import can_replay, check_owner
from moorline.backend.settings import Settings
from moorline.backend.waiting import Waiter
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.rights import Right

__all__ = ["Api", "answer", "parsed_body"]

#: Longest time for which a poll is held; proxies in between end requests that are idle for 60 s.
MAX_WAIT_SECONDS = 30.0
# The head of a session that does not exist. No real epoch is empty, so its first event changes the epoch.
_NOWHERE = Position("", 0)

# What is prepared before the middleware sees it.
_UNCACHED = {hdrs.CACHE_CONTROL: "no-store"}

T = TypeVar("T")


class Api:
    """The handlers of /api/chat."""

    def __init__(self, log: EventLog, runs: Runs, audit: Audit, rights: Rights, gate: Gate, settings: Settings) -> None:
        self._log = log
        self._runs = runs
        self._audit = audit
        self._rights = rights
        self._settings = settings
        self._gate = gate
        self._polls: set[Waiter] = set()
        self._closing = False

    def close(self) -> None:
        """Answer the held polls now, with no events if there are none."""
        self._closing = True
        for waiter in self._polls:
            waiter.wake()

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read(self, request: web.Request) -> web.Response:
        """GET /api/chat/{session_id}/messages"""
        with self._audit.access("read") as access:
            chat = await self._enter(request, access)
            query = parse(ReadQuery, dict(request.query))
            if query.after is not None:
                cursor = Position(query.epoch or "", query.after)
                polled = await self._poll(request, access, chat, cursor, wait=query.wait or 0.0)
                # A poll that comes back with nothing is no access; otherwise each client would leave three a minute.
                access.outcome = "ok" if polled.events else None
                return answer(polled)
            if not chat.exists:
                return answer([])
            async with self._gate.turn(client_address(request)):
                return await self._page(chat, query)

    async def _page(self, chat: "_Chat", query: ReadQuery) -> web.Response:
        count = min(query.limit or SNAPSHOT_ROWS, SNAPSHOT_ROWS)
        rows = await newest_rows(self._log, chat.session_id, before=query.before, count=count, size=SNAPSHOT_BYTES)
        # They are of several reads, and the request may have waited for its turn: the id of a session that was erased
        # may be another patient's by now.
        now = await self._log.find_session(chat.session_id)
        chat.right.check()
        if now is None or now.head.epoch != chat.epoch:
            return answer([])
        return answer([row_model(row) for row in rows], list[MessageRow])

    async def _poll(
        self,
        request: web.Request,
        access: Access,
        chat: "_Chat",
        cursor: Position,
        *,
        wait: float,
    ) -> EventPage:
        deadline = asyncio.get_running_loop().time() + min(wait, MAX_WAIT_SECONDS)
        watch = self._log.watch(chat.session_id)
        waiter = Waiter(watch)
        self._polls.add(waiter)
        try:
            while True:
                if chat.patient_id is None and not access.hidden and await self._log.find_session(chat.session_id):
                    # It has begun, perhaps before the watch did, and has a patient. Refused once, it is not asked about
                    # again.
                    self._rights.release(chat.right)
                    chat = await self._enter(request, access)
                chat.right.on_end(waiter.wake)
                async with self._gate.turn(client_address(request)):
                    page = await self._events_after(chat, cursor)
                chat.right.check()
                if page.events or self._closing or asyncio.get_running_loop().time() >= deadline:
                    return page
                await waiter.until(deadline)
        finally:
            self._polls.discard(waiter)
            waiter.close()
            watch.close()

    async def _head(self, chat: "_Chat") -> Position:
        if chat.patient_id is None:
            return _NOWHERE
        # Asked each time: the first message may have been another patient's.
        return (await self._log.session_for(chat.session_id, chat.patient_id)).head

    async def _events_after(self, chat: "_Chat", cursor: Position) -> EventPage:
        events, _ = await next_events(self._log, chat.session_id, cursor)
        head = await self._head(chat)
        if can_replay(head, cursor):
            # `head` is where the client goes on from: not the log's, where there is more than fits in one answer.
            last = events[-1].seq if events else cursor.seq
            found: list[PageEvent] = [event_model(event) for event in events]
            return EventPage(epoch=head.epoch, head=last, recovered=True, events=found)
        snapshot = await self._log.snapshot(chat.session_id, epoch=head.epoch)
        if snapshot is None:  # it has not begun, or was erased between the two reads
            begun = head if head.seq == 0 else await self._head(chat)
            snapshot = Snapshot(Position(begun.epoch, 0), (), earlier=False)
        position = snapshot.position
        shown = snapshot_model(snapshot, self._log.identity)
        return EventPage(epoch=position.epoch, head=position.seq, recovered=False, events=[shown])

    # Writing ----------------------------------------------------------------------------------------------------------

    async def send(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/messages"""
        body = await parsed_body(request, SendBody, self._settings)
        with self._audit.access("send") as access:
            chat = await self._enter(request, access, body.patient_id)
            started = await self._runs.send(
                chat.session_id,
                body.patient_id,
                client=self._rights.client(request, chat.right.principal),
                by=chat.right.principal,
                client_msg_id=body.client_msg_id,
                content=body.message,
                epoch=body.epoch or None,
            )
            access.outcome = "duplicate" if started.duplicate else "ok"
        return answer(Accepted(seq=started.seq, run_id=started.run_id, duplicate=started.duplicate), status=202)

    async def retry(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/retry"""
        body = await parsed_body(request, RetryBody, self._settings)
        with self._audit.access("retry") as access:
            chat = await self._enter(request, access, body.patient_id)
            _must_exist(chat)
            started = await self._runs.retry(
                chat.session_id,
                client=self._rights.client(request, chat.right.principal),
                by=chat.right.principal,
                run_id=body.run_id,
                client_msg_id=body.client_msg_id,
            )
            access.outcome = "duplicate" if started.duplicate else "ok"
        return answer(Retried(run_id=started.run_id, duplicate=started.duplicate), status=202)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/cancel"""
        body = await parsed_body(request, CancelBody, self._settings)
        with self._audit.access("cancel") as access:
            chat = await self._enter(request, access, body.patient_id)
            _must_exist(chat)
            await self._runs.cancel(chat.session_id, body.run_id)
        return answer({}, status=202)

    async def erase(self, request: web.Request) -> web.Response:
        """DELETE /api/chat/{session_id}; 204 as well where there is no such session."""
        body = await parsed_body(request, EraseBody, self._settings, may_be_empty=True)
        with self._audit.access("erase") as access:
            chat = await self._enter(request, access, body.patient_id)
            if chat.epoch is not None:
                await self._runs.erase(chat.session_id, chat.epoch)
        return web.Response(status=204, headers=_UNCACHED)

    async def _enter(self, request: web.Request, access: Access, in_body: str | None = None) -> "_Chat":
        """The chat that the request is about, once the hook has allowed it. Its right is held until the response is
        taken, and counts until then among what its principal has open.

        Every patient_id that is given, in the query or in the body, must be the session's. Where none is given the hook
        is asked about the session's own patient. A session that it refuses then is answered for exactly as one that
        does not exist, so that a request without patient_id never tells which sessions there are.
        """
        session_id = access.session_id = path_id(request, "session_id")
        given = {checked_id("patient_id", name) for name in request.query.getall("patient_id", [])}
        if in_body is not None:
            given.add(in_body)
        if len(given) > 1:
            raise Refusal(ErrorCode.FORBIDDEN)
        if given:
            return await self._enter_as(request, access, given.pop())
        info = await self._log.find_session(session_id)
        if info is not None:
            try:
                right = await self._right(request, access, info.patient_id)
                return _Chat(session_id, info.patient_id, right, info.head.epoch)
            except web.HTTPException:
                access.hidden = True
        right = await self._right(request, access, None)
        return _Chat(session_id, None, right)

    async def _enter_as(self, request: web.Request, access: Access, patient_id: str) -> "_Chat":
        session_id = path_id(request, "session_id")
        # Before the log is read: a principal without a right to this patient learns nothing about the session.
        right = await self._right(request, access, patient_id)
        info = await self._log.find_session(session_id)
        if info is not None:
            check_owner(info.patient_id, patient_id)
        right.check()
        return _Chat(session_id, patient_id, right, None if info is None else info.head.epoch)

    async def _right(self, request: web.Request, access: Access, patient_id: str | None) -> Right:
        ask = functools.partial(self._rights.ask, request, patient_id, path_id(request, "session_id"))
        return await self._rights.enter_request(request, access, ask)


class _Chat(NamedTuple):
    """What a request is about. Without a patient nothing may be read or written: there is no such session, or it is
    answered for as if there were none."""

    session_id: str
    patient_id: str | None
    right: Right
    epoch: str | None = None
    """None: there is no such session."""

    @property
    def exists(self) -> bool:
        return self.epoch is not None


async def parsed_body(request: web.Request, model: type[T], settings: Settings, *, may_be_empty: bool = False) -> T:
    """The body as a `model`; Refusal `bad_request` or `too_large` where it is none."""
    text = await _text(request, most=frame_limit(settings.max_bytes))
    members = {} if may_be_empty and not text else decode_object(text)
    return parse(model, members, max_bytes=settings.max_bytes)


def answer(body: object, model: Any = None, *, status: int = 200) -> web.Response:
    """A JSON response that no cache keeps; `model` as in `encode`."""
    return web.Response(
        status=status, body=encode(body, model), content_type="application/json", charset="utf-8", headers=_UNCACHED
    )


def _must_exist(chat: _Chat) -> None:
    if not chat.exists:
        raise Refusal(ErrorCode.NOT_FOUND)


async def _text(request: web.Request, *, most: int) -> str:
    # What is compressed is not decompressed: a small body could become gigabytes.
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="The body must be sent as it is, without Content-Encoding.")
    try:
        return (await read_body(request, most=most)).decode()
    except UnicodeDecodeError:
        raise Refusal(ErrorCode.BAD_REQUEST, "The body is not UTF-8.") from None
