"""The pages of documentation as a running gateway serves them."""

import re

import pytest
from aiohttp import hdrs

from moorline.gateway.site.docs import PAGES, title_of
from tests.gateway.conftest import StartGateway


@pytest.mark.parametrize("name", PAGES)
async def test_each_page_is_served_with_its_links_within_the_gateway(start_gateway: StartGateway, name: str) -> None:
    gateway = await start_gateway(9)
    response = await gateway.get(f"/-/docs/{name}")
    assert (response.status, response.content_type) == (200, "text/html")
    page = await response.text()
    assert f"<h1>{title_of(name)}</h1>" in page
    links = re.findall(r'href="([^"]*)"', page)
    assert [link for link in links if not re.match(r"https?://|/docs|/-/docs/|#", link)] == []
    for link in {link for link in links if link.startswith("/-/docs/")}:
        assert (await gateway.get(link)).status == 200


async def test_a_link_to_a_heading_leads_to_one(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    pages = {name: await (await gateway.get(f"/-/docs/{name}")).text() for name in PAGES}
    for page in pages.values():
        for name, anchor in re.findall(r'href="/-/docs/([\w-]+)#([\w-]+)"', page):
            assert f'id="{anchor}"' in pages[name]


async def test_a_page_may_load_and_run_nothing(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    response = await gateway.get("/-/docs")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert response.headers[hdrs.CACHE_CONTROL] == "no-cache"


async def test_a_page_that_does_not_exist_is_a_404(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    assert (await gateway.get("/-/docs/settings")).status == 404
