"""One question to one server, hop by hop, each timed."""

from collections.abc import Callable

from moorline.gateway.check.address import ProbeOptions, parse_address, port_of
from moorline.gateway.check.reach import reach
from moorline.gateway.check.verdicts import Step

__all__ = ["follow"]


def follow(
    url: str,
    on_step: Callable[[Step], None] = lambda step: None,
    *,
    options: ProbeOptions | None = None,
    moorline: bool = False,
) -> list[Step]:
    """The hops to an answer from `url`, up to the first that fails, each handed to `on_step` as soon as it is over.

    A gateway is `moorline`; a backend need not be.

    Raises:
        UsageError: `url` is no address.
    """
    target, options = parse_address(url), options or ProbeOptions()
    steps: list[Step] = []

    def add(step: Step) -> None:
        steps.append(step)
        on_step(step)

    for step in reach(target.hostname or "", port_of(target), options.hop_timeout):
        add(step)
    if steps[-1].failure is None:
        # With asyncio, TLS and an HTTP client, which nothing needs where nothing listens.
        from moorline.gateway.common.web.authorities import import_aiohttp

        import_aiohttp()
        from moorline.gateway.check.probe import ask

        ask(target, add, options, moorline=moorline)
    return steps
