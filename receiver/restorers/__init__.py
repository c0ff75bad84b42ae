"""Restorers by name. Each has one module; :func:`restorers_for` says which a bundle can serve."""

from __future__ import annotations

from receiver.models import ReceiverModels
from receiver.restorers.base import Restorer
from receiver.restorers.commin import CommIN
from receiver.restorers.commin_fast import CommINFast
from receiver.restorers.dps import DPS
from receiver.restorers.inverse_jscc import InverseJSCC
from receiver.restorers.none import NoRestorer
from shared.perceptual import SMALLEST, has_lpips


def restorers_for(models: ReceiverModels) -> dict[str, Restorer]:
    """The restorers that have all the parts they need, the one to run by default last."""
    found: list[Restorer] = [NoRestorer()]
    generator = models.generator
    if generator and models.inns and generator.architecture.image_size >= SMALLEST and has_lpips():
        found.append(InverseJSCC(models, generator))
    if models.prior and models.inns and models.guidance:
        found.append(DPS(models, models.prior, models.guidance))
        found.append(CommIN(models, models.prior, models.guidance))
        for name, sampling in models.fast.items():
            found.append(CommINFast(models, models.prior, name, sampling))
    return {restorer.name: restorer for restorer in found}
