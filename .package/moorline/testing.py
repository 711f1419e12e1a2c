"""moorline in your tests: `pytest_plugins = ["moorline.testing"]` gives them the fixture `moorline`."""

from moorline.gateway.faults.control import Faults
from moorline.gateway.testing.fixture import Gateway, Moorline
from moorline.gateway.testing.plugin import (
    moorline,
    moorline_fault,
    pytest_configure,
    pytest_generate_tests,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

__all__ = [
    "Faults",
    "Gateway",
    "Moorline",
    "moorline",
    "moorline_fault",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
]
