from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import common, figure_facts
from benchmarks.common import Finding, in_turns, median_ratio, report


@pytest.mark.parametrize(
    ("bar", "ratio", "holds"),
    [("at least", 0.9, True), ("at least", 0.89, False), ("at most", 0.91, False), (None, 1, None)],
)
def test_a_bar_is_reached_or_not(bar: common.Bar | None, ratio: float, holds: bool | None) -> None:
    assert Finding("a / b", ratio, bar, 0.9).holds is holds


def test_the_two_sides_take_turns_in_going_first() -> None:
    order: list[str] = []

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    pairs = in_turns(lambda: side("a", 6.0), lambda: side("b", 2.0), 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert pairs == [(6.0, 2.0)] * 3
    assert median_ratio([(1.0, 1.0), (9.0, 1.0), (2.0, 1.0)]) == 2.0


def test_results_are_kept_and_put_into_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "TABLE", tmp_path / "RESULTS.md")
    for script, ratio in (("two.py", 0.5), ("one.py", 1.0), ("two.py", 0.75)):
        finding = Finding("a / b", ratio, "at least", 0.7, {"a ms": 12.3456})
        report(script, [finding], argparse.Namespace(quick=False, write=True))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["findings"][0]["ratio"] == 0.75
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.index("## one") < text.index("## two")
    assert "| a / b | 0.75 | at least 0.7 | yes | a ms: 12.35 |" in text
    assert "0.5" not in text, "a newer result replaces an older one"
    assert last["machine"]["torch"] in text
    assert last["date"] in text


def test_facts_of_a_sweep(tmp_path: Path) -> None:
    """Times are summed over cells, and are no part of the digest."""
    columns = {"restorer": ["none", "none", "dps:25", "dps:25"], "seconds": [0.5, 0.7, 100.0, 80.0]}
    summary = tmp_path / "summary.csv"
    digests = []
    for seconds, lpips in ((0.6, 0.2), (0.9, 0.2), (0.6, 0.3)):
        header = '"restorer","snr_db","lpips","seconds_per_image","fid"'
        summary.write_text(f'{header}\n"none",-5,{lpips},{seconds},\n')
        rows = figure_facts.facts(pa.table(columns), summary)
        digests.append(rows[3])
    assert rows[1] == "| time of all cells | 3 minutes: `none` 0.0, `dps:25` 3.0 |"
    assert rows[2] == "| seconds an image | `none` 0.6, `dps:25` 90 |"
    assert digests[0] == digests[1] != digests[2]
