"""The page's Markdown, in the browser that shows it: what an answer looks like, and what it cannot do."""

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.browser import SHARED, Visitor, visitor, watched

pytestmark = [needs.chromium, SHARED]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def tab(chromium: Browser) -> AsyncIterator[Visitor]:
    """A page of the built-in site, with its Content-Security-Policy and nothing else of it."""
    settings = Settings(host="127.0.0.1", port=0, upstream=("http://127.0.0.1:9",), drain=0.2, log_level="error")
    async with server.running(settings) as gateway, visitor(chromium) as seen:
        await seen.page.goto(gateway.addresses[0] + "/markdown.js")
        await seen.page.evaluate(
            """async () => {
                const [{ MarkdownView }, markdown] = await Promise.all(
                    ['/markdown-view.js', '/markdown.js'].map((module) => import(module)));
                const fresh = (text) => {
                    document.body.replaceChildren(document.createElement('main'));
                    const view = new MarkdownView(document.body.firstChild);
                    view.show(text);
                    return view;
                };
                Object.assign(window, { markdown, fresh, root: () => document.body.firstChild });
            }"""
        )
        yield seen


async def html(page: Page, text: str) -> str:
    """The elements that show `text`, written as HTML."""
    found = await page.evaluate("(text) => { fresh(text); return root().innerHTML }", text)
    assert isinstance(found, str)
    return found


# What is shown --------------------------------------------------------------------------------------------------------

CASES = {
    "plain": ("Good morning.", "<p>Good morning.</p>"),
    "line breaks": ("one\ntwo  \nthree\\\nfour<br>five", "<p>one\ntwo\nthree\nfour\nfive</p>"),
    "paragraphs": ("one\n\n\ntwo", "<p>one</p><p>two</p>"),
    "headings": ("# A\n## B ##\n###### C\n#no", "<h2>A</h2><h3>B</h3><h6>C</h6><p>#no</p>"),
    "emphasis": (
        "*a* **b** ***c*** ~~d~~",
        "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del></p>",
    ),
    "nested emphasis": ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    "no emphasis": ("2 * 3 * 4 snake_case_name **", "<p>2 * 3 * 4 snake_case_name **</p>"),
    "rule of three": ("*foo**bar**baz*", "<p><em>foo<strong>bar</strong>baz</em></p>"),
    "escapes": (r"\*a\* \[b\](c) \`d\`", "<p>*a* [b](c) `d`</p>"),
    "entities": ("&lt;b&gt; &amp; &#65;&#x42; &nope;", "<p>&lt;b&gt; &amp; AB &amp;nope;</p>"),
    "code": ("`a < b` ``c`d`` `` ` ``", "<p><code>a &lt; b</code> <code>c`d</code> <code>`</code></p>"),
    "code before emphasis": ("*a `b* c`", "<p>*a <code>b* c</code></p>"),
    "rule": ("a\n---\nb\n\n* * *", "<p>a</p><hr><p>b</p><hr>"),
    "bullets": ("- a\n- b", '<ul class=""><li><p>a</p></li><li><p>b</p></li></ul>'),
    "bullets below a text": ("Bring:\n* a\n* b", '<p>Bring:</p><ul class=""><li><p>a</p></li><li><p>b</p></li></ul>'),
    "numbers": ("3. a\n4. b", '<ol start="3" class=""><li><p>a</p></li><li><p>b</p></li></ol>'),
    "a year begins no list": ("It was in\n1984. Then", "<p>It was in\n1984. Then</p>"),
    "loose list": ("- a\n\n- b", '<ul class="loose"><li><p>a</p></li><li><p>b</p></li></ul>'),
    "nested by two spaces": (
        "1. a\n  - b\n    - c\n2. d",
        '<ol start="1" class=""><li><p>a</p><ul class=""><li><p>b</p><ul class=""><li><p>c</p></li></ul></li></ul></li>'
        "<li><p>d</p></li></ol>",
    ),
    "a text ends a list": ("- a\nb", '<ul class=""><li><p>a</p></li></ul><p>b</p>'),
    "tasks": (
        "- [ ] a\n- [x] b",
        '<ul class=""><li class="task"><input type="checkbox" disabled="" aria-label="Not done"><p>a</p></li>'
        '<li class="task"><input type="checkbox" disabled="" aria-label="Done"><p>b</p></li></ul>',
    ),
    "quote": ("> a\n> - b\n\nc", '<blockquote><p>a</p><ul class=""><li><p>b</p></li></ul></blockquote><p>c</p>'),
    "table": (
        "|a|b|\n|:-|-:|\n|`x\\|y`|**z**|\n|only|\nafter",
        '<div class="wide" tabindex="0" role="group" aria-label="Table"><table>'
        '<tr><th scope="col" class="">a</th><th scope="col" class="right">b</th></tr>'
        '<tr><td class=""><code>x|y</code></td><td class="right"><strong>z</strong></td></tr>'
        '<tr><td class="">only</td></tr><tr><td class="">after</td></tr></table></div>',
    ),
    "no table": ("a | b\nc | d", "<p>a | b\nc | d</p>"),
    "windows": ("a\r\nb\r\n\r\n- c\r\n", '<p>a\nb</p><ul class=""><li><p>c</p></li></ul>'),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_an_answer_is_shown_as_its_markdown_means_it(tab: Visitor, case: tuple[str, str]) -> None:
    text, expected = case
    assert await html(tab.page, text) == expected


LINKS = {
    "[a](https://a.example/b_(c) 'title')": [("a", "https://a.example/b_(c)")],
    "[**a** b](mailto:a@b.example)": [("a b", "mailto:a@b.example")],
    "<https://a.example> <a@b.example>": [
        ("https://a.example", "https://a.example/"),
        ("a@b.example", "mailto:a@b.example"),
    ],
    "See https://a.example/b_c). (https://a.example/(d))": [
        ("https://a.example/b_c", "https://a.example/b_c"),
        ("https://a.example/(d)", "https://a.example/(d)"),
    ],
    "[https://a.example](https://b.example)": [("https://a.example", "https://b.example/")],
    "[call 112](tel:112)": [("call 112", "tel:112")],
    "![plan](https://a.example/plan.png)": [("plan", "https://a.example/plan.png")],
    "[a [b](https://b.example) c](https://c.example)": [
        ("b", "https://b.example/"),
        ("https://c.example", "https://c.example/"),
    ],
}


@pytest.mark.parametrize("text", LINKS)
async def test_links_name_their_target_and_tell_it_nothing(tab: Visitor, text: str) -> None:
    await tab.page.evaluate("(text) => void fresh(text)", text)
    links = await tab.page.evaluate(
        "[...document.links].map((link) => [link.textContent, link.href, link.title, link.target, link.rel])"
    )
    expected = [[shown, href, href, "_blank", "noopener noreferrer nofollow"] for shown, href in LINKS[text]]
    assert links == expected


# What it cannot do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](java\tscript:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        "[a](vbscript:x) [a](file:///etc/passwd) [a](blob:x) [a](/-/moorline) [a](//a.example) [a](#b)",
        "<javascript:alert(1)>",
        "![a](javascript:alert(1))",
    ],
)
async def test_a_link_that_is_not_safe_is_shown_by_its_source(tab: Visitor, text: str) -> None:
    await tab.page.evaluate("(text) => void fresh(text)", text)
    assert await tab.page.evaluate("document.links.length") == 0
    assert "a](" in await tab.page.evaluate("root().textContent") or text.startswith("<")


@pytest.mark.parametrize(
    "text",
    [
        "<script>document.title = 'x'</script>",
        '<img src=x onerror="document.title = 1">',
        "<svg onload=alert(1)> </p></main> <!-- <style>* { display: none } </style>",
        "```html\n</code></pre><script>alert(1)</script>\n```",
        "|<b>|\n|-|\n|</table><iframe src=//a.example>|",
        "![a](https://a.example/a.png) <img src=https://a.example/b.png>",
    ],
)
async def test_html_is_text_and_nothing_is_loaded(tab: Visitor, text: str) -> None:
    tab.complaints.clear()
    await tab.page.evaluate("(text) => void fresh(text)", text)
    tags = await tab.page.evaluate("[...root().querySelectorAll('*')].map((element) => element.localName)")
    assert set(tags) <= {"p", "div", "span", "button", "pre", "code", "table", "tr", "th", "td", "a"}
    assert len(tab.hosts) == 1
    assert tab.complaints == []


@pytest.mark.parametrize("mark", ["\u202a", "\u202b", "\u202c", "\u202d", "\u202e"])
async def test_characters_that_reorder_others_are_replaced(tab: Visitor, mark: str) -> None:
    await tab.page.evaluate(
        "(text) => void fresh(text)", f"a{mark}b **{mark}** `{mark}` &#{ord(mark)};\n```\n{mark}\n```"
    )
    assert mark not in await tab.page.evaluate("root().textContent")


HOSTILE = {
    "lists in one line": "- " * 10_000 + "x",
    "lists": "".join(" " * level + "- x\n" for level in range(360)),
    "quotes": ">" * 10_000 + "x",
    "emphasis": "**a *b " * 9_000,
    "closed emphasis": "*a **b " * 4_000 + "b** a* " * 4_000,
    "brackets": "[" * 65_536,
    "links": "[a](" * 16_000,
    "titles": '[a](b "' * 9_000,
    "backticks": "".join("`" * (length % 300 + 1) + "a" for length in range(440)),
    "angles": "<" * 65_536,
    "spaces": " " * 65_536 + "x",
    "delimiters": "|" + " " * 32_000 + "x\n|" + " " * 32_000 + "x",
    "wide table": "|a" * 8_000 + "\n" + "|-" * 8_000 + "\n" + "|\n" * 16_000,
    "rule": "-" + " -" * 32_000 + "x",
    "unclosed fence": "```\n" + "~~~\n" * 16_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_no_text_takes_long_or_makes_a_deep_page(tab: Visitor, text: str) -> None:
    took, deepest = await tab.page.evaluate(
        """(text) => {
            const began = performance.now();
            fresh(text);
            const took = performance.now() - began;
            const depth = (element) => { let n = 0; for (; element; element = element.parentElement) n += 1; return n };
            return [took, Math.max(...[...root().querySelectorAll(':not(:has(*))')].slice(0, 500).map(depth))];
        }""",
        text,
    )
    # Quadratic time is 14 s and more. Linear: 0.4 s at most on a machine that does five other things.
    assert took < 5_000
    assert deepest < 80


# While it is written --------------------------------------------------------------------------------------------------

PIECES = (
    *("- ", "* ", "1. ", "2) ", "\n", "\n\n", "  ", "    ", "\t", "> ", "# ", "```", "~~~", "|", "|-|", "a|b", "-|-"),
    *("---", "***", "**", "*", "_", "`", "[a](https://x.example)", "[ ] ", "x", "word ", "<br>", "https://a.example"),
    *("\r\n", "!", "\\", "&amp;", "==="),
)


# The row of delimiters makes the line before it a table, or not, when its last character comes.
LATE = (
    "a\nb|c\n-|-d",
    "a\nb|c\n-|-\n",
    "a\n1) b|c\n-|-",
    "- a\nb|c\n-|-\nd|e",
    "# a\n#b",
    "a\n```",
    "a\n- b\n-c",
    "> a\n>b\nc",
)
DIFFERENT = """(answers) => answers.filter((pieces) => {
    const growing = fresh('');
    const grown = root();
    let text = '';
    return pieces.some((piece) => {
        growing.show(text += piece);
        fresh(text);
        return grown.innerHTML !== root().innerHTML;
    });
})"""


async def test_an_answer_that_grows_by_characters_is_shown_as_one_that_came_at_once(tab: Visitor) -> None:
    texts = [*LATE, *(text for text, _ in CASES.values())]
    assert await tab.page.evaluate(DIFFERENT, [list(text) for text in texts]) == []


@pytest.mark.parametrize("seed", range(4))
async def test_an_answer_that_grows_is_shown_as_one_that_came_at_once(tab: Visitor, seed: int) -> None:
    rng = random.Random(seed)
    answers = [[rng.choice(PIECES) for _ in range(rng.randrange(1, 25))] for _ in range(100)]
    assert await tab.page.evaluate(DIFFERENT, answers) == []


PARAGRAPH = "Take **one** tablet with `water`, see [the leaflet](https://a.example), and rest.\n"
LONG = {
    "paragraphs": (PARAGRAPH + "\n") * 780,
    "one list": f"- {PARAGRAPH}" * 760,
    "one block of code": "```python\n" + "    print('one line of code')\n" * 2_200,
    "one table": "| a | b |\n|---|---|\n" + "| one **cell** | and another, which is longer |\n" * 1_450,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
async def test_a_long_answer_is_not_built_again_with_each_word(tab: Visitor, text: str) -> None:
    changes, nodes, longest = await tab.page.evaluate(
        """(text) => {
            const view = fresh('');
            const observer = new MutationObserver(() => {});
            observer.observe(root(), { childList: true, characterData: true, subtree: true });
            let changes = 0, longest = 0;
            for (let end = 0; end < text.length; end += 128) {
                view.show(text.slice(0, end + 128));
                const records = observer.takeRecords().length;
                changes += records;
                longest = Math.max(longest, records);
            }
            const walker = document.createTreeWalker(root());
            let nodes = 0;
            while (walker.nextNode()) nodes += 1;
            return [changes, nodes, longest];
        }""",
        text,
    )
    # Each node once, and some for what changes its form at the end of a piece.
    assert changes < 2 * (nodes + len(text) / 128)
    assert longest < 60


async def test_a_selection_in_a_growing_answer_stays(tab: Visitor) -> None:
    selected = await tab.page.evaluate(
        """() => {
            const view = fresh('one\\n\\ntwo');
            const node = root().lastChild.firstChild;
            getSelection().setBaseAndExtent(node, 0, node, 3);
            view.show('one\\n\\ntwo three **four** five');
            return String(getSelection());
        }"""
    )
    assert selected == "two"


# Code -----------------------------------------------------------------------------------------------------------------

CODE = "Run:\n```sh\n\tmake <all>\n\n  done\n```\nEnd"


async def test_code_is_copied_as_it_was_written(tab: Visitor) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.page.evaluate("(text) => void fresh(text)", CODE)
    button = tab.page.get_by_role("button", name="Copy code")
    await button.click()
    await expect(button).to_have_text("Copied")
    assert await tab.page.evaluate("navigator.clipboard.readText()") == "\tmake <all>\n\n  done"
    await expect(button).to_have_text("Copy")


async def test_code_is_copied_where_there_is_no_clipboard_for_scripts(tab: Visitor) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await tab.page.context.new_page()
    watched(page)
    await page.goto(tab.page.url)
    await page.evaluate(
        """async (text) => {
            Object.defineProperty(navigator, 'clipboard', { value: undefined });
            const { MarkdownView } = await import('/markdown-view.js');
            document.body.replaceChildren(document.createElement('main'));
            new MarkdownView(document.body.firstChild).show(text);
        }""",
        CODE,
    )
    await page.get_by_role("button", name="Copy code").click()
    await expect(page.get_by_role("button", name="Copy code")).to_have_text("Copied")
    await page.close()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == "\tmake <all>\n\n  done"
