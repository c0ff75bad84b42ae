"""Everything that a receiver computes with, loaded from a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from receiver.decoder import Decoder
from receiver.inn import INN
from receiver.precision import compile_network, compute_in, pick_dtype
from receiver.prior import Prior, load_prior
from receiver.settings import Precision
from receiver.stylegan2 import StyleGAN2, load_generator
from shared.bundle import Bundle, FastSampling, Guidance, nearest
from shared.weights import load_weights


@dataclass(frozen=True)
class ReceiverModels:
    """Networks in evaluation mode on one device.

    ``inns`` are keyed by the SNR in dB that each imitates; the key of a conditioned one is None.
    A bundle without INN, prior, guidance or generator serves restorers that need none. ``dtype`` is
    what INNs and prior compute in where no gradient is wanted; all of them take and give float32.
    """

    device: torch.device
    symbols: int
    decoder: Decoder
    inns: dict[float | None, INN]
    prior: Prior | None
    guidance: Guidance | None
    dtype: torch.dtype = torch.float32
    generator: StyleGAN2 | None = None
    fast: Mapping[str, FastSampling] = field(default_factory=dict)

    def inn_for(self, snr_db: float) -> INN:
        """The conditioned INN if there is one, else the one whose SNR is nearest."""
        if None in self.inns:
            return self.inns[None]
        return nearest({snr: inn for snr, inn in self.inns.items() if snr is not None}, snr_db)


def load_receiver(
    bundle: Bundle,
    device: torch.device,
    precision: Precision = "fp32",
    compile_prior: bool = False,
) -> ReceiverModels:
    """Loads a bundle's receiving side.

    Arguments:
        bundle: What to load.
        device: Where to compute.
        precision: Of prior and INNs.
        compile_prior: Run the prior through ``torch.compile``: its first runs take minutes.

    Raises:
        BundleError: If a file does not fit the architecture that the manifest states.
    """
    manifest, folder = bundle.manifest, bundle.folder
    jscc = manifest.jscc
    inns = {
        part.snr_db: load_weights(INN(part.architecture), folder / part.file, device)
        for part in manifest.inns
    }
    prior, dtype = _load_prior(bundle, device) if manifest.prior else None, torch.float32
    if prior:
        dtype = pick_dtype(precision, prior, jscc.architecture.image_size)
        compute_in(dtype, prior, inns.values())
        if compile_prior:
            compile_network(prior)
    return ReceiverModels(
        device=device,
        symbols=jscc.architecture.symbols,
        decoder=load_weights(Decoder(jscc.architecture), folder / jscc.decoder, device),
        inns=inns,
        prior=prior,
        guidance=manifest.guidance,
        fast=manifest.fast,
        dtype=dtype,
        generator=_load_generator(bundle, device) if manifest.generator else None,
    )


def _load_prior(bundle: Bundle, device: torch.device) -> Prior:
    part = bundle.manifest.prior
    assert part is not None
    inside = bundle.folder / part.source
    return load_prior(inside if inside.is_dir() else part.source, part.patch_size, device)


def _load_generator(bundle: Bundle, device: torch.device) -> StyleGAN2:
    part = bundle.manifest.generator
    assert part is not None
    return load_generator(part.architecture, bundle.folder / part.file, device)
