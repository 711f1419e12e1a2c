"""Marks for tests that need a program: skipped without it, with the line that installs it. On CI it must be there."""

import os
import shutil

import pytest

__all__ = ["chromium", "nginx", "npm"]


def _program(name: str, install: str) -> pytest.MarkDecorator:
    missing = shutil.which(name) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"{name} is not installed: {install}")


chromium = _program("chromium", "apt-get install -y chromium")
nginx = _program("nginx", "apt-get install -y nginx")
npm = _program("npm", "apt-get install -y npm")
