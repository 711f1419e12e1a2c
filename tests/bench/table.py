"""Figures as a table of text: a row each, a column for each peer, and the first one's ratio to another."""

from collections.abc import Mapping

__all__ = ["number", "table"]

_NONE = "-"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: Mapping[str, Mapping[str, float]], units: Mapping[str, str], *, against: str) -> str:
    """`figures` by name and peer."""
    peers = list(dict.fromkeys(peer for values in figures.values() for peer in values))
    ratio = f"{peers[0]} / {against}"
    rows = [["", "", *peers, ratio]]
    for name, values in figures.items():
        first, other = values.get(peers[0]), values.get(against)
        quotient = f"{first / other:.2f}" if first is not None and other else _NONE
        rows.append([name, units[name], *(number(values.get(peer)) for peer in peers), quotient])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(line))
        for line in (list(zip(row, widths, strict=True)) for row in rows)
    )
