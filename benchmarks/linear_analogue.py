"""PSNR of the optimal linear analogue scheme, the reference that DeepJSCC has to beat.

python -m benchmarks.linear_analogue TRAIN VALIDATION [--symbols 256] [--size 64]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.baselines.linear import LinearAnalogue
from training.data import load_all
from training.jscc import SNRS_DB, psnr_db


def main() -> None:
    """Prints one line for each SNR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--symbols", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    scheme = LinearAnalogue.fit(load_all(arguments.train, arguments.size), arguments.symbols)
    x = load_all(arguments.validation, arguments.size)
    for snr_db in SNRS_DB:
        y = scheme.send(x, snr_db, range(len(x)), seed=0)
        print(f"{snr_db:+.0f} dB: PSNR {psnr_db(x, y):.2f} dB over {len(x)} images")


if __name__ == "__main__":
    main()
