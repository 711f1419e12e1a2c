"""Durations, sizes and numbers as people write them: `1m30s`, `2.5s`, `16MiB`, `1 session`. Pure."""

import re

__all__ = ["counted", "format_duration", "format_size", "parse_duration", "parse_size"]

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

#: A hundred years: what is longer is a slip, and clocks cannot add it.
_LONGEST = 36500 * 86400.0

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|[smhd]))+")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|[smhd])")
_SIZE = re.compile(r"([0-9]+)(GiB|MiB|KiB|B)?")


def parse_duration(text: str) -> float:
    """Seconds of `1m30s`, `250ms` or a bare number; ValueError with what to write instead."""
    if re.fullmatch(_NUMBER, text):
        text += "s"
    if not _DURATION.fullmatch(text):
        raise ValueError("is not a duration; write for example 90s, 1m30s or 250ms")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > _LONGEST:
        raise ValueError("is longer than a hundred years; write for example 90s, 1m30s or 250ms")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back: `86400.0` is `1d`, `0.25` is `250ms`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.12g}ms"
    for unit, length in _SECONDS.items():
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.12g}{unit}"
    return f"{seconds:.12g}s"


def counted(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def parse_size(text: str) -> int:
    """Bytes of `64KiB`, `16MiB` or a bare number; ValueError with what to write instead."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("is not a size; write for example 64KiB, 16MiB or a number of bytes")
    return int(match[1]) * _BYTES[match[2] or "B"]


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back: `65536` is `64KiB`."""
    for unit, length in _BYTES.items():
        if size >= length and size % length == 0:
            return f"{size // length}{unit if length > 1 else ''}"
    return str(size)
