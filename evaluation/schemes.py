"""What a sweep compares: ways of bringing images over the channel, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from evaluation.images import Pixels, to_images, to_pixels
from evaluation.local_link import Frame, OnProgress


class SchemeError(ValueError):
    """A scheme that there is not, or that cannot do what is asked; says what can be had."""


class Scheme(Protocol):
    """A way of bringing images over the channel.

    Attributes:
        name: What figures and tables call it.
        steps: Denoising steps of each image; 0 for a scheme that makes none.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def steps(self) -> int:
        """See the class."""

    def identity(self) -> Mapping[str, Any]:
        """What its results depend on besides frames, SNR and seed, as JSON values."""

    def check(self, snr_db: float) -> None:
        """Raises :class:`SchemeError` if it cannot work at an SNR."""

    def send(
        self, frames: Sequence[Frame], snr_db: float, seed: int, on_progress: OnProgress
    ) -> list[Pixels]:
        """What arrives, in the frames' order: a pure function, whatever was sent before."""


class TensorSender(Protocol):
    """A baseline: a whole link of its own, as a function of batches."""

    def send(self, x: Tensor, snr_db: float, frame_ids: Sequence[int], seed: int) -> Tensor:
        """The receiver's images of ``x``, both (N, 3, H, W) in [0, 1]."""


@dataclass(frozen=True)
class TensorScheme:
    """A baseline as a scheme; like the link's, its images are rounded to 8 bits.

    Attributes:
        name: See :class:`Scheme`.
        sender: Computes it.
        depends_on: Its identity.
    """

    name: str
    sender: TensorSender
    depends_on: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """None are made."""
        return 0

    def identity(self) -> Mapping[str, Any]:
        """See :class:`Scheme`."""
        return self.depends_on

    def check(self, snr_db: float) -> None:
        """A closed form works at any SNR."""

    def send(
        self, frames: Sequence[Frame], snr_db: float, seed: int, on_progress: OnProgress
    ) -> list[Pixels]:
        """See :class:`Scheme`."""
        x = to_images([frame.pixels for frame in frames])
        received = self.sender.send(x, snr_db, [frame.frame_id for frame in frames], seed)
        for frame in frames:
            on_progress(frame.frame_id, 1.0)
        return to_pixels(received)
