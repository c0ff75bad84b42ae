"""What the benchmarks share: ratios within one run, and how results are kept and shown."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
TABLE = FOLDER / "RESULTS.md"
BUNDLE = FOLDER.parent / "models" / "faces64"

Bar = Literal["at least", "at most"]


@dataclass(frozen=True)
class Finding:
    """One figure.

    Attributes:
        name: What was measured, and against which reference.
        ratio: The figure; without a unit, as its reference was measured in the same run.
        bar: What the ratio is to be; None where nothing is demanded.
        limit: Of the bar.
        details: Absolute figures, which depend on the machine; keys name their units.
    """

    name: str
    ratio: float
    bar: Bar | None = None
    limit: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached."""
        if self.bar is None:
            return None
        return self.ratio >= self.limit if self.bar == "at least" else self.ratio <= self.limit


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parsed = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsed.add_argument("--quick", action="store_true", help="only show that it runs")
    parsed.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    parsed.add_argument("--bundle", type=Path, default=BUNDLE, help="folder of the bundle")
    return parsed


def machine() -> dict[str, str]:
    """The processor, and versions that figures depend on."""
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "grpcio", "diffusers")}
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    } | versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def seconds(work: Callable[[], object]) -> float:
    """What ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(
    first: Callable[[], float], second: Callable[[], float], repetitions: int
) -> list[tuple[float, float]]:
    """Measures two things alternately, so that whatever else runs disturbs both.

    Which of the two goes first alternates, too.
    """
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return pairs


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median over repetitions of first over second."""
    return statistics.median(a / b for a, b in pairs)


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median of each side."""
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def report(script: str, findings: Sequence[Finding], arguments: argparse.Namespace) -> None:
    """Prints the findings; with ``--write`` keeps them and makes ``RESULTS.md`` anew."""
    name = Path(script).stem
    result = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": arguments.quick,
        "machine": machine(),
        "findings": [asdict(finding) for finding in findings],
    }
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print("\n".join(_rows(findings)))
    print(json.dumps(result), flush=True)
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        TABLE.write_text(table())


def table() -> str:
    """``RESULTS.md``, made of everything in ``results``."""
    parts = [
        "# Benchmark results\n\nMade by `make bench ARGS=--write`; `peers` and `restoration`, "
        "which take data and most of an hour, by `python -m benchmarks.NAME VAL --write`. Every "
        "ratio compares two things measured in the same run: in turns and as the median of several "
        "repetitions, but for those two, which send each image once. Absolute figures are those of "
        "the machine named.\n"
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
        quick = " (quick: a smoke test, not a measurement)" if result["quick"] else ""
        parts.append(f"## {result['benchmark']}\n\n{result['date']}{quick}; {about}\n")
        parts.append("\n".join(_rows([Finding(**each) for each in result["findings"]])) + "\n")
    return "\n".join(parts)


def _rows(findings: Sequence[Finding]) -> list[str]:
    rows = ["| what | ratio | bar | reached | details |", "|---|---:|---|---|---|"]
    for each in findings:
        bar = f"{each.bar} {each.limit:g}" if each.bar else ""
        reached = {True: "yes", False: "no", None: ""}[each.holds]
        details = ", ".join(f"{key}: {_short(value)}" for key, value in each.details.items())
        rows.append(f"| {each.name} | {each.ratio:.3g} | {bar} | {reached} | {details} |")
    return rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
