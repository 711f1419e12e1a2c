"""Conditional and range requests for one file: RFC 9110 sections 13 and 14. Pure."""

import calendar
import email.utils
import re
from collections.abc import Mapping

__all__ = ["Unsatisfiable", "selected_range", "status_by_conditions"]

_PRECONDITION_FAILED, _NOT_MODIFIED = 412, 304
_ETAG = re.compile(r'(W/)?"([^"]*)"')
# One range, of numbers that a file may have; `-0` selects nothing and is not valid.
_RANGE = re.compile(r"\s*bytes=(?:(\d{1,18})-(\d{1,18})?|-(0*[1-9]\d{0,17}))\s*", re.ASCII)


class Unsatisfiable(Exception):
    """The range begins behind the end of the file: 416."""


def status_by_conditions(headers: Mapping[str, str], *, etag: str, modified: int) -> int | None:
    """412 or 304 where the headers of a GET or HEAD request ask for it, in the order of section 13.2.2."""
    if (tags := headers.get("If-Match")) is not None:
        if not _matches(tags, etag, weak=False):
            return _PRECONDITION_FAILED
    elif (date := _date(headers.get("If-Unmodified-Since"))) is not None and modified > date:
        return _PRECONDITION_FAILED
    if (tags := headers.get("If-None-Match")) is not None:
        return _NOT_MODIFIED if _matches(tags, etag, weak=True) else None
    date = _date(headers.get("If-Modified-Since"))
    return _NOT_MODIFIED if date is not None and modified <= date else None


def selected_range(headers: Mapping[str, str], *, etag: str, modified: int, size: int) -> tuple[int, int] | None:
    """First byte, and the one behind the last, of a request for a part of the file; None: send the whole.

    The whole answers several ranges, other units and what is not valid, as section 14.2 allows, and an If-Range that
    names another version.

    Raises:
        Unsatisfiable: the file has no such part.
    """
    match = _RANGE.fullmatch(headers.get("Range", ""))
    if match is None or not _is_same_version(headers.get("If-Range"), etag, modified):
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise Unsatisfiable
    return start, end


def _is_same_version(if_range: str | None, etag: str, modified: int) -> bool:
    """Section 13.1.5: exactly this entity tag, or exactly this date."""
    if if_range is None:
        return True
    return if_range.strip() == f'"{etag}"' or _date(if_range) == modified


def _matches(tags: str, etag: str, *, weak: bool) -> bool:
    return tags.strip() == "*" or any(
        value == etag and (weak or not weakness) for weakness, value in _ETAG.findall(tags)
    )


def _date(text: str | None) -> int | None:
    """Seconds since 1970; None where it is no date, which is as if it were absent."""
    parts = email.utils.parsedate_tz(text or "")
    try:
        # A date without a zone is one, too; all of HTTP's are in GMT.
        return None if parts is None else calendar.timegm(parts[:9]) - (parts[9] or 0)
    except (ValueError, OverflowError):
        return None
