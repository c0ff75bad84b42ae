"""A running link's restorers as schemes: three services do the work, whoever runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import commin
from commin.v1 import describe_pb2
from evaluation.images import Pixels
from evaluation.local_link import Frame, OnProgress
from evaluation.restorer_schemes import checked_steps, not_there
from evaluation.schemes import SchemeError


@dataclass(frozen=True)
class LinkScheme:
    """One restorer behind a running link.

    Frames keep their ids and their pixels on the way, so they meet the draws that they would meet
    in process.

    Attributes:
        name: See :class:`evaluation.schemes.Scheme`.
        restorer: Name of the restorer.
        steps: Denoising steps.
        link: The connection.
        description: What the link's services have loaded.
    """

    name: str
    restorer: str
    steps: int
    link: commin.Link
    description: describe_pb2.LinkDescription

    def identity(self) -> Mapping[str, Any]:
        """What the link tells of itself, and by digest what its restorer computes with."""
        bundle = self.description.receiver.bundle
        restorers = {each.name: each for each in self.description.receiver.restorers}
        return {
            "kind": "link",
            "restorer": [self.restorer, restorers[self.restorer].digest],
            "steps": self.steps,
            "bundle": [bundle.name, bundle.codec_digest, bundle.power],
            "channel": self.description.channel.model,
            "devices": [self.description.transmitter.device, self.description.receiver.device],
        }

    def check(self, snr_db: float) -> None:
        """The link's networks must have been trained for the SNR."""
        allowed = self.description.transmitter.bundle.snr_range
        if not allowed.min_db <= snr_db <= allowed.max_db:
            raise SchemeError(
                f"SNR {snr_db:g} dB, the link at {self.link.target} takes "
                f"{allowed.min_db:g} to {allowed.max_db:g} dB"
            )

    def send(
        self, frames: Sequence[Frame], snr_db: float, seed: int, on_progress: OnProgress
    ) -> list[Pixels]:
        """See :class:`evaluation.schemes.Scheme`.

        Raises:
            LinkError: If the link is lost.
            RuntimeError: If a frame fails.
        """
        restored: list[Pixels] = []
        for run in consecutive(frames):
            outcomes = self.link.send(
                [frame.pixels for frame in run],
                snr_db=snr_db,
                seed=seed,
                restorer=self.restorer,
                steps=self.steps or None,
                preview_every=0,
                bundle=self.description.transmitter.bundle.name,
                ordered=True,
                first_frame_id=run[0].frame_id,
                on_progress=lambda frame_id, step, steps, _: on_progress(frame_id, step / steps),
            )
            with closing(outcomes):  # a failed frame ends the run before its other outcomes
                for frame, outcome in zip(run, outcomes, strict=True):
                    restored.append(_restored(frame, outcome))
                    on_progress(frame.frame_id, 1.0)
        return restored


class LinkRestorers:
    """The restorers of the link at an address.

    Arguments:
        target: The transmitter's host:port.
        tls: What to trust and to show.

    Raises:
        LinkError: If it cannot be reached, or one of its services does not answer.
    """

    def __init__(self, target: str, tls: commin.TLSFiles) -> None:
        self._link = commin.connect(target, tls=tls)
        try:
            self._about = self._link.describe()
        except BaseException:
            self._link.close()
            raise
        self.image_size = self._about.transmitter.bundle.image_size
        self.symbols = self._about.transmitter.bundle.symbols
        self.description = f"the link at {target}"

    @property
    def names(self) -> list[str]:
        """The restorers that there are."""
        return [restorer.name for restorer in self._about.receiver.restorers]

    def scheme(self, name: str, restorer: str, steps: int | None) -> LinkScheme:
        """A scheme called ``name``.

        Raises:
            SchemeError: If the link has no such restorer, or its steps are out of range.
        """
        for about in self._about.receiver.restorers:
            if about.name == restorer:
                steps = checked_steps(restorer, steps, about.default_steps, about.max_steps)
                return LinkScheme(name, restorer, steps, self._link, self._about)
        raise not_there(restorer, self.description, self.names)

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()


def _restored(frame: Frame, outcome: commin.Result | commin.FrameFailure) -> Pixels:
    """The image of a frame that came through."""
    if not isinstance(outcome, commin.Result):
        failed = f"frame {frame.frame_id} ({frame.name})"
        raise RuntimeError(f"{failed}: {outcome.code.name}: {outcome.message}")
    return outcome.restored


def consecutive(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Splits frames where an id is missing: a link counts ids up."""
    run: list[Frame] = []
    for frame in frames:
        if run and frame.frame_id != run[-1].frame_id + 1:
            yield run
            run = []
        run.append(frame)
    if run:
        yield run
