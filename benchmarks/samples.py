"""Pictures what a bundle's two generative models make of noise alone, for the model card.

python -m benchmarks.samples PNG [--bundle DIR] [--count 12] [--steps 100] [--seed 0]

Rows: the diffusion prior, unconditionally on a respaced schedule; the StyleGAN-2 generator, if the
bundle has one. Nothing is picked out: the samples are the first of the seed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.utils import save_image

from benchmarks.common import parser
from receiver.models import load_receiver
from shared.bundle import Bundle, BundleError
from shared.weights import pick_device
from training import prior, stylegan2


def main() -> None:
    """Writes the picture."""
    options = parser(__doc__)
    options.add_argument("png", type=Path)
    options.add_argument("--count", type=int, default=12, help="samples of each model")
    options.add_argument("--steps", type=int, default=100, help="denoising steps of the prior")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    bundle = Bundle.open(arguments.bundle)
    models = load_receiver(bundle, pick_device())
    count, seed = arguments.count, arguments.seed
    rows = []
    if models.prior:
        size = bundle.manifest.jscc.architecture.image_size
        rows.append(prior.sample(models.prior, count, size, arguments.steps, seed))
    if models.generator:
        rows.append(stylegan2.sample(models.generator, count, seed))
    if not rows:
        raise BundleError(f"bundle {arguments.bundle} has neither prior nor generator")
    save_image(torch.cat(rows), arguments.png, nrow=count)


if __name__ == "__main__":
    main()
