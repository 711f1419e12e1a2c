"""Figures as tables of text."""

from collections.abc import Mapping, Sequence

__all__ = ["columns", "number", "table"]

_NONE = "-"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def columns(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """The first `left` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def table(figures: Mapping[str, Mapping[str, float]], units: Mapping[str, str], *, against: str) -> str:
    """A row for each figure, a column for each peer, and the first one's ratio to `against`."""
    peers = list(dict.fromkeys(peer for values in figures.values() for peer in values))
    rows = [["", "", *peers, f"{peers[0]} / {against}"]]
    for name, values in figures.items():
        first, other = values.get(peers[0]), values.get(against)
        quotient = f"{first / other:.2f}" if first is not None and other else _NONE
        rows.append([name, units[name], *(number(values.get(peer)) for peer in peers), quotient])
    return columns(rows, left=2)
