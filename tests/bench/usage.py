"""What a process and its children took, from the operating system (Linux)."""

import os
from pathlib import Path

__all__ = ["cpu_by_process", "cpu_seconds", "memory", "tree"]

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything, also spaces and parentheses.
                after_name = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found = [pid]
    for process in found:
        found += parents.get(process, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree up to now, all threads."""
    return sum(cpu_by_process(pid).values())


def cpu_by_process(pid: int) -> dict[int, float]:
    """The same, process by process."""
    return {process: _cpu_nanoseconds(process) / 1e9 for process in tree(pid)}


def memory(pid: int) -> int:
    """Bytes of the tree's own, with its share of what several processes have in common (PSS)."""
    return sum(_pss(process) for process in tree(pid))


def _cpu_nanoseconds(pid: int) -> int:
    try:
        # The scheduler's own count: /proc/PID/stat has whole ticks, which is too coarse for a hundred handshakes.
        return sum(
            int((task / "schedstat").read_text(encoding="utf-8").split()[0])
            for task in (_PROC / str(pid) / "task").iterdir()
        )
    except FileNotFoundError:
        try:
            times = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        except OSError:
            return 0
        return sum(map(int, times)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
