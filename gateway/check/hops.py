"""One question to one server, hop by hop, each timed."""

from collections.abc import Callable

from moorline.gateway.check.address import Asked, parse_address, port_of
from moorline.gateway.check.reach import reach
from moorline.gateway.check.verdicts import Step

__all__ = ["ANSWER_TIMEOUT", "HOP_TIMEOUT", "follow"]

HOP_TIMEOUT = 10.0
# A model may think for a while before it says its first word; people give up at about this time.
ANSWER_TIMEOUT = 60.0


def follow(
    url: str,
    told: Callable[[Step], None] = lambda step: None,
    *,
    hop_timeout: float = HOP_TIMEOUT,
    answer_timeout: float = ANSWER_TIMEOUT,
    moorline: bool = False,
    asked: Asked | None = None,
) -> list[Step]:
    """The hops to an answer from `url`, up to the first that fails, each handed to `told` as soon as it is over.

    A gateway is `moorline`; a backend need not be.

    Raises:
        UsageError: `url` is no address.
    """
    target = parse_address(url)
    steps: list[Step] = []

    def add(step: Step) -> None:
        steps.append(step)
        told(step)

    for step in reach(target.hostname or "", port_of(target), hop_timeout):
        add(step)
    if steps[-1].failure is None:
        # With asyncio, TLS and an HTTP client, which nothing needs where nothing listens.
        from moorline.gateway.common.web.authorities import import_aiohttp

        import_aiohttp()
        from moorline.gateway.check.probe import ask

        ask(target, add, asked or Asked(), hop_timeout, answer_timeout, moorline=moorline)
    return steps
