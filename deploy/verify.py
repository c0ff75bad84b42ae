"""What deploy/verify.sh does inside a client's container, where Pillow and numpy are."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PROMETHEUS = "http://prometheus:9090"
PATIENCE_SECONDS = 45.0  # Prometheus looks every five
JOBS = {"transmitter", "channel", "receiver", "prometheus"}
STAGES = {"encode", "propagate", "queue", "decode", "restore", "first_preview", "end_to_end"}

Vector = list[tuple[dict[str, str], float]]


class CheckError(Exception):
    """Something is not as it should be."""


def make_images(samples: Path, folder: Path, count: int) -> str:
    """Makes so many different images of the samples: mirrored, and cropped ever closer."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = [Image.open(path).convert("RGB") for path in sorted(samples.glob("*.png"))]
    variants = itertools.product((0, 8, 16, 24), (False, True), originals)
    made = 0
    for border, mirrored, original in itertools.islice(variants, count):
        image = ImageOps.crop(original, border)
        (ImageOps.mirror(image) if mirrored else image).save(folder / f"face-{made:02}.png")
        made += 1
    if made < count:
        raise CheckError(f"{len(originals)} samples give only {made} images")
    return f"{made} images of {len(originals)} samples"


def read_all(folder: Path, pattern: str = "*.png") -> dict[str, Any]:
    """The images of a folder by their names, (H, W, 3) of uint8 each."""
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob(pattern))}


def check_images(folder: Path, count: int) -> str:
    """There are so many results, all different, and restoration changed them."""
    decoded = read_all(folder, "*.decoded.png")
    restored = read_all(folder, "*.restored.png")
    if (len(decoded), len(restored)) != (count, count):
        raise CheckError(f"{len(decoded)} decoded and {len(restored)} restored images, not {count}")
    if len({image.tobytes() for image in restored.values()}) != count:
        raise CheckError("some restored images are the same")
    for name, image in restored.items():
        if np.array_equal(image, decoded[name.replace("restored", "decoded")]):
            raise CheckError(f"{name} is as it was decoded")
    return f"{count} restored images"


def compare(folder: Path, other: Path) -> str:
    """Two folders hold the same images, to a grey level."""
    ours, theirs = read_all(folder), read_all(other)
    if ours.keys() != theirs.keys():
        raise CheckError(f"only in one of them: {', '.join(sorted(ours.keys() ^ theirs.keys()))}")
    off = {name: int(np.abs(ours[name].astype(int) - theirs[name]).max()) for name in ours}
    worst = max(off, key=lambda name: off[name])
    exact = sum(not each for each in off.values())
    if off[worst] > 1:
        raise CheckError(f"{worst} is {off[worst]} grey levels off")
    return f"{len(off)} images, {exact} identical, the others one grey level off at most"


def query(expression: str) -> Vector:
    """An instant query over Prometheus' own API."""
    text = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/query?{text}", timeout=10) as response:
        data = json.load(response)
    return [(each["metric"], float(each["value"][1])) for each in data["data"]["result"]]


def until_right(check: Callable[[], str]) -> str:
    """Repeats the check until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return check()
        except (CheckError, OSError) as error:
            if time.monotonic() > deadline:
                raise CheckError(str(error)) from error
        time.sleep(1)


def targets_are_up(receivers: int) -> str:
    """Prometheus reaches every replica of every service."""
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/targets?state=active") as response:
        active = json.load(response)["data"]["activeTargets"]
    down = [each["scrapeUrl"] for each in active if each["health"] != "up"]
    jobs = [each["labels"]["job"] for each in active]
    if down or set(jobs) != JOBS or jobs.count("receiver") != receivers:
        raise CheckError(f"targets {jobs}, not up: {down}")
    return f"{len(active)} targets up: {', '.join(sorted(jobs))}"


def stages_have_quantiles() -> str:
    """The recording rules give a p95 of every stage."""
    p95 = {
        labels["stage"]: value
        for labels, value in query("stage:commin_stage_duration_seconds:p95")
        if not math.isnan(value)
    }
    if p95.keys() != STAGES:
        raise CheckError(f"no p95 of {', '.join(sorted(STAGES - p95.keys()))}")
    return "p95: " + ", ".join(f"{stage} {p95[stage]:.3g} s" for stage in sorted(p95))


def counters_say(sent: int) -> str:
    """Every service counted what was sent, once."""
    expected = {
        'sum(commin_frames_total{job="transmitter",status="OK"})': sent,
        'sum(commin_frames_total{job="channel",status="OK"})': sent,
        'sum(commin_frames_total{job="receiver",status="OK"})': sent,
        'sum(commin_frames_total{status!="OK"}) or vector(0)': 0,
        'sum(commin_stage_duration_seconds_count{stage="end_to_end"})': sent,
        'sum(commin_stage_duration_seconds_count{stage="restore"})': sent,
        'sum(commin_psnr_decibels_count{image="restored"})': sent,
        "sum(commin_noise_power_ratio_count)": sent,
        "sum(commin_queue_depth)": 0,
        "sum(commin_frames_in_flight)": 0,
    }
    for expression, value in expected.items():
        found = [each for _, each in query(expression)]
        if found != [value]:
            raise CheckError(f"{expression} is {found}, expected {value}")
    deviation = [value for _, value in query("link:commin_snr_deviation_decibels:mean")]
    return f"{sent} frames in all three services, SNR off by {deviation[0]:+.3f} dB on average"


def receivers_share(frames: int) -> str:
    """Each of two receivers got two fifths of the frames or more."""
    expression = 'sum by (instance) (commin_frames_total{job="receiver",status="OK"})'
    counts = sorted(int(value) for _, value in query(expression))
    if len(counts) != 2 or sum(counts) != frames or counts[0] < 0.4 * frames:
        raise CheckError(f"frames by receiver: {counts}, {frames} in all expected")
    return f"frames by receiver: {counts}"


def main() -> None:
    """Runs one check; its result goes to standard output, what is wrong to standard error."""
    checks: dict[str, Callable[..., str]] = {
        "make-images": lambda a, b, n: make_images(Path(a), Path(b), int(n)),
        "images": lambda a, n: check_images(Path(a), int(n)),
        "compare": lambda a, b: compare(Path(a), Path(b)),
        "targets": lambda n: until_right(lambda: targets_are_up(int(n))),
        "stages": lambda: until_right(stages_have_quantiles),
        "counters": lambda n: until_right(lambda: counters_say(int(n))),
        "shares": lambda n: until_right(lambda: receivers_share(int(n))),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=checks)
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    try:
        print(checks[asked.check](*asked.arguments))
    except CheckError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
