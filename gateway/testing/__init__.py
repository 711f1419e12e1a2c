"""A gateway in other people's tests: `pytest_plugins = ["moorline.testing"]`."""
