"""Dashboards, rules and alerts ask for what the services export, and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.telemetry import ChannelTelemetry, ReceiverTelemetry, TransmitterTelemetry

DEPLOY = Path(__file__).parents[2] / "deploy"
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool"}
WORDS |= {"group_left", "group_right", "inf", "nan"}
# Labels whose values the code enumerates before the first frame; statuses come as they happen.
ENUMERATED = {"stage", "image", "kind"}
# What Prometheus itself adds.
ADDED = {"job", "instance", "le"}

Series = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def exported() -> Series:
    """Every sample name that the services export, with its labels and their values so far."""
    series: Series = {"up": {}}
    for kind in (TransmitterTelemetry, ChannelTelemetry, ReceiverTelemetry):
        telemetry = kind()
        exercise(telemetry)
        text = generate_latest(telemetry.registry).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = series.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    return series


def exercise(telemetry: Any) -> None:
    """Has what only calls create appear, the way the interceptor does."""
    telemetry.calls.labels("Transmit", "OK")
    telemetry.sessions.labels("Transmit")
    telemetry.sessions.labels("Propagate")
    for direction in ("received", "sent"):
        telemetry.message_bytes.labels(direction)


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("record") or rule["alert"], rule


def recorded() -> set[str]:
    return {rule["record"] for _, rule in rules() if "record" in rule}


def panels() -> Iterator[tuple[str, str]]:
    dashboards = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
    assert dashboards
    for path in dashboards:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]


EXPRESSIONS = [(name, rule["expr"]) for name, rule in rules()] + list(panels())


def metrics(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", bare)
    return set(names) - WORDS


def selectors(expression: str) -> Iterator[tuple[str, str, str, str]]:
    """(metric, label, operator, value) of each matcher."""
    for name, inside in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside):
            yield name, label, operator, value


def test_the_parser_finds_metrics() -> None:
    expression = (
        'sum by (le) (rate(a_bucket{x="b_c"}[5m])) / scalar(d:e) and on() f > 0.5 or vector(0)'
    )
    assert metrics(expression) == {"a_bucket", "d:e", "f"}


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_metric_is_exported(where: str, expression: str, exported: Series) -> None:
    used = metrics(expression)
    assert used
    assert not used - exported.keys() - recorded(), where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_label_is_exported(where: str, expression: str, exported: Series) -> None:
    for name, label, operator, value in selectors(expression):
        if name in recorded() or label in ADDED:
            continue
        labels = exported[name]
        assert label in labels, f"{where}: {name} has no label {label}"
        if label in ENUMERATED and operator == "=":
            assert value in labels[label], f"{where}: {name} has no {label}={value}"


def test_every_job_is_scraped() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    jobs = {each["job_name"] for each in config["scrape_configs"]}
    named = {
        job
        for _, expression in EXPRESSIONS
        for _, label, _, value in selectors(expression)
        if label == "job"
        for job in value.split("|")
    }
    assert {"transmitter", "channel", "receiver"} <= named <= jobs


def test_every_recorded_stage_is_measured(exported: Series) -> None:
    """Selectors on recorded series, whose labels come from what they record."""
    stages = exported["commin_stage_duration_seconds_bucket"]["stage"]
    expected = {"encode", "propagate", "queue", "decode", "restore", "first_preview", "end_to_end"}
    assert stages == expected
    for where, expression in EXPRESSIONS:
        for _, label, _, value in selectors(expression):
            if label == "stage":
                assert set(value.split("|")) <= stages, where


def test_every_recording_is_read() -> None:
    read = set().union(*(metrics(expression) for _, expression in EXPRESSIONS))
    assert not recorded() - read


def test_panels_have_room() -> None:
    """No two panels of a dashboard overlap, and none leaves the grid of 24 columns."""
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            box = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(box["x"], box["x"] + box["w"])
                for y in range(box["y"], box["y"] + box["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24, panel["title"]
            taken |= cells
