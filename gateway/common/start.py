"""What every program of moorline prints when it has started."""

from collections.abc import Mapping

from moorline import __version__
from moorline.gateway.common import logs
from moorline.gateway.common.config.settings import CommonSettings

__all__ = ["print_start"]


def print_start(settings: CommonSettings, facts: Mapping[str, str]) -> None:
    """Print what a person, or with `log_format=json` a program, wants to know once a program accepts connections."""
    if settings.log_format == "json":
        print(logs.json_line("started", {"version": __version__, **facts}), flush=True)
        return
    width = max(map(len, facts))
    rows = (f"  {name.ljust(width)}  {fact}" for name, fact in facts.items())
    print("\n".join([f"moorline {__version__}", "", *rows, ""]), flush=True)
