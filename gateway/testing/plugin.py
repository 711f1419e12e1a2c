"""The pytest plugin behind `moorline.testing`: the fixture `moorline`, the mark `moorline_faults`, and the story of a
failed test's sockets.
"""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from moorline.gateway.common.errors import UsageError
from moorline.gateway.testing.fixture import Moorline
from moorline.gateway.testing.marked import NO_FAULT, Marked, Run, names, table
from moorline.gateway.testing.story import Story

__all__ = [
    "moorline",
    "moorline_fault",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
]

_MARK = "moorline_faults"
_STORY = pytest.StashKey[Story]()
_MARKED = pytest.StashKey[Marked]()
# What a report carries from a worker of pytest-xdist to the table.
_PROPERTY = "moorline_fault"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f'{_MARK}("all" or names, side=, path=, without=): run the test once under each of these faults of moorline\'s',
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker(_MARK)
    if mark is None:
        return
    if "moorline_fault" not in metafunc.fixturenames:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {_MARK} needs the fixture moorline; add it as argument")
    try:
        found = names(mark.args, mark.kwargs)
    except UsageError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from None
    metafunc.parametrize("moorline_fault", found, indirect=True)


@pytest.fixture
def moorline_fault(request: pytest.FixtureRequest) -> str | None:
    """The fault that this run of a marked test is under."""
    fault: str | None = getattr(request, "param", None)
    return None if fault == NO_FAULT else fault


@pytest.fixture
def moorline(request: pytest.FixtureRequest, moorline_fault: str | None) -> Iterator[Moorline]:
    """Gateways with faults on demand: `async with moorline.gateway(upstream=app) as gw`."""
    story, marked = Story(), None
    if moorline_fault is not None:
        mark = request.node.get_closest_marker(_MARK)
        marked = Marked(moorline_fault, mark.kwargs)
        request.node.stash[_MARKED] = marked
    request.node.stash[_STORY] = story
    with story.listening():
        yield Moorline(story, marked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    callspec = getattr(item, "callspec", None)
    if call.when == "call" and item.get_closest_marker(_MARK) is not None and callspec is not None:
        marked = item.stash.get(_MARKED, None)
        item.user_properties.append((_PROPERTY, callspec.params["moorline_fault"]))
        item.user_properties.append((_PROPERTY + "_met", marked.met if marked is not None else 0))
    report = yield
    story = str(item.stash.get(_STORY, ""))
    if report.failed and story:
        report.sections.append(("moorline: the sockets of this test", story))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    runs = [
        _run(report)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and _PROPERTY in dict(report.user_properties)
    ]
    if runs:
        terminalreporter.section("moorline: faults that the tests survive")
        for line in table(runs):
            terminalreporter.line(line)


def _run(report: pytest.TestReport) -> Run:
    properties = dict(report.user_properties)
    return Run(
        test=_test_of(report.nodeid),
        fault=str(properties[_PROPERTY]),
        survived=report.passed,
        met=int(str(properties[_PROPERTY + "_met"])),
        seconds=report.duration,
    )


def _test_of(nodeid: str) -> str:
    """The test without its parameters: `tests/test_page.py::test_it[reset]`"""
    path, separator, name = nodeid.partition("::")
    return path + separator + name.partition("[")[0]
