"""The chat over plain HTTP: what a client does where no WebSocket gets through."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import hdrs, web
from moorline.backend.access import authorize, checked_id, path_id
from moorline.backend.audit import Access, Audit
from moorline.backend.delivery import BATCH, REPLAY_LIMIT
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import SNAPSHOT_BYTES, SNAPSHOT_ROWS, SessionInfo
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import MAX_SEQ, Position, Row, Snapshot
from moorline.backend.protocol.commands import decode_object, valid_text
from moorline.backend.protocol.wire import Json, encode, event_object, row_object, snapshot_object
from moorline.backend.runs import Runs
from moorline.backend.session import newest
from moorline.backend.settings import Settings
from moorline.backend.waiting import Waiter

__all__ = ["Api", "answer"]

#: Longest time for which a poll is held; proxies on the way cut what says nothing for 60 s.
MAX_WAIT_SECONDS = 30.0
# Of a session that nobody has opened yet. No real epoch is empty, so that its first event is a change of epoch.
_NOWHERE = Position("", 0)
#: The time for a whole body: one that dribbles would hold its connection for ever.
BODY_SECONDS = 30.0
# Rows fetched at once for a page, which may be full of bytes long before it is full of rows.
_ROWS_AT_ONCE = 32
# int() and float() would take 1_0, +5, nan and the digits of other scripts as well.
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Api:
    """The handlers of /api/chat."""

    def __init__(self, log: EventLog, runs: Runs, audit: Audit, settings: Settings) -> None:
        self._log = log
        self._runs = runs
        self._audit = audit
        self._settings = settings
        self._polls: set[Waiter] = set()
        self._closing = False

    def close(self) -> None:
        """Answer the polls under way, with nothing if there is nothing."""
        self._closing = True
        for waiter in self._polls:
            waiter.wake()

    # Reading --------------------------------------------------------------------------------------------------------

    async def read(self, request: web.Request) -> web.Response:
        """GET /api/chat/{session_id}/messages"""
        with self._audit.access("read") as access:
            session_id, _ = await self._enter(request, access)
            if "after" in request.query:
                body = await self._poll(request, session_id)
                # A poll that comes back with nothing is no access; otherwise each client would leave three a minute.
                access.outcome = "ok" if body["events"] else None
                return answer(body)
            before = _whole(request, "before") if "before" in request.query else None
            limit = _whole(request, "limit") if "limit" in request.query else SNAPSHOT_ROWS
            if limit < 1:
                raise Refusal(ErrorCode.BAD_REQUEST, "limit: is not a positive number.")
            rows = await self._page(session_id, before, min(limit, SNAPSHOT_ROWS))
            return answer([row_object(row) for row in rows])

    async def _page(self, session_id: str, before: int | None, limit: int) -> Sequence[Row]:
        """The last `limit` rows before `before`, bounded in bytes as a snapshot is."""
        found: list[Row] = []
        size = 0
        while len(found) < limit and size <= SNAPSHOT_BYTES:
            most = min(_ROWS_AT_ONCE, limit - len(found))
            rows = await self._log.rows(session_id, before=before, limit=most)
            found += reversed(rows)
            size += sum(len(row.content.encode()) for row in rows)
            if len(rows) < most:
                break
            before = rows[0].seq
        return newest(found, count=limit, size=SNAPSHOT_BYTES)[0]

    async def _poll(self, request: web.Request, session_id: str) -> Json:
        patient_id = request.query.get("patient_id")
        wait = _seconds(request, "wait") if "wait" in request.query else 0.0
        deadline = asyncio.get_running_loop().time() + min(wait, MAX_WAIT_SECONDS)
        cursor = Position(request.query.get("epoch", ""), _cursor_seq(request.query["after"]))
        watch = self._log.watch(session_id)
        waiter = Waiter(watch)
        self._polls.add(waiter)
        try:
            while True:
                body = await self._events_after(session_id, cursor, patient_id)
                if body["events"] or self._closing or asyncio.get_running_loop().time() >= deadline:
                    return body
                await waiter.until(deadline)
        finally:
            self._polls.discard(waiter)
            watch.close()

    async def _head(self, session_id: str, patient_id: str | None) -> Position:
        if patient_id is not None:
            # Asked each time: the first message may have been another patient's.
            return (await self._log.session_for(session_id, patient_id)).head
        info = await self._log.find_session(session_id)
        return info.head if info else _NOWHERE

    async def _events_after(self, session_id: str, cursor: Position, patient_id: str | None) -> Json:
        events = await self._log.read_after(session_id, max(cursor.seq, 0), limit=BATCH, epoch=cursor.epoch)
        head = await self._head(session_id, patient_id)
        if head.epoch == cursor.epoch and 0 <= cursor.seq <= head.seq <= cursor.seq + REPLAY_LIMIT:
            # `head` is where the client goes on from: not the log's, where there is more than fits in one answer.
            last = events[-1].seq if events else cursor.seq
            return _events(Position(head.epoch, last), [event_object(event) for event in events])
        snapshot = await self._log.snapshot(session_id, epoch=head.epoch)
        if snapshot is None:  # it has not begun, or was erased between the two reads
            snapshot = Snapshot(head if head.seq == 0 else _NOWHERE, (), earlier=False)
        return _events(snapshot.position, [snapshot_object(snapshot)], recovered=False)

    # Writing --------------------------------------------------------------------------------------------------------

    async def send(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/messages"""
        body = decode_object(await _text(request))
        with self._audit.access("send") as access:
            patient_id = checked_id("patient_id", body.get("patient_id"))
            session_id, _ = await self._enter(request, access, patient_id)
            client_msg_id = checked_id("client_msg_id", body.get("client_msg_id"))
            message = body.get("message")
            if not isinstance(message, str):
                raise Refusal(ErrorCode.BAD_REQUEST, "message: must be of type string.")
            started = await self._runs.send(
                session_id,
                patient_id,
                client_msg_id=client_msg_id,
                content=valid_text(message, max_bytes=self._settings.max_bytes),
            )
            access.outcome = "duplicate" if started.duplicate else "ok"
        return answer({"seq": started.seq, "run_id": started.run_id, "duplicate": started.duplicate}, status=202)

    async def retry(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/retry"""
        body = decode_object(await _text(request))
        with self._audit.access("retry") as access:
            session_id, info = await self._enter(request, access, body.get("patient_id"))
            run_id = checked_id("run_id", body.get("run_id"))
            client_msg_id = checked_id("client_msg_id", body.get("client_msg_id"))
            _must_exist(info)
            started = await self._runs.retry(session_id, run_id=run_id, client_msg_id=client_msg_id)
            access.outcome = "duplicate" if started.duplicate else "ok"
        return answer({"run_id": started.run_id, "duplicate": started.duplicate}, status=202)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /api/chat/{session_id}/cancel"""
        body = decode_object(await _text(request))
        with self._audit.access("cancel") as access:
            session_id, info = await self._enter(request, access, body.get("patient_id"))
            run_id = checked_id("run_id", body.get("run_id"))
            _must_exist(info)
            await self._runs.cancel(session_id, run_id)
        return answer({}, status=202)

    async def erase(self, request: web.Request) -> web.Response:
        """DELETE /api/chat/{session_id}; a session that is gone already is as erased as it was to be."""
        with self._audit.access("erase") as access:
            body = decode_object(text) if (text := await _text(request)) else {}
            session_id, _ = await self._enter(request, access, body.get("patient_id"))
            await self._log.delete_session(session_id)
            self._runs.forget(session_id)
        return web.Response(status=204)

    async def _enter(
        self, request: web.Request, access: Access, in_body: object = None
    ) -> tuple[str, SessionInfo | None]:
        """The session's id and what is known of it, once whoever asks may see it.

        Every patient_id that is given, in the query or in the body, must be the session's.
        """
        session_id = access.session_id = path_id(request, "session_id")
        given = {checked_id("patient_id", name) for name in request.query.getall("patient_id", [])}
        if in_body is not None:
            given.add(checked_id("patient_id", in_body))
        if len(given) > 1:
            raise Refusal(ErrorCode.FORBIDDEN)
        access.who = (await authorize(request, next(iter(given), None), session_id)).name
        info = await self._log.find_session(session_id)
        if info is not None and given - {info.patient_id}:
            raise Refusal(ErrorCode.FORBIDDEN)
        return session_id, info


def answer(body: object, *, status: int = 200) -> web.Response:
    """A JSON answer that no cache keeps."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(status=status, text=encode(body), content_type="application/json", headers=headers)


def _events(head: Position, events: Sequence[Json], *, recovered: bool = True) -> dict[str, Any]:
    return {"epoch": head.epoch, "head": head.seq, "recovered": recovered, "events": events}


def _must_exist(info: SessionInfo | None) -> None:
    if info is None:
        raise Refusal(ErrorCode.NOT_FOUND)


async def _text(request: web.Request) -> str:
    # What is compressed is not decompressed: a small body could become gigabytes.
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="The body must be sent as it is, without Content-Encoding.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return (await request.read()).decode()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The body took too long.") from None
    except UnicodeDecodeError:
        raise Refusal(ErrorCode.BAD_REQUEST, "The body is not UTF-8.") from None


def _whole(request: web.Request, name: str) -> int:
    text = request.query[name]
    if not _WHOLE.fullmatch(text) or int(text) > MAX_SEQ:
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not a whole number.")
    return int(text)


def _seconds(request: web.Request, name: str) -> float:
    text = request.query[name]
    if not _DECIMAL.fullmatch(text):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not a number of seconds.")
    return float(text)


def _cursor_seq(text: str) -> int:
    """The seq of a cursor; a malformed one is nowhere, and nowhere gets a snapshot."""
    return int(text) if _WHOLE.fullmatch(text) and int(text) <= MAX_SEQ else -1
