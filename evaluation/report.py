"""``report.html``: a sweep's figures, means and provenance in one file that needs no other."""

from __future__ import annotations

import base64
import html
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from matplotlib.figure import Figure

from evaluation.figures import render
from evaluation.tables import Interval, Summary

PACKAGES = ("commin", "torch", "numpy", "diffusers", "lpips", "torchmetrics", "pillow")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e6e6e6 }
th:first-child, td:first-child { text-align: left }
td small { color: #666 }
.wide { overflow-x: auto }
code { white-space: pre-wrap; overflow-wrap: anywhere }
"""
METRIC_HEADINGS = {"psnr_db": "PSNR / dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS"}
SET_HEADINGS = {  # and digits
    "frechet_alexnet": ("Fréchet (AlexNet)", 3),
    "kernel_alexnet": ("kernel (AlexNet)", 5),
    "fid": ("FID", 2),
    "kid": ("KID", 5),
}


def report(
    summaries: Sequence[Summary],
    figures: Mapping[str, Figure],
    provenance: Mapping[str, str],
) -> str:
    """The page.

    Arguments:
        summaries: What to tabulate.
        figures: By caption.
        provenance: What the numbers come from, by name.
    """
    body = ["<h1>Image communication over a noisy channel</h1>"]
    for caption, figure in figures.items():
        data = base64.b64encode(render(figure, "png")).decode()
        text = html.escape(caption)
        body += [f"<h2>{text}</h2>", f'<img alt="{text}" src="data:image/png;base64,{data}">']
    body += ["<h2>Means</h2>", _explanation(summaries), _means(summaries)]
    body += ["<h2>Where the numbers come from</h2>", _pairs(provenance)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>commin evaluate</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def environment() -> dict[str, str]:
    """The software and the machine, by name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _explanation(summaries: Sequence[Summary]) -> str:
    first = summaries[0]
    text = (
        f"Over {first.n} images and {first.seeds} seed{'s' if first.seeds > 1 else ''}, with 95% "
        "confidence intervals of the mean (percentile bootstrap over images)."
    )
    if first.distances:
        text += " The distances that are over AlexNet features cannot be compared with FID and KID."
    if "fid" in first.distances and first.distances["fid"] is None:
        text += " FID is left out: there are fewer images than it has features, 2048."
    return f"<p>{text}</p>"


def _means(summaries: Sequence[Summary]) -> str:
    headings = ["scheme", "SNR / dB", *METRIC_HEADINGS.values(), "s / image"]
    headings += [SET_HEADINGS[name][0] for name in summaries[0].distances]
    rows = ["".join(f"<th>{heading}</th>" for heading in headings)]
    for summary in summaries:
        cells = [html.escape(summary.restorer), f"{summary.snr_db:g}"]
        for metric in METRIC_HEADINGS:
            cells.append(_interval(summary.metrics[metric], 2 if metric == "psnr_db" else 4))
        cells.append(f"{summary.seconds_per_image:.3g}")
        for name, distance in summary.distances.items():
            cells.append("" if distance is None else f"{distance:.{SET_HEADINGS[name][1]}f}")
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return (
        '<div class="wide"><table>' + "".join(f"<tr>{row}</tr>" for row in rows) + "</table></div>"
    )


def _interval(interval: Interval, digits: int) -> str:
    mean = f"{interval.mean:.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} <small>[{interval.low:.{digits}f}, {interval.high:.{digits}f}]</small>"


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = [
        f"<tr><td>{html.escape(name)}</td>"
        f'<td style="text-align: left"><code>{html.escape(value)}</code></td></tr>'
        for name, value in pairs.items()
    ]
    return f"<table>{''.join(rows)}</table>"
