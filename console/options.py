"""What options of several commands have in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

# Next to this package in a clone; elsewhere commands need --bundle.
BUNDLE = Path(__file__).parents[1] / "models" / "faces64"

LinkOption = Annotated[
    str,
    typer.Option(
        help="Address of the link's transmitter", metavar="HOST:PORT", envvar="COMMIN_LINK"
    ),
]
TLSCa = Annotated[Path | None, typer.Option(help="PEM file of certificates to trust: use TLS")]
TLSCert = Annotated[Path | None, typer.Option(help="PEM file to show the server (mutual TLS)")]
TLSKey = Annotated[Path | None, typer.Option(help="Private key of --tls-cert")]
BundleOption = Annotated[Path, typer.Option(help="Folder of the model bundle")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**64 - 1, help="Seed of the noise and of diffusion")
]
StepsOption = Annotated[
    int | None,
    typer.Option(min=1, max=2**32 - 1, help="Denoising steps; unset: the restorer's default"),
]


def decibels(text: str) -> float:
    """Parses a finite number of dB."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of dB") from None
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} dB is not finite")
    return value


def decibel_list(text: str) -> list[float]:
    """Parses SNRs such as ``-5,0,5``."""
    return [decibels(part.strip()) for part in text.split(",")]


def seed_list(text: str) -> list[int]:
    """Parses seeds such as ``0,1,2``; one that is named twice counts once."""
    seeds = [part.strip() for part in text.split(",")]
    for seed in seeds:
        if not seed.isdecimal() or int(seed) >= 2**64:
            raise typer.BadParameter(f"{seed!r} is not a seed, expected 0 to 2^64 - 1")
    return list(dict.fromkeys(map(int, seeds)))
