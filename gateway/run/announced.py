"""The address that a server prints when it is ready, read from a line of its output. Pure.

➜  Local:   http://localhost:5173/                  Vite, Angular; Astro and Next without the arrow
Uvicorn running on http://127.0.0.1:8000            uvicorn, Flask, http-server and others
"""

import re
from urllib.parse import urlsplit

__all__ = ["announced_address", "port_of", "without_colours", "without_controls"]

# ECMA-48: a control sequence (CSI), an operating system command (OSC, a link or a title), or another escape.
_CONTROL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
# Of these, what sets colours and weights (SGR). Others move the cursor and clear what other programs wrote.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# A tab is no danger to the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]")
# Addresses of this machine alone: `Network:` lines name the same server as others reach it. A path is that of the page.
_ADDRESS = re.compile(
    r"(https?)://(localhost|127(?:\.\d{1,3}){3}|0\.0\.0\.0|\[(?:::1?|::ffff:127\.0\.0\.1)\])(?::(\d{1,5}))?(?![\w.:-])",
    re.IGNORECASE,
)
# What stands before the address of the server itself. Programs also print the addresses of others: of their own
# upstreams, of debuggers, of requests.
_LABEL = re.compile(
    r"(?:^|\W)(?:local|loopback)\s*:?\s*$"
    r"|\b(?:running|listening|serving|starting|started|ready|available|accepting connections)\b"
    r"(?:\s+\w+){0,3}\s+(?:at|on)\W*$",
    re.IGNORECASE,
)
# Where a server that listens on all addresses is reached from this machine.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_LAST_PORT = 65535


def announced_address(line: str) -> str | None:
    """`http://localhost:5173`, if the line announces a server of this machine."""
    line = without_colours(line)
    for found in _ADDRESS.finditer(line):
        scheme, host, port = found[1].lower(), found[2].lower(), found[3]
        if _LABEL.search(line[: found.start()]) and (port is None or 0 < int(port) <= _LAST_PORT):
            return f"{scheme}://{_REACHED_AT.get(host, host)}" + (f":{port}" if port else "")
    return None


def port_of(address: str) -> int:
    """The port of `http://localhost:3000`, which need not be written where it is the usual one."""
    parts = urlsplit(address)
    return parts.port or (443 if parts.scheme == "https" else 80)


def without_colours(line: str) -> str:
    """The text of a line alone."""
    return _CONTROL.sub("", _CONTROL_SEQUENCE.sub("", line))


def without_controls(line: str) -> str:
    """A line with its colours, and without what would move the cursor or clear the screen."""
    kept = _CONTROL_SEQUENCE.sub(lambda found: found[0] if _COLOUR.fullmatch(found[0]) else "", line)
    return _CONTROL.sub("", kept)
