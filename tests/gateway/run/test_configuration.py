"""The configuration as a process of its own reads it again."""

import os
from pathlib import Path

import pytest

from moorline.gateway.run.commands import ServeSettings
from moorline.gateway.run.configuration import Configuration


async def test_what_a_start_would_warn_of_is_in_the_log_of_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text("[backend]\nport = 9\n[serve]\nreload = true\n", encoding="utf-8")
    sections = await Configuration("serve", [], os.environ).read()
    assert sections[ServeSettings].reload
    (line,) = caplog.messages
    assert line.startswith("[backend] port: serve does not use it; ")
