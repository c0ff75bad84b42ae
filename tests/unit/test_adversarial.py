"""The penalties against closed forms, the augmentation, and that the game resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shared.architecture import StyleGAN2Architecture
from training.ada import AdaptiveAugmentation, blit, change_colour
from training.adversarial import GAN, path_lengths, r1_penalty
from training.config import AdversarialSettings, StyleGAN2Training
from training.data import Images, ImageSource
from training.discriminator import Discriminator, batch_deviation
from training.stylegan2 import sample, train


def settings(**changes: Any) -> AdversarialSettings:
    defaults = {"steps": 12, "batch": 4, "r1_every": 3, "path_every": 2, "log_every": 1}
    return AdversarialSettings(**(defaults | changes))  # type: ignore[arg-type]


def game(loop: AdversarialSettings) -> GAN:
    torch.manual_seed(0)
    architecture = StyleGAN2Architecture(latent=8, mapping_layers=2, channels=(8, 6))
    return GAN(StyleGAN2Training(architecture=architecture, discriminator=(8, 6), loop=loop))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_r1_of_a_known_discriminator() -> None:
    """D(x) = a·x + b |x|^2 has the gradient a + 2 b x."""
    a, b = torch.randn(3, 4, 4, generator=draws()), torch.tensor(0.7, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, generator=draws(1)).requires_grad_()
    scores = (a * x).sum((1, 2, 3)) + b * x.square().sum((1, 2, 3))
    penalty = r1_penalty(scores, x)
    expected = (a + 2 * b * x.detach()).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    (found,) = torch.autograd.grad(penalty, b)
    (by_hand,) = torch.autograd.grad(expected, b)
    torch.testing.assert_close(found, by_hand)


def test_path_length_of_a_known_generator() -> None:
    """g(w) = M (s w summed over blocks) has the Jacobian s M for every block."""
    matrix = torch.randn(3 * 4 * 4, 6, generator=draws())
    scale = torch.tensor(1.3, requires_grad=True)
    w = torch.randn(5, 2, 6, generator=draws(1)).requires_grad_()
    direction = torch.randn(5, 3, 4, 4, generator=draws(2))
    images = (scale * w.sum(1) @ matrix.T).reshape(5, 3, 4, 4)
    lengths = path_lengths(images, w, direction)
    expected = scale * (direction.flatten(1) @ matrix).norm(dim=1) / 4  # sqrt(4 * 4)
    torch.testing.assert_close(lengths, expected)
    (found,) = torch.autograd.grad(lengths.sum(), scale)
    torch.testing.assert_close(found, (expected / scale).sum().detach())


def test_path_penalty_moves_its_mean_and_reaches_the_generator() -> None:
    gan = game(settings())
    penalty = gan.path(4, draws())
    assert float(gan.path_mean) > 0
    penalty.backward()
    gradient = gan.generator.blocks[0].conv.conv.conv.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, Tensor)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_descending_its_loss_helps_the_player(player: str) -> None:
    gan = game(settings(mixing=0.5))
    real = torch.rand(8, 3, 8, 8, generator=draws()) * 2 - 1

    def terms() -> dict[str, Tensor]:
        if player == "generator":
            return gan.generator_terms(8, draws(1), path=False)
        return gan.discriminator_terms(real, draws(1), r1=False)

    optimiser = torch.optim.Adam(getattr(gan, player).parameters(), 1e-3)
    first = terms()
    first["loss"].backward()
    optimiser.step()
    assert terms()["loss"] < first["loss"]
    if player == "discriminator":
        after = terms()
        margins = [float(t["D(real)"] - t["D(fake)"]) for t in (first, after)]
        assert margins[1] > margins[0]


def test_discriminator_is_of_one_mind_about_an_image_but_sees_the_group() -> None:
    torch.manual_seed(0)
    network = Discriminator((8, 6))
    x = torch.randn(8, 3, 8, 8)
    assert network(x).shape == (8,)
    assert float(batch_deviation(x[:1].expand(4, -1, -1, -1)).max()) == pytest.approx(1e-4)
    groups = batch_deviation(x)[:, 0, 0, 0]
    for i in range(8):  # image i is with those of its parity
        expected = x[i % 2 :: 2].var(0, unbiased=False).add(1e-8).sqrt().mean()
        torch.testing.assert_close(groups[i], expected)


def test_augmentation_is_the_identity_at_zero_and_each_kind_happens_at_its_rate() -> None:
    x = torch.rand(4000, 3, 8, 8, generator=draws())
    assert AdaptiveAugmentation(0.6, 1000)(x, draws()) is x
    changed = (change_colour(x, 0.2, draws(1)) - x).abs().amax((1, 2, 3)) > 1e-4
    assert float(changed.float().mean()) == pytest.approx(1 - 0.8**4, abs=0.03)
    turned = (blit(x, 0.2, draws(2)) != x).any(3).any(2).any(1)
    # A quarter of the turns are by nothing, and a ninth of the shifts.
    assert float(turned.float().mean()) == pytest.approx(1 - 0.85 * (1 - 0.2 * 8 / 9), abs=0.03)


def test_blits_turn_and_shift() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2000, 3, 8, 8)
    moved = blit(x, 1.0, draws())
    kinds: set[int] = set()
    for image in moved[:200, 0]:
        interior = image[1:-1, 1:-1]
        matches = [
            (turn, dy, dx)
            for turn in range(4)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if torch.equal(torch.rot90(x[0, 0], turn).roll((dy, dx), (0, 1))[1:-1, 1:-1], interior)
        ]
        assert len(matches) == 1
        kinds.add(matches[0][0])
    assert kinds == {0, 1, 2, 3}


def test_colours_keep_grey_in_its_place() -> None:
    """Hue and saturation leave grey as it is; brightness and contrast map it to another grey."""
    grey = torch.rand(50, 1, 4, 4, generator=draws()).expand(-1, 3, -1, -1)
    other = change_colour(grey, 1.0, draws(1))
    torch.testing.assert_close(other, other[:, :1].expand_as(other), atol=1e-5, rtol=0)
    slope = (other[:, 0, 0, 0] - other[:, 0, 1, 1]) / (grey[:, 0, 0, 0] - grey[:, 0, 1, 1])
    assert (slope > 0).all()
    assert slope.log2().std() == pytest.approx(0.5, abs=0.15)


def test_the_controller_follows_the_sign_of_real_scores() -> None:
    ada = AdaptiveAugmentation(target=0.6, images=100)
    ada.observe(torch.tensor([1.0, 2.0, 3.0, 0.1]))
    assert ada.adapt() == pytest.approx(1)
    assert float(ada.p) == pytest.approx(0.04)
    ada.observe(torch.tensor([1.0, -2.0]))
    ada.observe(torch.tensor([1.0, 5.0]))
    assert ada.adapt() == pytest.approx(0.5)
    assert float(ada.p) == pytest.approx(0)
    ada.observe(-torch.ones(4))
    ada.adapt()
    assert float(ada.p) == 0


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{index}.png")
    return Images(ImageSource(folder), 8)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(faces: Images, tmp_path: Path) -> None:
    """Both players, both optimisers, averages and the augmentation are all in the checkpoint."""

    def run(folder: str, steps: int) -> dict[str, Tensor]:
        loop = settings(steps=steps, ada_images=50)
        trained, done = train(game(loop), faces, loop, tmp_path / folder, lambda *_: {})
        assert done == steps
        return {name: tensor.clone() for name, tensor in trained.state_dict().items()}

    whole = run("whole", 12)
    early = run("stopped", 5)
    resumed = run("stopped", 12)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0, msg=name)
    assert not torch.equal(early["constant"], whole["constant"])

    again, done = train(
        game(settings(steps=3)), faces, settings(steps=3), tmp_path / "stopped", lambda *_: {}
    )
    assert done == 12, "fewer steps than the checkpoint has: nothing is trained"
    torch.testing.assert_close(again.state_dict()["constant"], whole["constant"], rtol=0, atol=0)


def test_samples_do_not_depend_on_the_batch() -> None:
    gan = game(settings())
    torch.testing.assert_close(
        sample(gan.generator, 3, seed=5), sample(gan.generator, 3, seed=5), rtol=0, atol=0
    )
    images = sample(gan.generator, 5, batch=2)
    assert images.shape == (5, 3, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
