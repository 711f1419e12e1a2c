"""The alerts and the dashboard of nginx/: each series, label and value in them is one that the programs have."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from moorline.backend.events import Finish, Usage
from moorline.backend.metrics import Gauges as BackendGauges
from moorline.backend.metrics import Metrics as BackendMetrics
from moorline.backend.run import Figures, Outcome
from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.counts import Gauges, Traffic
from moorline.gateway.metrics import Metrics
from tests.support.needs import program
from tests.support.nginx import SOURCE, run

ALERTS = SOURCE / "prometheus" / "moorline-alerts.yaml"
DASHBOARD = SOURCE / "grafana" / "moorline-dashboard.json"
ALERT = ("alert", "expr", "labels", "annotations")
# What Prometheus adds to each series.
ADDED = {"instance", "job"}
# The values of labels with few of them; of `cause` the letters of `Who`.
VALUES = {
    "reason": {reason.value for reason in Reason},
    "finish": {finish.value for finish in Finish} | {"lost"},
    "outcome": {"opened"},
    "hop": {"client", "upstream"},
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Title and expression of all of them, with Grafana's variable as Grafana fills it in."""
    of_panels = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    filled = [(title, expression.replace("$__rate_interval", "1m")) for title, expression in of_panels]
    return [(rule["alert"], rule["expr"]) for rule in rules()] + filled


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Each series of both programs, with its labels, from what they render after one event of each kind."""
    cause = Cause(Who.UPSTREAM, Reason.RESET, Moment.IDLE)
    gateway = Metrics()
    gateway.set_gauges(
        lambda: Gauges(
            open=1, held=0, buffered=0, traffic=Traffic(), upstreams=[("http://a", 1, False)], certificate_expiry=1.0
        )
    )
    gateway.handshake("opened", 0.1)
    gateway.request("GET", "/", 200, 0.1)
    gateway.failed(cause)
    gateway.round_trip("client", 0.1)
    gateway.ended("upstream", cause, 1006, 1.0)
    backend = BackendMetrics(lambda: BackendGauges(answering=0, waiting=0, sessions_read=0, commits=0))
    backend.run_ended(Outcome(Finish.STOP, usage=Usage(1, 1)), Figures(first=0.1, seconds=1.0, characters=10))
    texts = [gateway.render("")[1].decode(), backend.render("", database_is_up=True)[1].decode()]
    found: dict[str, set[str]] = {}
    for family in (family for text in texts for family in text_string_to_metric_families(text)):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def nodes(expression: str) -> Iterator[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return iter(found)


def selectors(expression: str) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]


@pytest.mark.parametrize(("title", "expression"), queries())
def test_the_programs_have_every_series_and_label_of_a_query(
    series: dict[str, set[str]], title: str, expression: str
) -> None:
    asked = selectors(expression)
    assert asked, title
    for selector in asked:
        assert selector.name in series
        assert {matcher.name for matcher in selector.matchers.matchers} <= series[selector.name]
    labels = set().union(*(series[selector.name] for selector in asked)) | ADDED
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels


@pytest.mark.parametrize(("title", "expression"), queries())
def test_the_values_that_a_query_names_exist(title: str, expression: str) -> None:
    matchers = [matcher for selector in selectors(expression) for matcher in selector.matchers.matchers]
    for matcher in matchers:
        if matcher.name in VALUES:
            assert set(matcher.value.split("|")) <= VALUES[matcher.name], title
        else:
            assert matcher.name == "cause", title
            letters = "".join(who.name[0] for who in Who)
            assert re.fullmatch(rf"[{letters}]\.\*|\[[{letters}]+\]\.\*", matcher.value), title


def test_alerts_and_panels_name_only_labels_that_their_queries_keep() -> None:
    for rule in rules():
        kept = kept_by(rule["expr"])
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert kept is None or named <= kept, rule["alert"]
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = kept_by(target["expr"].replace("$__rate_interval", "1m"))
            assert kept is None or named <= kept, panel["title"]


def kept_by(expression: str) -> set[str] | None:
    """The labels of a query's result: those of its outermost aggregation; None where nothing is aggregated."""
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr):
            return set(node.modifier.labels) if node.modifier is not None else set()
    return None


def test_each_alert_says_what_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


async def test_prometheus_accepts_the_file_of_alerts() -> None:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert document.keys() == {"groups"}
    for group in document["groups"]:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            assert set(ALERT) <= rule.keys() <= {*ALERT, "for"}
            assert re.fullmatch(r"\d+[sm]", rule.get("for", "0s"))
    # A hundred megabytes with what it depends on, so CI does not install it.
    if (promtool := program("promtool")) != "promtool":
        assert "SUCCESS" in await run(promtool, "check", "rules", str(ALERTS))
