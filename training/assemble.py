"""Puts trained parts into a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from receiver.inn import INN
from receiver.models import load_receiver
from receiver.prior import Prior, load_prior
from receiver.stylegan2 import StyleGAN2
from shared.bundle import MANIFEST, Bundle, BundleError, write_manifest
from shared.weights import save_weights
from training.config import TrainingConfig
from training.jscc import JSCC
from transmitter.encoder import load_encoder


def add_jscc(folder: Path, config: TrainingConfig, jscc: JSCC) -> Bundle:
    """Starts a bundle with an encoder and decoder.

    Parts of an earlier bundle there that were trained for another codec are left out.
    """
    save_weights(jscc.encoder, folder / "encoder.safetensors")
    save_weights(jscc.decoder, folder / "decoder.safetensors")
    for stale in folder.glob("inn*.safetensors"):
        stale.unlink()
    manifest = {
        "name": config.name,
        "power": config.power,
        "snr_range_db": config.jscc.snr_range_db,
        "jscc": {"architecture": config.jscc.architecture.model_dump()},
        "training": {"jscc": config.jscc.model_dump(mode="json")},
    }
    old = _fields(folder) if (folder / MANIFEST).exists() else {}
    kept = {part: old.get(part) for part in ("prior", "generator")}
    return write_manifest(folder, manifest | kept)


def add_inns(
    folder: Path, config: TrainingConfig, trained: dict[float | None, INN], scores: dict[str, Any]
) -> Bundle:
    """Adds INNs, by the SNR in dB that each imitates, in the place of those that were there."""
    for stale in folder.glob("inn*.safetensors"):
        stale.unlink()
    parts = []
    for snr_db, inn in trained.items():
        file = "inn.safetensors" if snr_db is None else f"inn{snr_db:+g}dB.safetensors"
        save_weights(inn, folder / file)
        architecture = config.inn.architecture.model_dump()
        parts.append({"architecture": architecture, "snr_db": snr_db, "file": file})
    fields = _fields(folder)
    fields |= {
        "inns": parts,
        "guidance": config.inn.guidance.model_dump(),
        "fast": {name: preset.model_dump() for name, preset in config.inn.fast.items()},
    }
    fields["training"]["inn"] = config.inn.model_dump(mode="json")
    fields["scores"]["inn"] = scores
    return write_manifest(folder, fields)


def add_prior(
    folder: Path, config: TrainingConfig, prior: Prior, training: dict[str, Any] | None = None
) -> Bundle:
    """Adds a prior, as a diffusers folder in half precision.

    Arguments:
        folder: The bundle.
        config: How the prior was trained, unless ``training`` says otherwise.
        prior: The network.
        training: What the manifest shall say of the training.
    """
    shutil.rmtree(folder / "prior", ignore_errors=True)
    architecture = dict(prior.network.config)
    architecture.pop("_name_or_path", None)  # a folder of the machine that it was trained on
    half = UNet2DModel.from_config(architecture)
    half.load_state_dict(prior.network.state_dict())
    half.to(torch.float16).save_pretrained(folder / "prior")
    for file in (folder / "prior").iterdir():
        file.chmod(0o644)  # as in shared.weights
    fields = _fields(folder)
    fields |= {"prior": {"source": "prior", "patch_size": prior.patch_size}}
    fields["training"]["prior"] = training or config.prior.model_dump(mode="json")
    return write_manifest(folder, fields)


def copy_prior(folder: Path, config: TrainingConfig, start: Path) -> Bundle:
    """Adds a prior that was trained elsewhere, with its ``training.json`` if it has one."""
    prior = load_prior(start, config.prior.patch_size, torch.device("cpu"))
    notes = start / "training.json"
    training = json.loads(notes.read_text()) if notes.exists() else {"source": start.name}
    return add_prior(folder, config, prior, training)


def add_pretrained_prior(folder: Path, config: TrainingConfig) -> Bundle:
    """Points the bundle to ``config.prior.pretrained`` instead of carrying a prior."""
    fields = _fields(folder)
    part = {"source": config.prior.pretrained, "patch_size": config.prior.patch_size}
    fields["training"]["prior"] = config.prior.model_dump(mode="json")
    return write_manifest(folder, fields | {"prior": part})


def add_generator(
    folder: Path, config: TrainingConfig, generator: StyleGAN2, scores: dict[str, Any]
) -> Bundle:
    """Adds the StyleGAN-2 generator of InverseJSCC.

    Arguments:
        folder: The bundle.
        config: How the generator was trained.
        generator: The network.
        scores: What the manifest shall say of it.
    """
    assert config.stylegan2 is not None
    save_weights(generator, folder / "generator.safetensors")
    fields = _fields(folder)
    fields["generator"] = {"architecture": generator.architecture.model_dump()}
    fields["training"]["stylegan2"] = config.stylegan2.model_dump(mode="json")
    fields["scores"]["stylegan2"] = scores
    return write_manifest(folder, fields)


def load_link(
    folder: Path, config: TrainingConfig, device: torch.device
) -> tuple[JSCC, Prior | None]:
    """The trained link of a bundle, to train an INN against, and its prior if it has one.

    Raises:
        BundleError: If the bundle cannot be used, or its sizes are not those of ``config``.
    """
    bundle = Bundle.open(folder)
    if bundle.manifest.jscc.architecture != config.jscc.architecture:
        raise BundleError(f"bundle {folder}: its DeepJSCC has other sizes than the configuration")
    receiver = load_receiver(bundle, device)
    jscc = JSCC(config)
    jscc.encoder = load_encoder(bundle, device)
    jscc.decoder = receiver.decoder
    return jscc.eval().requires_grad_(False), receiver.prior


def _fields(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return fields
