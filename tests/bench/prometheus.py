"""A real Prometheus scrapes both parts: `python -m tests.bench prometheus`.

It loads the alerts of nginx/, checked by promtool, and scrapes a gateway and a backend while people chat. It has to
take every series, evaluate every rule and answer every query of the dashboard. Then the backend is stopped, and the
alert for that has to fire; where an alert waits before it fires, seconds stand for its minutes.
"""

import argparse
import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import connect

from tests.bench.processes import environment, free_port, spawned
from tests.bench.services import Service
from tests.support.chat_client import ChatClient
from tests.support.needs import program
from tests.support.nginx import SOURCE, run

__all__ = ["main", "measure"]

_ALERTS = SOURCE / "prometheus" / "moorline-alerts.yaml"
_DASHBOARD = SOURCE / "grafana" / "moorline-dashboard.json"
_PATIENCE = 60.0
_LOOK = 0.25
_FIRES = "MoorlineNoUpstream"
_CONFIGURATION = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yaml]
scrape_configs:
  - {job_name: gateway, static_configs: [{targets: ["127.0.0.1:%d"]}]}
  - {job_name: backend, static_configs: [{targets: ["127.0.0.1:%d"]}]}
"""


class _Prometheus:
    """Its HTTP API."""

    def __init__(self, client: aiohttp.ClientSession, port: int) -> None:
        self._client = client
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    async def get(self, path: str, **query: str) -> Any:
        """The data of an answer; an error names what it says."""
        async with self._client.get(self._url + path, params=query) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise RuntimeError(f"{path} {query}: {answer['error']}")
        return answer["data"]

    async def until(self, expression: str) -> None:
        """Return when a query has a result."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if (await self.get("query", query=expression))["result"]:
                        return
                await asyncio.sleep(_LOOK)


@contextlib.asynccontextmanager
async def _chatting(port: int) -> AsyncIterator[None]:
    """One person who has had an answer, and whose socket stays open."""
    url = f"ws://127.0.0.1:{port}/ws/chat/patient:bench/bench"
    client = ChatClient(lambda: connect(url, proxy=None))
    task = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(_PATIENCE):
            await client.say("Hello?")
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _queries() -> Iterator[tuple[str, str]]:
    """Title and expression of each query of the dashboard, as Grafana fills it in."""
    for panel in json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


async def measure(folder: Path) -> list[str]:
    """What Prometheus found wrong; a line is printed for each step."""
    print(
        f"promtool: {(await run(program('promtool'), 'check', 'rules', str(_ALERTS))).strip().splitlines()[-1].strip()}"
    )
    metrics = {"gateway": free_port(), "backend": free_port()}
    env = {**environment(), "MOORLINE_LOG_LEVEL": "warning"}
    backend = Service("backend", folder, "backend", [f"--metrics-port={metrics['backend']}"], env)
    options = [f"--metrics-port={metrics['gateway']}", f"--upstream={backend.address}"]
    gateway = Service("gateway", folder, "gateway", options, env)
    alerts = re.sub(r"\[1m\]", "[5s]", _ALERTS.read_text(encoding="utf-8"))
    (folder / "alerts.yaml").write_text(re.sub(r"for: \d+m", "for: 2s", alerts), encoding="utf-8")
    (folder / "prometheus.yml").write_text(_CONFIGURATION % tuple(metrics.values()), encoding="utf-8")
    listen = free_port()
    command = (
        program("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/series",
        f"--web.listen-address=127.0.0.1:{listen}",
    )
    try:
        await backend.start()
        await gateway.start()
        async with spawned(command, folder), aiohttp.ClientSession() as client:
            return await _ask(_Prometheus(client, listen), gateway, backend)
    finally:
        await asyncio.gather(gateway.kill(), backend.kill())


async def _ask(prometheus: _Prometheus, gateway: Service, backend: Service) -> list[str]:
    wrong: list[str] = []
    async with _chatting(gateway.port):
        for series in ("rate(moorline_socket_bytes_total[5s]) > 0", "moorline_runs_ended_total > 0"):
            await prometheus.until(series)
        targets = (await prometheus.get("targets"))["activeTargets"]
        wrong += [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] != "up"]
        print(f"scraped: {len(targets)} targets, of {' and '.join(sorted(each['labels']['job'] for each in targets))}")

        groups = (await prometheus.get("rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        wrong += [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
        firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
        wrong += [f"{name} fires while all is well" for name in firing]
        print(f"alerts: {len(rules)} evaluated, {len(firing)} firing")

        empty = []
        for title, expression in _queries():
            try:
                if not (await prometheus.get("query", query=expression))["result"]:
                    empty.append(title)
            except RuntimeError as error:
                wrong.append(f"{title}: {error}")
        count = len(list(_queries()))
        print(f"dashboard: {count} queries answered; without a value yet: {', '.join(sorted(set(empty))) or 'none'}")

        await backend.stop()
        await prometheus.until(f'ALERTS{{alertname="{_FIRES}", alertstate="firing"}}')
        (alert,) = [
            each for each in (await prometheus.get("alerts"))["alerts"] if each["labels"]["alertname"] == _FIRES
        ]
        print(f"backend stopped: {_FIRES} fires: {alert['annotations']['summary']}")
        print(f"  {alert['annotations']['description']}")
    return wrong


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench prometheus", description=(__doc__ or "").split("\n")[0]
    )
    parser.parse_args(arguments)
    if program("prometheus") == "prometheus":
        print("prometheus: not found, apt-get install -y prometheus")
        return 0
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        wrong = asyncio.run(measure(Path(folder)))
    for each in wrong:
        print(f"FAILED {each}")
    return int(bool(wrong))
