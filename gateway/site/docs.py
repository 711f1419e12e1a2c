"""/-/docs: the Markdown pages of `gateway/docs`, rendered as HTML. The same files are read on the forge."""

import functools
import html
import re
from pathlib import Path

from aiohttp import web

__all__ = ["DOCS", "PAGES", "docs", "title_of"]

DOCS = Path(__file__).parents[1] / "docs"
#: The pages in reading order; the first is shown at /-/docs.
PAGES = (
    "front-end",
    "backend",
    "routes",
    "options",
    "socket-died",
    "troubleshooting",
    "production",
    "security",
    "threats",
    "testing",
    "performance",
    "internals",
)
_PATH = "/-/docs"
# The pages hold no scripts and load nothing, so nothing else is allowed.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


async def docs(request: web.Request) -> web.Response:
    """One page, or 404."""
    name = request.match_info.get("page") or PAGES[0]
    if name not in PAGES:
        raise web.HTTPNotFound(text=f"There is no such page of documentation; {_PATH} lists those there are.")
    return web.Response(text=_page(name), content_type="text/html", charset="utf-8", headers=_HEADERS)


def title_of(name: str) -> str:
    """The first heading of a page."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


@functools.cache
def _page(name: str) -> str:
    # Read with the first page that is asked for: it takes 30 ms, and a gateway in production is never asked.
    from markdown_it import MarkdownIt

    # The files are ours, but raw HTML in them is shown as text all the same.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = markdown.render(_served((DOCS / f"{name}.md").read_text(encoding="utf-8")))
    links = "".join(
        f'<a href="{_PATH}/{page}"{" aria-current=page" * (page == name)}>{html.escape(title_of(page))}</a>'
        for page in PAGES
    )
    return _TEMPLATE.format(title=html.escape(title_of(name)), links=links, body=_with_anchors(body))


def _served(markdown: str) -> str:
    """Links to other pages as addresses of the gateway; links to files of the repository as their names."""
    markdown = re.sub(r"\]\(([\w-]+)\.md(#[\w-]+)?\)", rf"]({_PATH}/\1\2)", markdown)
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def _with_anchors(body: str) -> str:
    """Headings with the ids that the forge gives them, so that links to them lead there in both places."""

    def anchored(match: re.Match[str]) -> str:
        words = re.sub(r"<[^>]+>", "", match[2])
        anchor = re.sub(r"[^\w -]", "", html.unescape(words)).lower().replace(" ", "-")
        return f'<h{match[1]} id="{anchor}">{match[2]}</h{match[1]}>'

    return re.sub(r"<h([2-4])>(.*?)</h\1>", anchored, body)


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} - moorline</title>
<style>
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.6 system-ui, sans-serif; }}
nav {{ display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding-bottom: .75rem; border-bottom: 1px solid #8886; }}
nav [aria-current] {{ font-weight: bold; text-decoration: none; color: inherit; }}
h1, h2, h3 {{ line-height: 1.25; }}
pre {{ overflow-x: auto; padding: .75rem; background: #8881; border-radius: .25rem; }}
code {{ font: .9em ui-monospace, monospace; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .6rem; border: 1px solid #8884; text-align: left; vertical-align: top; }}
p code, li code {{ overflow-wrap: anywhere; }}
td:first-child code {{ white-space: nowrap; }}
td:last-child {{ min-width: 12rem; }}
</style>
</head>
<body>
<nav aria-label="Documentation">{links}<a href="/docs">Protocol</a></nav>
<main>
{body}</main>
</body>
</html>
"""
