"""Benchmarks run and report; what they find is nothing for a tiny bundle and a busy machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "findings"),
    [
        ("step_cost", ("--restorer", "commin"), 1),
        ("engine", ("--restorer", "commin"), 3),
        ("link", (), 2),
        ("channel", (), 1),
        ("memory", (), 1),
    ],
)
def test_a_quick_run_reports_ratios(
    bundle: Path, name: str, options: tuple[str, ...], findings: int
) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--bundle", str(bundle)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == name
    assert len(result["findings"]) >= findings
    assert all(0 < each["ratio"] < 1e4 for each in result["findings"])
    assert "processor" in result["machine"]
