"""`@pytest.mark.moorline_faults(...)`: which faults a test runs under, and the table of what it survives. Pure."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.catalogue import CATALOGUE, Phase, fault_named
from moorline.gateway.faults.control import Faults, Switch

__all__ = ["NO_FAULT", "Marked", "Run", "names", "table"]

NO_FAULT = "no fault"
_GROUPS = {
    "all": [name for name, fault in CATALOGUE.items() if fault.phase is not Phase.PROVIDER],
    "provider": [name for name, fault in CATALOGUE.items() if fault.phase is Phase.PROVIDER],
}
# A connection that waits for what never comes ends after so many seconds, as TCP's own timers would end it.
_RESETS_AFTER = 3.0
_PARAMETERS = ("side", "path", "resets_after", "without")


def names(wanted: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The faults that a mark asks for, behind a run without any.

    Raises:
        UsageError: there is no such fault, or the mark has no such option.
    """
    for option in options:
        if option not in _PARAMETERS:
            raise UsageError(f"moorline_faults: there is no option {option}; there are {', '.join(_PARAMETERS)}")
    without: Collection[str] = options.get("without", ())
    found = [name for each in wanted or ("all",) for name in _GROUPS.get(each, (each,))]
    for name in (*found, *without):
        fault_named(name)
    return [NO_FAULT, *(name for name in dict.fromkeys(found) if name not in without)]


class Marked:
    """The fault of one run of a marked test. It passes, so that the application can survive it: states of the network
    last, and everything else happens to one connection or for a second.
    """

    def __init__(self, fault: str, options: Mapping[str, Any]) -> None:
        self.fault = fault
        self._options = {name: value for name, value in options.items() if name in ("side", "path", "resets_after")}
        self._switches: list[Switch] = []

    @property
    def met(self) -> int:
        """How many connections have met it."""
        return sum(switch.met for switch in self._switches)

    def switch(self, faults: Faults) -> Switch:
        """The fault, to be entered for as long as the test's gateway or provider runs."""
        fault = CATALOGUE[self.fault]
        times = None if fault.lasts else 1
        options = {"resets_after": _RESETS_AFTER, "times": times, **self._options, **fault.marked}
        switch = faults.arm(self.fault, **options)
        self._switches.append(switch)
        return switch


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run of a marked test."""

    test: str
    fault: str
    survived: bool
    met: int
    seconds: float


def table(runs: Iterable[Run]) -> list[str]:
    """For each test the faults that it survived and those that it did not."""
    lines: list[str] = []
    by_test: dict[str, list[Run]] = {}
    for run in runs:
        by_test.setdefault(run.test, []).append(run)
    for test, its in sorted(by_test.items()):
        lines += [test, *(_row(run) for run in sorted(its, key=_position)), _total(its), ""]
    return lines


def _position(run: Run) -> int:
    order = [NO_FAULT, *CATALOGUE]
    return order.index(run.fault)


def _row(run: Run) -> str:
    does = "" if run.fault == NO_FAULT else CATALOGUE[run.fault].does
    return f"  {run.fault:<18} {_result(run):<9} {run.seconds:6.2f} s  {does}".rstrip()


def _result(run: Run) -> str:
    if not run.survived:
        return "FAILED"
    # A fault that no connection met proves nothing.
    return "survived" if run.met or run.fault == NO_FAULT else "not met"


def _total(runs: Sequence[Run]) -> str:
    met = [run for run in runs if run.fault != NO_FAULT and (run.met or not run.survived)]
    unmet = len([run for run in runs if run.fault != NO_FAULT]) - len(met)
    survived = sum(run.survived for run in met)
    return f"  survived {survived} of {len(met)}" + (f"; {unmet} were not met" if unmet else "")
