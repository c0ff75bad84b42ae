"""A bundle is used only if it is what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from receiver.models import load_receiver
from receiver.stylegan2 import StyleGAN2
from shared.architecture import JSCCArchitecture, StyleGAN2Architecture
from shared.bundle import Bundle, BundleError, Guidance, write_manifest
from shared.weights import save_weights
from tests.tiny import CPU, jscc_sizes
from transmitter.encoder import Encoder, load_encoder

ARCHITECTURE = jscc_sizes(16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from receiver.decoder import Decoder

    torch.manual_seed(0)
    save_weights(Encoder(ARCHITECTURE), tmp_path / "encoder.safetensors")
    save_weights(Decoder(ARCHITECTURE), tmp_path / "decoder.safetensors")
    write_manifest(
        tmp_path,
        {
            "name": "tiny",
            "snr_range_db": (-5, 5),
            "jscc": {"architecture": ARCHITECTURE.model_dump()},
        },
    )
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_survive_the_round_trip(folder: Path) -> None:
    encoder = load_encoder(Bundle.open(folder), CPU)
    torch.manual_seed(0)
    original = Encoder(ARCHITECTURE)
    for name, value in original.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_bundle_without_a_prior_serves_what_it_can(folder: Path) -> None:
    models = load_receiver(Bundle.open(folder), CPU)
    assert models.prior is None
    assert not models.inns


def add_generator(folder: Path, sizes: StyleGAN2Architecture) -> StyleGAN2:
    torch.manual_seed(0)
    generator = StyleGAN2(sizes)
    save_weights(generator, folder / "generator.safetensors")
    fields = json.loads((folder / "bundle.json").read_text())
    write_manifest(folder, fields | {"generator": {"architecture": sizes.model_dump()}})
    return generator


def test_a_generator_survives_the_round_trip(folder: Path) -> None:
    sizes = StyleGAN2Architecture(latent=4, channels=(4, 4, 4))
    original = add_generator(folder, sizes)
    found = load_receiver(Bundle.open(folder), CPU).generator
    assert found is not None
    assert found.architecture == sizes
    w = torch.randn(2, 3, 4)
    noise = [torch.zeros(2, *shape) for shape in found.noise_shapes]
    torch.testing.assert_close(found(w, noise), original(w, noise), atol=2e-2, rtol=1e-2)


def test_a_generator_is_vouched_for_and_of_the_links_size(folder: Path) -> None:
    add_generator(folder, StyleGAN2Architecture(latent=4, channels=(4, 4, 4)))
    fields = json.loads((folder / "bundle.json").read_text())
    files = dict(fields["files"])
    del files["generator.safetensors"]
    edit(folder, files=files)
    with pytest.raises(BundleError, match=r"no sha256 in 'files' for generator\.safetensors"):
        Bundle.open(folder)
    small = {"latent": 4, "mapping_layers": 4, "channels": [4, 4]}
    edit(folder, files=fields["files"], generator={"architecture": small})
    with pytest.raises(BundleError, match="generator's images have 8 pixels, the link's 16"):
        Bundle.open(folder)


def test_one_changed_byte_is_noticed(folder: Path) -> None:
    path = folder / "decoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"decoder\.safetensors has sha256"):
        Bundle.open(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(BundleError, match=r"encoder\.safetensors is missing"):
        Bundle.open(folder)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        Bundle.open(tmp_path / "nowhere")


def test_a_file_outside_the_bundle_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes(b"secret")
    files = json.loads((folder / "bundle.json").read_text())["files"]
    edit(folder, files=files | {"../outside.safetensors": "0" * 64})
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"surprise": 1}, "surprise"),
        ({"power": -1}, "power"),
        ({"format": 2}, "format"),
        ({"files": {}}, "no sha256"),
        ({"name": "Not A Name"}, "name"),
        ({"inns": [{"architecture": {}, "file": "encoder.safetensors"}]}, "snr_conditioned"),
    ],
)
def test_a_wrong_manifest_names_the_field(folder: Path, changes: dict[str, Any], text: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=text):
        Bundle.open(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    other = ARCHITECTURE.model_dump() | {"channels": [8, 16]}
    edit(folder, jscc={"architecture": other})
    with pytest.raises(BundleError, match="do not fit"):
        load_encoder(Bundle.open(folder), CPU)


def test_the_digest_follows_the_weights(folder: Path) -> None:
    before = Bundle.open(folder).codec_digest
    save_weights(Encoder(ARCHITECTURE), folder / "encoder.safetensors")
    write_manifest(folder, json.loads((folder / "bundle.json").read_text()))
    assert Bundle.open(folder).codec_digest != before


def test_zeta_is_that_of_the_nearest_snr() -> None:
    guidance = Guidance(zeta_by_snr_db={-5.0: 0.3, 1.0: 0.4, 5.0: 0.5})
    assert [guidance.zeta(snr) for snr in (-9, -5, 0, 2.9, 3.1, 20)] == [
        0.3,
        0.3,
        0.4,
        0.4,
        0.5,
        0.5,
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        {"image_size": 30, "channels": (8, 8), "symbols": 8},
        {"image_size": 16, "channels": (8, 8), "symbols": 7},
        {"image_size": 16, "channels": (), "symbols": 8},
        {"image_size": 16, "channels": (8, 8), "symbols": 8, "linear": {"thumbnail": 5}},
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"multiple|evenly|at least 1|thumbnail"):
        JSCCArchitecture(**sizes)
