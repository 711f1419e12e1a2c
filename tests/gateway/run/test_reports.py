"""What is printed at the start of `serve`, and when."""

import asyncio

from moorline.gateway.run.reports import Reports


async def test_the_facts_of_all_parts_are_given_together() -> None:
    reports = Reports(["frontend", "backend"])
    reports.ready("backend", {"backend": "http://127.0.0.1:8000", "model": "gpt"})
    reports.ready("frontend", {"frontend": "http://localhost:5173"})
    facts = await anext(reports.facts())
    assert list(facts.items()) == [
        ("frontend", "http://localhost:5173"),
        ("backend", "http://127.0.0.1:8000"),
        ("model", "gpt"),
    ]


async def test_a_part_that_does_not_report_keeps_the_others_for_a_while_only() -> None:
    reports = Reports(["frontend", "backend"], patience=0.01)
    reports.ready("backend", {"backend": "http://127.0.0.1:8000"})
    assert await anext(reports.facts()) == {"frontend": "not ready yet", "backend": "http://127.0.0.1:8000"}


async def test_a_part_that_failed_is_given_again_when_it_is_ready() -> None:
    reports = Reports(["backend"])
    facts = reports.facts()
    reports.failed("backend")
    assert "did not start" in (await anext(facts))["backend"]
    reports.failed("backend")
    reports.ready("backend", {"backend": "http://127.0.0.1:8000"})
    assert await anext(facts) == {"backend": "http://127.0.0.1:8000"}


async def test_facts_that_did_not_change_are_not_given_again() -> None:
    reports = Reports(["backend"])
    facts = reports.facts()
    reports.ready("backend", {"backend": "http://127.0.0.1:8000"})
    await anext(facts)
    reports.ready("backend", {"backend": "http://127.0.0.1:8000"})
    again = asyncio.ensure_future(anext(facts))
    reports.ready("backend", {"backend": "http://127.0.0.1:8001"})
    assert await again == {"backend": "http://127.0.0.1:8001"}
