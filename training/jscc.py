"""Trains the DeepJSCC encoder and decoder end to end, eq. (6)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter
from torchvision.utils import make_grid

from channel.awgn import awgn
from receiver.decoder import Decoder
from training.config import TrainingConfig
from training.data import Images, ImageSource, load_all
from training.linear_start import start_linear
from training.loop import train
from transmitter.encoder import Encoder

LINEAR_IMAGES = 40_000  # as many as the linear start's components are computed from
SNRS_DB = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)  # the paper's, section 4


class JSCC(nn.Module):
    r"""Encoder, channel and decoder: :math:`y = g_\phi(\eta(f_\theta(x), \sigma^2))`, eq. (7)."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.power = config.power
        self.snr_range_db = config.jscc.snr_range_db
        self.encoder = Encoder(config.jscc.architecture, config.power)
        self.decoder = Decoder(config.jscc.architecture)

    def draw_snr(self, count: int, generator: torch.Generator) -> Tensor:
        """SNRs drawn evenly from the trained range, in dB, (count,)."""
        low, high = self.snr_range_db
        return torch.rand(count, generator=generator) * (high - low) + low

    def transmit(self, x: Tensor, snr_db: Tensor, generator: torch.Generator) -> Tensor:
        """The decoded images y, (B, 3, H, W), of ``x`` sent at SNRs of shape (B,), in dB."""
        z = self.encoder(x, snr_db)
        noise = torch.randn(z.shape, dtype=z.dtype, generator=generator).to(z.device)
        y: Tensor = self.decoder(awgn(z, snr_db[:, None], noise, self.power), snr_db)
        return y

    def forward(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error (6) with an SNR drawn for each image."""
        snr_db = self.draw_snr(len(x), generator).to(x.device)
        mse = (self.transmit(x, snr_db, generator) - x).square().mean()
        return {"loss": mse}


@torch.no_grad()
def transmit_all(jscc: JSCC, x: Tensor, snr_db: float, seed: int = 0, batch: int = 64) -> Tensor:
    """Sends a whole set at one SNR with fixed noise; returns y, (N, 3, H, W), on the CPU."""
    device = next(jscc.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    rows = [
        jscc.transmit(part.to(device), torch.full((len(part),), snr_db, device=device), generator)
        for part in x.split(batch)
    ]
    return torch.cat(rows).cpu()


def psnr_db(x: Tensor, y: Tensor) -> float:
    """Mean over images of the PSNR in dB, both (N, 3, H, W) in [0, 1]."""
    mse = (x - y).square().mean((1, 2, 3))
    return float((-10 * mse.log10()).mean())


def train_jscc(config: TrainingConfig, data: Path, validation: Path, runs: Path) -> JSCC:
    """Trains (or continues training) DeepJSCC and returns its moving average."""
    size = config.jscc.architecture.image_size
    held_out = load_all(validation, size, limit=256)

    def validate(module: nn.Module, writer: SummaryWriter, step: int) -> dict[str, float]:
        assert isinstance(module, JSCC)
        decoded = {snr: transmit_all(module, held_out, snr) for snr in SNRS_DB}
        shown = [held_out[:8], *(y[:8] for y in decoded.values())]
        writer.add_image("original and decoded by SNR", make_grid(torch.cat(shown), 8), step)
        return {f"PSNR at {snr:g} dB": psnr_db(held_out, y) for snr, y in decoded.items()}

    images = Images(ImageSource(data), size)
    torch.manual_seed(config.jscc.loop.seed)  # of the weights
    jscc = JSCC(config)
    if jscc.encoder.linear and jscc.decoder.linear:
        start_linear(jscc.encoder.linear, jscc.decoder.linear, load_all(data, size, LINEAR_IMAGES))
    result = train(jscc, images, config.jscc.loop, runs / config.name / "jscc", validate)
    assert isinstance(result, JSCC)
    return result
