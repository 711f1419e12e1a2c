"""Measurements that run as a whole take a minute each on busy cores, and show nothing there but that they run.

They are collected where TEST_BENCH is set, as in `TEST_BENCH=1 uv run --group dev pytest tests/bench`.
"""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "TEST_BENCH" not in os.environ:
        items[:] = [item for item in items if item.get_closest_marker("whole_measurement") is None]
