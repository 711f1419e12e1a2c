"""Which paths of the front end stand in the log as they are. Pure.

A path may hold the id of a patient wherever the front end has put it: `/patients/1234`. The files of a build are named
by the people who wrote the site. The pages of a dev server are shown where the browser is on the same machine, which is
development: behind a proxy, clients have addresses of their own.
"""

import re

__all__ = ["logged_path"]

# What a browser loads of a page. No documents: these are named by the people who use the site.
_FILE = re.compile(
    r"(?:/[\w.@~-]+)*/[\w.@~-]+\.(?:avif|css|gif|ico|jpe?g|js|map|mjs|png|svg|ttf|wasm|webmanifest|webp|woff2?)",
    re.ASCII | re.IGNORECASE,
)
# Of the chat, whatever stands below them.
_CHAT = re.compile(r"/+(?:api|chat|ws)(?:/|$)", re.IGNORECASE)
_LONGEST = 200


def logged_path(target: str, *, in_development: bool) -> str | None:
    """The path of a request target, without its query; None: the name of its route is to stand there instead."""
    path = target.partition("?")[0]
    if _CHAT.match(path) or not (in_development or path == "/" or _FILE.fullmatch(path)):
        return None
    return path if len(path) <= _LONGEST else path[:_LONGEST] + "..."
