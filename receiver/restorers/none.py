"""No restoration: DeepJSCC alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from receiver.restorers.base import Trajectory, from_unit
from shared.bundle import FieldPath
from shared.draws import DiffusionNoise


class NoRestorer:
    """Gives the decoded image back; its trajectories are done from the start."""

    name = "none"
    summary = "the DeepJSCC decoder's image as it is"
    default_steps = 0
    max_steps = 0
    ignores: frozenset[FieldPath] = frozenset(
        {("inns",), ("prior",), ("generator",), ("guidance",), ("fast",)}
    )

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        """A trajectory without steps that ends at ``y``."""
        image = from_unit(y)
        return Trajectory(x=image, x0=image, guide=image, snr_db=snr_db, times=[], noise=noise)

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Never asked for."""
        return None

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Never asked for."""
