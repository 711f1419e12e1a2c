"""Photograph the page for the README: `python -m tests.support.screenshot [FILE]`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, expect

from tests.endtoend.conftest import site
from tests.support.backends import Script
from tests.support.browser import CHAT, answers, browser, say, shows, visitor

__all__ = ["main", "photograph"]

PICTURE = Path(__file__).parents[2] / ".github" / "chat.png"
LIMIT = 150 << 10

QUESTION = "What should I bring to my appointment on Thursday?"
ANSWER = (
    "Three things make the visit easier:\n\n"
    "1. Your **insurance card** and a photo ID\n"
    "2. A list of the **medicines** you take, with doses\n"
    "3. Questions you would like to ask, written down"
)
SECOND = "Thanks. Can I eat beforehand?"
GROWING = "For a routine visit, yes. If blood is to be drawn, the practice will have told you to"


async def photograph() -> bytes:
    """Hold a short chat on the real thing and photograph it while the second answer is being written."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            site(Path(folder)) as chat,
            browser() as chromium,
            visitor(chromium, viewport={"width": 960, "height": 640}) as seen,
        ):
            await _converse(seen.page, chat.url, chat.script)
            return await seen.page.screenshot()


async def _converse(page: Page, url: str, script: Script) -> None:
    await page.goto(url + CHAT)
    await shows(page, "Connected")
    script.put(ANSWER, None)
    await say(page, QUESTION)
    await expect(answers(page).get_by_role("listitem")).to_have_count(3)
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    script.put(GROWING)
    await say(page, SECOND)
    await expect(answers(page).last).to_have_text(GROWING)


def main(picture: Path) -> None:
    image = asyncio.run(photograph())
    if len(image) > LIMIT:
        raise SystemExit(f"{picture}: {len(image)} bytes are more than {LIMIT}")
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(image)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
