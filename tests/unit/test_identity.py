"""What of a bundle a restorer's cells depend on: the parts it uses, and whatever is new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from commin.v1 import describe_pb2
from evaluation.link_schemes import LinkScheme
from evaluation.restorer_schemes import RestorerScheme
from receiver.decoder import Decoder
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer
from receiver.stylegan2 import StyleGAN2
from shared.architecture import INNArchitecture, JSCCArchitecture, StyleGAN2Architecture
from shared.bundle import FastSampling, Guidance, INNPart, Manifest, OperatingPoint
from shared.draws import DiffusionNoise
from shared.weights import ready

CPU = torch.device("cpu")
SIZE = 32
JSCC = JSCCArchitecture(image_size=SIZE, channels=(8, 8), symbols=64, attention_units=1)
GENERATOR = StyleGAN2Architecture(latent=8, mapping_layers=1, channels=(8, 8, 8, 8))
FAST = {
    "commin-turbo": FastSampling(steps=1, by_snr_db={0.0: OperatingPoint(start=100)}),
    "commin-fast": FastSampling(steps=2, by_snr_db={0.0: OperatingPoint(start=100)}),
}

Fields = dict[str, Any]

PRESETS = {"commin-turbo", "commin-fast"}
INN_USERS = {"commin", "inverse-jscc"} | PRESETS
PRIOR_USERS = {"commin", "dps"} | PRESETS
ALL = INN_USERS | PRIOR_USERS | {"none"}


def a_prior(channels: int = 8) -> Prior:
    network = UNet2DModel(
        sample_size=SIZE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(channels,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    return ready(Prior(network, 2), CPU)


def an_inn(levels: int = 1, lifts: int = 1, width: int = 8) -> INN:
    inn = INN(INNArchitecture(levels=levels, lifts=lifts, width=width))
    for parameter in inn.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return ready(inn, CPU)


@pytest.fixture(scope="module")
def models() -> ReceiverModels:
    torch.manual_seed(0)
    return ReceiverModels(
        device=CPU,
        symbols=64,
        decoder=ready(Decoder(JSCC), CPU),
        inns={0.0: an_inn()},
        prior=a_prior(),
        guidance=Guidance(zeta_by_snr_db={0.0: 0.1}, bounded=True),
        generator=ready(StyleGAN2(GENERATOR), CPU),
        fast=FAST,
    )


def manifest() -> Fields:
    """A manifest with every part there is."""
    inn = INNArchitecture(levels=1, lifts=1, width=8)
    return Manifest(
        name="tiny",
        snr_range_db=(-5, 5),
        jscc={"architecture": JSCC.model_dump()},
        inns=[{"architecture": inn.model_dump(), "snr_db": 0.0, "file": "inn.safetensors"}],
        prior={"patch_size": 2},
        generator={"architecture": GENERATOR.model_dump()},
        guidance={"zeta_by_snr_db": {0: 0.1}},
        fast=FAST,
        files={
            "encoder.safetensors": "e0",
            "decoder.safetensors": "d0",
            "inn.safetensors": "i0",
            "generator.safetensors": "g0",
            "prior/config.json": "c0",
            "prior/diffusion_pytorch_model.safetensors": "p0",
        },
    ).model_dump()


def identities(models: ReceiverModels, described: Manifest) -> dict[str, Any]:
    """Of every restorer, as a sweep in process asks for them."""
    link: Any = SimpleNamespace(models=models, bundle=SimpleNamespace(manifest=described))
    return {
        name: RestorerScheme(name, restorer, 2, link).identity()
        for name, restorer in restorers_for(models).items()
    }


def file(name: str) -> Callable[[Fields], Any]:
    """A change of a file's weights."""
    return lambda fields: fields["files"].update({name: "other"})


@pytest.mark.parametrize(
    ("change", "invalidated"),
    [
        (file("encoder.safetensors"), ALL),
        (file("decoder.safetensors"), ALL),
        (lambda m: m.update(power=2.0), ALL),
        (lambda m: m["jscc"]["architecture"].update(attention_units=2), ALL),
        (file("inn.safetensors"), INN_USERS),
        (lambda m: m["inns"][0]["architecture"].update(width=9), INN_USERS),
        (lambda m: m["inns"][0]["architecture"].update(levels=2), INN_USERS | {"dps"}),
        (lambda m: m["inns"][0].update(snr_db=1.0), INN_USERS | {"dps"}),
        (file("prior/diffusion_pytorch_model.safetensors"), PRIOR_USERS),
        (file("prior/config.json"), PRIOR_USERS),
        (lambda m: m["prior"].update(source="some/hub-id"), ALL),  # its files are nobody's then
        (file("generator.safetensors"), {"inverse-jscc"}),
        (lambda m: m["guidance"].update(zeta_by_snr_db={0.0: 0.2}), {"commin"}),
        (lambda m: m["guidance"].update(bounded=True), {"commin"}),
        (lambda m: m["guidance"].update(variance=0.5), {"commin"}),
        (lambda m: m["guidance"].update(clip=False), {"commin"}),
        (lambda m: m["guidance"].update(norm="squared"), {"commin"}),
        (lambda m: m["guidance"].update(dps_zeta=0.5), {"dps"}),
        (lambda m: m["fast"]["commin-fast"].update(steps=3), {"commin-fast"}),
        (lambda m: m["fast"].update(another=m["fast"]["commin-fast"]), set(PRESETS)),
        (file("unheard-of.safetensors"), ALL),
        (file("prior-of-another-kind.safetensors"), ALL),
        (lambda m: m.update(name="other", snr_range_db=(-9, 9)), set()),
        (lambda m: m.update(training={"steps": 9}, scores={"lpips": 0.1}), set()),
    ],
)
def test_a_change_invalidates_those_it_concerns(
    models: ReceiverModels, change: Callable[[Fields], Any], invalidated: set[str]
) -> None:
    before, fields = identities(models, Manifest(**manifest())), manifest()
    change(fields)
    after = identities(models, Manifest(**fields))
    assert before.keys() == ALL
    assert {name for name in before if before[name] != after[name]} == invalidated


class NewGuidance(Guidance):
    momentum: float = 0.9


class NewArchitecture(INNArchitecture):
    attention: bool = False


class NewINN(INNPart):
    architecture: NewArchitecture


class NewManifest(Manifest):
    """Of a later version, which has fields that no restorer's list can know."""

    inns: tuple[NewINN, ...] = ()
    guidance: NewGuidance | None = None
    super_resolution: str | None = None


def test_what_is_new_invalidates(models: ReceiverModels) -> None:
    def invalidated(change: Callable[[Fields], Any]) -> set[str]:
        fields = manifest()
        change(fields)
        after = identities(models, NewManifest(**fields))
        return {name for name in before if before[name] != after[name]}

    before = identities(models, NewManifest(**manifest()))
    assert invalidated(lambda m: m.update(super_resolution="x2")) == ALL
    assert invalidated(lambda m: m["guidance"].update(momentum=0.1)) == {"commin", "dps"}
    sees_more = partial(dict.update, attention=True)
    assert invalidated(lambda m: sees_more(m["inns"][0]["architecture"])) == INN_USERS | {"dps"}


def restored(models: ReceiverModels, name: str) -> torch.Tensor:
    """What a restorer makes of an image in two steps."""
    restorer: Restorer = restorers_for(models)[name]
    y = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    run = restorer.start(y, 0.0, 2, DiffusionNoise(0, 0))
    while not run.done:
        restorer.step([run])
    return run.x0


def others(models: ReceiverModels, name: str) -> ReceiverModels:
    """Other models in all that the restorer says it ignores."""
    ignored = restorers_for(models)[name].ignores
    guidance = models.guidance
    assert guidance
    changes: Fields = {}
    if ("inns",) in ignored or ("inns", "file") in ignored:
        changes["inns"] = {0.0: an_inn(lifts=2, width=12)}
    if ("prior",) in ignored:
        changes["prior"] = a_prior(16)
    if ("generator",) in ignored:
        changes["generator"] = ready(StyleGAN2(GENERATOR), CPU)
    others = Guidance(
        norm="squared",
        clip=False,
        bounded=False,
        variance=1.0,
        zeta_by_snr_db={0.0: 3.0},
        dps_zeta=2.0,
    ).model_dump()
    whole = ("guidance",) in ignored
    ignored_fields = {f: v for f, v in others.items() if whole or ("guidance", f) in ignored}
    changes["guidance"] = guidance.model_copy(update=ignored_fields)
    other = FastSampling(steps=9, by_snr_db={0.0: OperatingPoint(start=700, blend=0.5)})
    changes["fast"] = {
        preset: other if {("fast",), ("fast", preset)} & ignored else sampling
        for preset, sampling in models.fast.items()
    }
    return replace(models, **changes)


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_is_ignored_makes_no_difference(models: ReceiverModels, name: str) -> None:
    """Bit for bit, so that a restorer that starts to use a part has to stop ignoring it."""
    torch.manual_seed(2)
    assert torch.equal(restored(models, name), restored(others(models, name), name))


def test_another_network_behind_a_link_is_told_by_its_digest() -> None:
    """A link's cells are those of what its receiver computes with, restorer by restorer."""

    def identity(restorer: str, inn: str) -> Any:
        description = describe_pb2.LinkDescription()
        for name in ("none", "commin"):
            description.receiver.restorers.add(name=name, digest=inn if name == "commin" else "n")
        link = SimpleNamespace(target="")
        return LinkScheme("s", restorer, 1, link, description).identity()  # type: ignore[arg-type]

    assert identity("commin", "a") != identity("commin", "b")
    assert identity("none", "a") == identity("none", "b")
