"""What an answer holds beside its text: sources, data, and the status of the work under way. Pure.

A responder yields them, the log keeps them as JSON, and version 2 of the protocol sends them as they are kept.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

__all__ = [
    "STATUS_PREFIX",
    "Data",
    "Part",
    "Source",
    "Status",
    "decode_part",
    "decode_parts",
    "encode_part",
    "kept",
    "storable",
]

# A client makes a link of it, and javascript: would run there. Without a scheme it is a path of the page's own site.
_SCHEMES = ("http", "https", "")


@dataclass(frozen=True, slots=True)
class Source:
    """What the answer is based on. `url` is http, https, or a path; empty where there is nothing to open."""

    kind: Literal["source"] = field(default="source", kw_only=True)
    title: str
    url: str = ""

    def __post_init__(self) -> None:
        # Browsers ignore spaces and control characters within a scheme.
        if urlsplit(re.sub(r"[\x00-\x20\x7f]", "", self.url)).scheme.lower() not in _SCHEMES:
            raise ValueError("the url of a Source must be http, https or a path")


@dataclass(frozen=True, slots=True)
class Status:
    """What the responder is doing, until text or another status follows. It is not kept beyond the run."""

    kind: Literal["status"] = field(default="status", kw_only=True)
    text: str


@dataclass(frozen=True, slots=True)
class Data:
    """Something for the client's own use: a chart, a form. `value` is JSON."""

    kind: Literal["data"] = field(default="data", kw_only=True)
    name: str
    value: Any = None


Part = Source | Status | Data

#: How the JSON of a status begins, for a database that has to tell it from the parts that are kept.
STATUS_PREFIX = '{"kind":"status"'
_KINDS: dict[str, type[Part]] = {"source": Source, "status": Status, "data": Data}


def encode_part(part: Part) -> str:
    """`part` as JSON, `kind` first; what no UTF-8 can hold is U+FFFD.

    Raises:
        ValueError, TypeError: its `value` is not JSON.
    """
    members = {name: getattr(part, name) for name in part.__slots__}
    for name in members.keys() - {"value"}:
        if not isinstance(members[name], str):
            raise TypeError(f"{name} must be str, not {type(members[name]).__name__}")
    return storable(json.dumps(members, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def decode_part(text: str) -> Part:
    """The part in what `encode_part` returned."""
    return _part(json.loads(text))


def decode_parts(text: str) -> tuple[Any, ...]:
    """The parts in a JSON array; None for null."""
    return tuple(None if members is None else _part(members) for members in json.loads(text))


def _part(members: dict[str, Any]) -> Part:
    return _KINDS[members["kind"]](**members)


def kept(parts: Iterable[Part | None]) -> tuple[Part, ...]:
    """Of the parts of an answer those that stay with it when the run has ended."""
    return tuple(part for part in parts if part is not None and not isinstance(part, Status))


def storable(text: str) -> str:
    """`text` with surrogate pairs joined, and U+FFFD for what no UTF-8 or no database's text can hold."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
