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
                row = self.rows.setdefault(frame["message_id"], Row(frame["message_id"], "assistant", ""))
                row.content += frame["text"]
                row.run_id = frame["run_id"]
            case "message":
                self.run_id = None
                ended = Row(frame["message_id"], "assistant", frame["content"], frame["finish"], frame["run_id"])
                self._put(ended)
        return True

    def _replace(self, snapshot: Frame) -> None:
        self.rows = {}
        for row in snapshot["messages"]:
            members = {field.name: row.get(field.name) for field in dataclasses.fields(Row)}
            self._put(Row(**members))
        self.run_id = None
        if run := snapshot.get("run"):
            self.run_id = run["run_id"]
            self._put(Row(run["message_id"], "assistant", run["text"], run_id=run["run_id"]))
        self.seq = snapshot["through_seq"]

    def _put(self, row: Row) -> None:
        self.rows[row.message_id] = row
