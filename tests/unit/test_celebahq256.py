"""The paper's experiment as configured: networks of full width, built one at a time."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from receiver.decoder import Decoder
from receiver.diffusion import Step
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.prior import Prior, load_prior
from receiver.restorers.base import Trajectory
from receiver.restorers.commin import CommIN
from shared.draws import DiffusionNoise
from shared.weights import ready
from training.config import TrainingConfig
from transmitter.encoder import Encoder

CONFIG = TrainingConfig.read(
    Path(__file__).parents[2] / "training" / "configs" / "celebahq256.yaml"
)
CPU = torch.device("cpu")
SNR_DB = -5.0

# google/ddpm-celebahq-256's unet/config.json as published, without the library's version.
PUBLISHED = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}


@pytest.fixture(autouse=True)
def one_network_at_a_time() -> Iterator[None]:
    yield
    gc.collect()


def test_the_papers_numbers() -> None:
    architecture = CONFIG.jscc.architecture
    assert architecture.image_size == 256
    assert architecture.channels == (256,) * 4  # F
    assert architecture.symbols == 256  # k
    assert architecture.c_out == 2
    assert architecture.linear is None
    assert round(architecture.bandwidth_ratio, 4) == 0.0013
    assert CONFIG.power == 1
    assert CONFIG.jscc.snr_range_db == (-5, 5)
    assert CONFIG.inn.snrs_db == (-5, -3, -1, 1, 3, 5)
    assert not CONFIG.inn.architecture.snr_conditioned
    assert CONFIG.inn.inverse_weight == 0
    assert CONFIG.inn.guided is None
    assert not CONFIG.inn.guidance.bounded
    zeta = CONFIG.inn.guidance.zeta_by_snr_db
    assert zeta == {-5: 0.3, -3: 0.3, -1: 0.4, 1: 0.4, 3: 0.5, 5: 0.5}
    assert CONFIG.prior.pretrained == "google/ddpm-celebahq-256"
    assert CONFIG.prior.patch_size == 1


def test_the_prior_is_the_published_one() -> None:
    with torch.device("meta"):  # the shapes alone
        configured = UNet2DModel(**CONFIG.prior.network)
        published = UNet2DModel.from_config(PUBLISHED)
    assert {name: configured.config[name] for name in PUBLISHED} == PUBLISHED
    assert public(configured) == public(published)  # diffusers' defaults for all else agree too
    assert sum(parameter.numel() for parameter in configured.parameters()) == 113_673_219


def public(network: UNet2DModel) -> dict[str, object]:
    return {name: value for name, value in network.config.items() if name[0] != "_"}


@pytest.mark.slow
@torch.inference_mode()
def test_an_image_becomes_256_symbols_and_an_image() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 256, 256)
    snr_db = torch.tensor([SNR_DB])
    z = ready(Encoder(CONFIG.jscc.architecture, CONFIG.power), CPU)(x, snr_db)
    assert z.shape == (1, 256)
    assert z.dtype == torch.complex64
    assert z.abs().square().mean() == pytest.approx(1, rel=1e-5)
    gc.collect()
    y = ready(Decoder(CONFIG.jscc.architecture), CPU)(z, snr_db)
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1
    assert y.std() > 0


@pytest.mark.slow
@torch.inference_mode()
def test_the_inn_splits_and_restores_an_image() -> None:
    torch.manual_seed(0)
    inn = INN(CONFIG.inn.architecture)
    for parameter in inn.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    inn = ready(inn, CPU)
    x = 2 * torch.rand(1, 3, 256, 256) - 1
    snr_db = torch.tensor([SNR_DB])
    c, details = inn(x, snr_db)
    assert c.shape == (1, 3, 64, 64)
    assert [d.shape for d in details] == [(1, 9, 128, 128), (1, 9, 64, 64)]
    assert (c - inn.coarse(x)).abs().max() > 1e-3  # it is more than the plain split
    torch.testing.assert_close(inn.inverse(c, details, snr_db), x, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_prior_folder_guides_a_step(tmp_path: Path) -> None:
    """The folder is what diffusers would download, but for weights, which are random."""
    torch.manual_seed(0)
    UNet2DModel(**CONFIG.prior.network).save_pretrained(tmp_path / "prior")
    gc.collect()
    written = json.loads((tmp_path / "prior" / "config.json").read_text())
    assert {name: written[name] for name in PUBLISHED} == PUBLISHED
    prior = load_prior(tmp_path / "prior", CONFIG.prior.patch_size, CPU)
    assert isinstance(prior, Prior)

    guidance = CONFIG.inn.guidance
    models = ReceiverModels(
        device=CPU,
        symbols=CONFIG.jscc.architecture.symbols,
        decoder=None,  # type: ignore[arg-type]  # none is resident: the decoded image is given
        inns={SNR_DB: ready(INN(CONFIG.inn.architecture), CPU)},
        prior=prior,
        guidance=guidance,
    )
    restorer = CommIN(models, prior, guidance)
    y = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(1))
    trajectory = restorer.start(y, SNR_DB, 1000, DiffusionNoise(0, 0))
    free = unguided(prior, trajectory)
    restorer.step([trajectory])
    assert trajectory.position == 1
    assert trajectory.x.shape == (3, 256, 256)
    assert trajectory.x.isfinite().all()
    push = trajectory.x - free
    assert 1e-4 < push.square().mean().sqrt() < 0.5


@torch.no_grad()
def unguided(prior: Prior, trajectory: Trajectory) -> torch.Tensor:
    """The state after the next step without guidance, x_{0,t} clamped."""
    step = Step.between([trajectory.time], [trajectory.next_time], CPU)
    x = trajectory.x[None]
    x0 = step.predict_x0(x, prior(x, torch.tensor([trajectory.time]))).clamp(-1, 1)
    return (step.posterior_mean(x, x0) + step.sigma * trajectory.draw())[0]
