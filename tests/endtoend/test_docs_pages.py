"""The pages of documentation on a phone."""

import pytest

from moorline.gateway.site.docs import PAGES
from tests.endtoend.conftest import Site
from tests.support import needs
from tests.support.browser import SHARED, Visitor

pytestmark = [needs.chromium, SHARED]

BROKEN = """[...document.querySelectorAll('th, td')].flatMap((cell) => {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    const broken = [];
    while (texts.nextNode()) for (const { 0: word, index } of texts.currentNode.data.matchAll(/[A-Za-z0-9_]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, index);
        range.setEnd(texts.currentNode, index + word.length);
        if (range.getClientRects().length > 1) broken.push(word);
    }
    return broken;
})"""


@pytest.mark.parametrize("path", ["/docs", *(f"/-/docs/{page}" for page in PAGES)])
async def test_a_narrow_column_breaks_no_word_and_widens_no_page(chat: Site, tab: Visitor, path: str) -> None:
    await tab.page.set_viewport_size({"width": 360, "height": 640})
    await tab.page.goto(chat.url + path)
    assert await tab.page.evaluate(BROKEN) == []
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == 360
