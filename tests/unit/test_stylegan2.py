"""The generator's layers against the formulas that they abbreviate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from receiver.stylegan2 import EqualConv, EqualLinear, ModulatedConv, StyleGAN2, load_generator
from shared.architecture import StyleGAN2Architecture
from shared.bundle import BundleError
from shared.weights import save_weights

ARCHITECTURE = StyleGAN2Architecture(latent=8, mapping_layers=2, channels=(8, 6, 4))


@pytest.fixture
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(ARCHITECTURE)
    for block in network.blocks:
        torch.nn.init.constant_(block.conv.strength, 0.3)  # type: ignore[union-attr, arg-type]
    return network


def noise_of(generator: StyleGAN2, count: int, seed: int = 0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn((count, *shape), generator=draws) for shape in generator.noise_shapes]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_a_convolution_of_its_own_for_each_image(
    up: bool, demodulate: bool
) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(5, 7, 3, 4, up=up, demodulate=demodulate).double()
    x, w = torch.randn(3, 5, 6, 6).double(), torch.randn(3, 4).double()
    got = layer(x, w)
    for image, style, found in zip(x, layer.style(w), got, strict=True):
        weight = layer.conv.weight * layer.conv.scale * style[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            y = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            expected = F.conv2d(y, layer.conv.fir, padding=1, groups=7)[0]
        else:
            expected = F.conv2d(image[None], weight, padding=1)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_demodulated_output_has_unit_variance_whatever_the_style(spread: float) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(64, 32, 3, 16)
    y = layer(torch.randn(8, 64, 32, 32), spread * torch.randn(8, 16))[:, :, 1:-1, 1:-1]
    # Within a channel the weights' own correlation leaves some spread; over all there is none.
    assert float(y.var()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(y.var((2, 3)), torch.ones(8, 32), atol=0.35, rtol=0)


def test_doubling_keeps_a_constant() -> None:
    """The filter's gain makes up for the zeros between samples: a 1x1 kernel is an upsampling."""
    layer = EqualConv(1, 1, 3, bias=False, up=True)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0, 1, 1] = 1 / layer.scale
    y = layer(torch.ones(1, 1, 8, 8))
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    expected = F.interpolate(ramp, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(layer(ramp)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_equalised_layers_start_with_unit_variance() -> None:
    torch.manual_seed(0)
    for rate in (1.0, 0.01):
        layer = EqualLinear(256, 256, rate=rate)
        assert float(layer(torch.randn(64, 256)).std()) == pytest.approx(1, abs=0.05)


def test_gradients(generator: StyleGAN2) -> None:
    """Against finite differences in w and the noise; and every weight has a part in the image."""
    small = generator.double()
    w = torch.randn(1, 3, 8).double().requires_grad_()
    noise = [plane.double().requires_grad_() for plane in noise_of(small, 1)]
    assert torch.autograd.gradcheck(
        lambda w, *noise: small(w, list(noise))[..., ::5, ::5], (w, *noise)
    )
    images = small(small.spread(small.to_w(torch.randn(4, 8).double())), noise)
    images.square().sum().backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_running_from_a_block_on_continues_where_the_first_blocks_stopped(
    generator: StyleGAN2,
) -> None:
    w, noise = torch.randn(2, 3, 8), noise_of(generator, 2)
    whole = generator(w, noise)
    assert whole.shape == (2, 3, 16, 16)
    for block in (1, 2):
        state = generator.run(generator.start(2), w, noise, 0, block)
        torch.testing.assert_close(generator.images(state, w, noise, block), whole)
        other = w.clone()
        other[:, :block] = 0
        torch.testing.assert_close(generator.images(state, other, noise, block), whole)


def test_noise_and_each_style_change_the_image(generator: StyleGAN2) -> None:
    w = torch.randn(1, 3, 8)
    image = generator(w, noise_of(generator, 1))
    assert not torch.allclose(image, generator(w, noise_of(generator, 1, seed=1)))
    for block in range(3):
        other = w.clone()
        other[:, block] += 1
        assert not torch.allclose(image, generator(other, noise_of(generator, 1)))


def test_weights_make_the_round_trip(generator: StyleGAN2, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    generator.w_mean.normal_()
    save_weights(generator, path, torch.float32)
    loaded = load_generator(ARCHITECTURE, path, torch.device("cpu"))
    assert torch.equal(loaded.w_mean, generator.w_mean)
    w, noise = torch.randn(2, 3, 8), noise_of(generator, 2)
    torch.testing.assert_close(loaded(w, noise), generator(w, noise))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    larger = ARCHITECTURE.model_copy(update={"latent": 9})
    with pytest.raises(BundleError, match=r"generator\.safetensors do not fit"):
        load_generator(larger, path, torch.device("cpu"))
