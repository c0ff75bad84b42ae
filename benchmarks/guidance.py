"""How guidance is chosen: step sizes of Algorithm 1 and DPS, operating points of commin-fast.

python -m benchmarks.guidance DATA [--first 800] [--limit 32] [--snrs=-5,5]
    [--steps 50] [--zeta 1,2,3,5] [--norm unsquared] [--bounded] [--variance 0,0.5,1]
    [--start 100,250,400] [--blend 1] [--eta 0] [--dps-zeta 1,2,4]

For the model card: every combination is tried on the same images, which are to be others than
those that results are reported on. Prints LPIPS and PSNR of each, SNR by SNR.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.common import parser
from benchmarks.quality import add_options, chosen, measure
from evaluation.local_link import LocalLink
from receiver.models import ReceiverModels
from shared.bundle import Bundle, FastSampling, Guidance, OperatingPoint
from shared.weights import pick_device

FAST = "commin-fast"


def main() -> None:
    """One line for each combination and SNR."""
    options = parser(__doc__)
    add_options(options, first=800, limit=32, snrs="-5,5")
    options.add_argument("--steps", default="50", help="denoising steps")
    for name, default in (
        ("zeta", ""),
        ("start", ""),
        ("blend", "1"),
        ("eta", "0"),
        ("dps-zeta", ""),
    ):
        options.add_argument(f"--{name}", default=default)
    options.add_argument("--norm", default="unsquared")
    options.add_argument("--bounded", action="store_true", help="steps of commin are bounded")
    options.add_argument("--variance", default="0", help="v of the noise of commin, 0 to 1")
    arguments = options.parse_args()
    link = LocalLink(Bundle.open(arguments.bundle), pick_device())
    frames, snrs_db = chosen(arguments, link.image_size)
    loaded = link.models
    for steps in map(int, arguments.steps.split(",")):
        for name, restorer, models in _choices(loaded, arguments, steps):
            link.models = models
            for snr_db in snrs_db:
                quality = measure(link, frames, [snr_db], restorer, steps)
                print(
                    f"{name}, {steps} steps, {snr_db:+g} dB: LPIPS {quality.lpips:.4f}, "
                    f"{quality.psnr_db:.2f} dB, {quality.seconds:.2f} s/image",
                    flush=True,
                )


def _choices(
    models: ReceiverModels, arguments: Namespace, steps: int
) -> Iterator[tuple[str, str, ReceiverModels]]:
    """A description, the restorer to use, and models with the guidance to try."""
    numbers = {
        name: [float(each) for each in getattr(arguments, name).split(",") if each]
        for name in ("zeta", "variance", "start", "blend", "eta", "dps_zeta")
    }
    norms = arguments.norm.split(",")
    for norm, zeta, v in itertools.product(norms, numbers["zeta"], numbers["variance"]):
        guidance = Guidance(
            norm=norm, bounded=arguments.bounded, variance=v, zeta_by_snr_db={0.0: zeta}
        )
        name = f"commin, {norm} norm, zeta {zeta:g}, variance {v:g}"
        yield name, "commin", replace(models, guidance=guidance)
    for zeta in numbers["dps_zeta"]:
        guidance = Guidance(zeta_by_snr_db={0.0: 1.0}, dps_zeta=zeta)
        yield f"dps, zeta {zeta:g}", "dps", replace(models, guidance=guidance)
    for start, blend, eta in itertools.product(*(numbers[n] for n in ("start", "blend", "eta"))):
        point = OperatingPoint(start=int(start), blend=blend, eta=eta)
        fast = {FAST: FastSampling(steps=steps, by_snr_db={0.0: point})}
        name = f"{FAST}, start {start:g}, blend {blend:g}, eta {eta:g}"
        yield name, FAST, replace(models, fast=fast)


if __name__ == "__main__":
    main()
