"""What a client of version 2 shows: the fold of the frames that it was sent. Pure."""

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["Gap", "Row", "Transcript"]

Frame = Mapping[str, Any]


class Gap(Exception):
    """An event is missing before this one: the client has to come back with `resume`."""


@dataclasses.dataclass(slots=True)
class Row:
    """One message as a person sees it."""

    message_id: str
    role: str
    content: str
    finish: str | None = None
    run_id: str | None = None
    client_msg_id: str | None = None
    parts: list[Any] = dataclasses.field(default_factory=list)
    status: str = ""


class Transcript:
    """Rows in their order, and how far the log has been read."""

    def __init__(self) -> None:
        self.epoch = ""
        self.seq = 0
        self.rows: dict[str, Row] = {}
        self.run_id: str | None = None
        """The run under way."""

    @property
    def resume(self) -> dict[str, Any] | None:
        """The member of a hello that says where to go on."""
        return {"epoch": self.epoch, "seq": self.seq} if self.epoch else None

    def fold(self, frame: Frame) -> bool:
        """Apply one frame; whether it changed anything.

        Raises:
            Gap: something between this event and the last one never came.
        """
        if frame["type"] == "snapshot":
            self._replace(frame)
            return True
        if "seq" not in frame or frame["type"] == "ack" or frame["seq"] <= self.seq:
            return False
        if frame.get("from_seq", frame["seq"]) > self.seq + 1:
            raise Gap(f"{frame['type']} {frame['seq']} behind {self.seq}")
        self.seq = frame["seq"]
        match frame["type"]:
            case "user":
                self._put(Row(frame["message_id"], "user", frame["content"], client_msg_id=frame["client_msg_id"]))
            case "status":
                self.run_id = frame["run_id"]
            case "delta":
                row = self._running(frame)
                row.content += frame["text"]
                row.status = ""
            case "part" if frame["part"]["kind"] == "status":
                self._running(frame).status = frame["part"]["text"]
            case "part":
                self._running(frame).parts.append(frame["part"])
            case "message":
                self.run_id = None
                ended = Row(frame["message_id"], "assistant", frame["content"], frame["finish"], frame["run_id"])
                ended.parts = frame.get("parts", [])
                self._put(ended)
        return True

    def _replace(self, snapshot: Frame) -> None:
        self.rows = {}
        for row in snapshot["messages"]:
            members = {name: row.get(name) for name in ("message_id", "role", "content", "finish", "run_id")}
            self._put(Row(**members, client_msg_id=row.get("client_msg_id"), parts=row.get("parts", [])))
        self.run_id = None
        if run := snapshot.get("run"):
            self.run_id = run["run_id"]
            members = {"parts": run.get("parts", []), "status": run.get("status", "")}
            self._put(Row(run["message_id"], "assistant", run["text"], run_id=run["run_id"], **members))
        self.seq = snapshot["through_seq"]

    def _running(self, frame: Frame) -> Row:
        """The row of the run that `frame` adds to."""
        row = self.rows.setdefault(frame["message_id"], Row(frame["message_id"], "assistant", ""))
        row.run_id = frame["run_id"]
        return row

    def _put(self, row: Row) -> None:
        self.rows[row.message_id] = row
