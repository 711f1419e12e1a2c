"""A file `.env`: lines of NAME=VALUE, as shells and other tools read it. Pure."""

import re

__all__ = ["parse_dotenv"]

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(["'])(.*)\1\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")


def parse_dotenv(text: str) -> dict[str, str]:
    """The variables in `text`. A value may stand in quotes; nothing in it is expanded.

    Raises:
        ValueError: a line is something else; the message has its number, and not its content.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(f"line {number} is not NAME=VALUE")
        name, value = match.groups()
        quoted = _QUOTED.fullmatch(value)
        found[name] = quoted[2] if quoted else _COMMENT.sub("", value).strip()
    return found
