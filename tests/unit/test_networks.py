"""The networks against their formulas and the sizes that the paper states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from receiver.decoder import Decoder
from shared.architecture import JSCCArchitecture
from shared.nn.af import AFModule
from shared.nn.attention import AttentionBlock
from shared.nn.gdn import GDN
from tests.tiny import jscc_sizes
from transmitter.encoder import Encoder

PAPER = JSCCArchitecture(image_size=256, channels=(256,) * 4, symbols=256)
FACES64 = JSCCArchitecture(
    image_size=64, channels=(48, 96, 192, 256), symbols=256, attention_units=1
)
TINY = jscc_sizes(16)


def gdn_by_the_formula(x: NDArray[Any], layer: GDN) -> NDArray[Any]:
    """Ballé et al., eq. (1) with exponents 2 and 1/2, one element after the other."""
    beta = layer.sqrt_beta.detach().double().numpy() ** 2 + 1e-6
    gamma = layer.sqrt_gamma.detach().double().numpy() ** 2
    y = np.empty_like(x)
    for image, channel, row, column in np.ndindex(*x.shape):
        pooled = beta[channel] + sum(
            gamma[channel, other] * x[image, other, row, column] ** 2 for other in range(x.shape[1])
        )
        norm = np.sqrt(pooled)
        value = x[image, channel, row, column]
        y[image, channel, row, column] = value * norm if layer.inverse else value / norm
    return y


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_its_formula(inverse: bool) -> None:
    torch.manual_seed(0)
    layer = GDN(5, inverse)
    torch.nn.init.normal_(layer.sqrt_beta)  # squares keep beta and gamma positive all the same
    torch.nn.init.normal_(layer.sqrt_gamma)
    x = torch.randn(2, 5, 3, 4)
    wanted = gdn_by_the_formula(x.double().numpy(), layer)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_every_gdn_parameter_learns_from_the_start() -> None:
    layer = GDN(4)
    layer(torch.randn(2, 4, 8, 8)).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).all())


def test_the_af_module_gates_by_snr_and_keeps_signs() -> None:
    torch.manual_seed(0)
    layer = AFModule(8)
    x = torch.randn(2, 8, 4, 4)
    at_low, at_high = layer(x, torch.full((2,), -5.0)), layer(x, torch.full((2,), 5.0))
    assert not torch.allclose(at_low, at_high)
    for scaled in (at_low, at_high):
        gate = (scaled / x).mean((2, 3), keepdim=True)
        assert bool(((gate > 0) & (gate < 1)).all())
        torch.testing.assert_close(scaled, gate * x)


def test_the_af_module_takes_an_snr_for_each_image() -> None:
    layer = AFModule(8)
    x = torch.randn(1, 8, 4, 4).repeat(2, 1, 1, 1)
    mixed = layer(x, torch.tensor([-5.0, 5.0]))
    torch.testing.assert_close(mixed[1:], layer(x[1:], torch.tensor([5.0])))
    assert not torch.allclose(mixed[0], mixed[1])


def test_attention_keeps_the_shape() -> None:
    x = torch.randn(2, 8, 4, 6)
    assert AttentionBlock(8, units=2)(x).shape == x.shape


def test_the_papers_sizes() -> None:
    """Section 4: 256 channel uses for 256x256, c_out = 2, rho = 0.0013."""
    assert PAPER.grid == 16
    assert PAPER.c_out == 2
    assert round(PAPER.bandwidth_ratio, 4) == 0.0013
    assert Encoder(PAPER).head.out_channels == 2


def test_the_sizes_that_ship() -> None:
    assert FACES64.c_out == 32
    assert FACES64.bandwidth_ratio == pytest.approx(1 / 48)


@pytest.mark.parametrize(
    "architecture",
    [TINY, FACES64, pytest.param(PAPER, marks=pytest.mark.slow)],
    ids=["tiny", "faces64", "paper"],
)
@torch.no_grad()
def test_encoder_and_decoder_shapes(architecture: JSCCArchitecture) -> None:
    size = architecture.image_size
    x, snr_db = torch.rand(2, 3, size, size), torch.tensor([-5.0, 5.0])
    z = Encoder(architecture, power=2.0).eval()(x, snr_db)
    assert z.shape == (2, architecture.symbols)
    assert z.dtype == torch.complex64
    np.testing.assert_allclose(z.abs().square().mean(1), 2.0, rtol=1e-5)
    y = Decoder(architecture).eval()(z, snr_db)
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert 0 <= float(y.min()) <= float(y.max()) <= 1


def test_consecutive_reals_pair_as_i_and_q() -> None:
    """The first symbol is the head's first two values, left to right, in the first row."""
    encoder = Encoder(TINY).eval()
    reals: list[torch.Tensor] = []
    encoder.head.register_forward_hook(lambda *hooked: reals.append(hooked[2]))
    with torch.no_grad():
        z = encoder(torch.rand(1, 3, 16, 16), torch.zeros(1))
    first = reals[0][0, 0, 0, :2]
    assert complex(z[0, 0]) == pytest.approx(
        complex(*first.tolist()) * np.sqrt(2 * 16 / 2) / float(reals[0].norm()), rel=1e-4
    )


@torch.no_grad()
def test_batch_mates_change_nothing() -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder(TINY).eval(), Decoder(TINY).eval()
    x, snr_db = torch.rand(4, 3, 16, 16), torch.tensor([-5.0, 0.0, 2.0, 5.0])
    z = encoder(x, snr_db)
    y = decoder(z, snr_db)
    for row in range(4):
        one = slice(row, row + 1)
        torch.testing.assert_close(encoder(x[one], snr_db[one]), z[one])
        torch.testing.assert_close(decoder(z[one], snr_db[one]), y[one])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 100}, "100 is not a multiple of 16"),
        ({"image_size": 0}, "image_size"),
        ({"channels": ()}, "channels"),
        ({"channels": (64, 0)}, "channels"),
        ({"symbols": 100}, "200 reals do not fill a 16 x 16 grid"),
        ({"symbols": -1}, "symbols"),
        ({"symbol": 256}, "symbol"),
    ],
)
def test_sizes_that_disagree_are_refused(changes: dict[str, Any], says: str) -> None:
    sizes: dict[str, Any] = {"image_size": 256, "channels": (256,) * 4, "symbols": 256}
    with pytest.raises(ValidationError, match=says):
        JSCCArchitecture(**sizes | changes)
