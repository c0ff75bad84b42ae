"""Model bundles: a folder of safetensors files with a manifest that vouches for them.

Reading and checking a bundle needs no torch; :mod:`shared.weights` loads tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from shared.architecture import (
    Frozen,
    INNArchitecture,
    JSCCArchitecture,
    StyleGAN2Architecture,
)

MANIFEST = "bundle.json"

# Where a field is in a manifest, such as ("inns", "file"), which means every INN's.
FieldPath = tuple[str, ...]

# Fields that say what a bundle is called and how it came about, not what it computes.
REMARKS: frozenset[FieldPath] = frozenset(
    {("name",), ("training",), ("scores",), ("snr_range_db",)}
)

Setting = TypeVar("Setting")


class BundleError(RuntimeError):
    """A bundle that cannot be used; names the bundle, the file and what is wrong with it."""


class JSCCPart(Frozen):
    """The encoder and decoder."""

    architecture: JSCCArchitecture
    encoder: str = "encoder.safetensors"
    decoder: str = "decoder.safetensors"


class INNPart(Frozen):
    """An INN; ``snr_db`` is the SNR that it imitates, None when it is conditioned on the SNR."""

    architecture: INNArchitecture
    snr_db: float | None = None
    file: str

    @model_validator(mode="after")
    def _one_way_to_know_the_snr(self) -> INNPart:
        if self.architecture.snr_conditioned == (self.snr_db is not None):
            raise ValueError("an INN either is snr_conditioned or has an snr_db")
        return self


class PriorPart(Frozen):
    """The diffusion prior, a ``diffusers.UNet2DModel``."""

    source: str = Field(default="prior", description="A folder inside the bundle, or a hub id")
    patch_size: PositiveInt = Field(default=1, description="Pixel-unshuffle factor around it")


class GeneratorPart(Frozen):
    """The StyleGAN-2 generator, the prior of InverseJSCC."""

    architecture: StyleGAN2Architecture
    file: str = "generator.safetensors"


def nearest(by_snr_db: Mapping[float, Setting], snr_db: float) -> Setting:
    """The setting of the listed SNR that is nearest to ``snr_db``."""
    return by_snr_db[min(by_snr_db, key=lambda listed: abs(listed - snr_db))]


class Guidance(Frozen):
    """How strongly Algorithm 1, and DPS for comparison, follow the observation."""

    norm: Literal["squared", "unsquared"] = "unsquared"
    clip: bool = Field(
        default=True, description="Clamp x_{0,t} to [-1, 1], as reference DDPM code does"
    )
    bounded: bool = Field(
        default=False, description="Never step beyond where the residual would vanish (Polyak)"
    )
    variance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="v of sigma_t^2 = beta~_t^(1-v) beta_t^v, between DDPM's two choices",
    )
    zeta_by_snr_db: dict[float, PositiveFloat] = Field(
        min_length=1, description="Step size of the whole schedule, T = 1000, at each SNR"
    )
    dps_zeta: PositiveFloat = Field(default=1.0, description="Step size of DPS, at every SNR")

    def zeta(self, snr_db: float) -> float:
        """Step size at the listed SNR nearest to ``snr_db``."""
        return nearest(self.zeta_by_snr_db, snr_db)


class OperatingPoint(Frozen):
    """How the fast sampler runs at one SNR; see ``receiver.restorers.commin_fast``."""

    start: int = Field(default=400, ge=1, le=1000, description="Time t that y is noised to")
    blend: float = Field(
        default=1.0, gt=0, le=1, description="lambda, of the INN's estimate against the prior's"
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="Fresh noise of each step; 0: none")


class FastSampling(Frozen):
    """A preset of the fast sampler."""

    steps: PositiveInt = 20
    by_snr_db: dict[float, OperatingPoint] = Field(default={0.0: OperatingPoint()}, min_length=1)

    @model_validator(mode="after")
    def _every_step_has_a_time(self) -> FastSampling:
        earliest = min(point.start for point in self.by_snr_db.values())
        if self.steps > earliest:
            raise ValueError(f"{self.steps} steps from time {earliest}, there is one for each time")
        return self

    def at(self, snr_db: float) -> OperatingPoint:
        """The operating point of the listed SNR nearest to ``snr_db``."""
        return nearest(self.by_snr_db, snr_db)


class Manifest(Frozen):
    """``bundle.json``."""

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    power: PositiveFloat = Field(default=1.0, description="Average symbol power P, linear")
    snr_range_db: tuple[float, float] = Field(description="SNRs that it was trained for, dB")
    jscc: JSCCPart
    inns: tuple[INNPart, ...] = ()
    prior: PriorPart | None = None
    generator: GeneratorPart | None = None
    guidance: Guidance | None = None
    fast: dict[str, FastSampling] = Field(
        default={"commin-fast": FastSampling()},
        description="Presets of the fast sampler; the last is a receiver's default",
    )
    training: dict[str, Any] = Field(default={}, description="How each part was trained")
    scores: dict[str, Any] = Field(default={}, description="What it scored, by which command")
    files: dict[str, str] = Field(default={}, description="sha256 of each file, hexadecimal")

    def without(self, ignored: Iterable[FieldPath]) -> dict[str, Any]:
        """What the rest of the bundle computes with, as JSON values.

        Arguments:
            ignored: Fields to leave out, and with them the sha256 of files that they alone name.

        Returns:
            The manifest without them and :data:`REMARKS`. What nobody lists, stays: a field or
            a file that is new counts until somebody says that it does not.
        """
        left_out = REMARKS.union(ignored)
        kept: dict[str, Any] = _pruned(self.model_dump(mode="json"), left_out)
        owners = self._owners
        kept["files"] = {
            name: digest
            for name, digest in self.files.items()
            if not owners.get(name) or any(_is_kept(path, left_out) for path in owners[name])
        }
        return kept

    def digest_without(self, ignored: Iterable[FieldPath]) -> str:
        """The sha256 of :meth:`without`, hexadecimal."""
        kept = json.dumps(self.without(ignored), sort_keys=True)
        return hashlib.sha256(kept.encode()).hexdigest()

    @property
    def _owners(self) -> dict[str, list[FieldPath]]:
        """The fields that name each file."""
        named: list[tuple[str, FieldPath]] = [
            (self.jscc.encoder, ("jscc", "encoder")),
            (self.jscc.decoder, ("jscc", "decoder")),
            *((inn.file, ("inns", "file")) for inn in self.inns),
        ]
        if self.generator:
            named.append((self.generator.file, ("generator", "file")))
        if self.prior:
            inside = f"{self.prior.source}/"
            named += ((f, ("prior", "source")) for f in self.files if f.startswith(inside))
        owners: dict[str, list[FieldPath]] = {}
        for file, path in named:
            owners.setdefault(file, []).append(path)
        return owners

    @model_validator(mode="after")
    def _every_file_is_vouched_for(self) -> Manifest:
        needed = {self.jscc.encoder, self.jscc.decoder, *(inn.file for inn in self.inns)}
        if self.generator:
            needed.add(self.generator.file)
        if missing := needed - self.files.keys():
            raise ValueError(f"no sha256 in 'files' for {', '.join(sorted(missing))}")
        return self

    @model_validator(mode="after")
    def _images_have_one_size(self) -> Manifest:
        size = self.jscc.architecture.image_size
        if self.generator and (other := self.generator.architecture.image_size) != size:
            raise ValueError(f"the generator's images have {other} pixels, the link's {size}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str) -> Bundle:
        """Reads the manifest and checks the sha256 of every file that it lists.

        Raises:
            BundleError: If the manifest is missing or invalid, or a file is missing, leads out of
                the folder, or differs from its sha256.
        """
        folder = Path(folder)
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise BundleError(f"bundle {folder}: no readable {MANIFEST} ({error})") from error
        except ValidationError as error:
            raise BundleError(f"bundle {folder}: {MANIFEST} is invalid: {error}") from error
        for name, expected in manifest.files.items():
            _check(folder, name, expected)
        return cls(folder, manifest)

    @property
    def codec_digest(self) -> str:
        """Identifies encoder and decoder weights: a receiver needs its transmitter's."""
        jscc, files = self.manifest.jscc, self.manifest.files
        return hashlib.sha256(f"{files[jscc.encoder]}{files[jscc.decoder]}".encode()).hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> Bundle:
    """Writes ``bundle.json`` for the files now in ``folder``, sha256 of each included.

    Arguments:
        folder: The bundle's folder, with all its weights in place.
        manifest: The manifest's fields, ``files`` left out or stale.
    """
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix == ".safetensors" or path.name == "config.json"
    )
    files = {name: sha256(folder / name) for name in names}
    checked = Manifest.model_validate(manifest | {"files": files})
    text = json.dumps(checked.model_dump(mode="json"), indent=2) + "\n"
    (folder / MANIFEST).write_text(text)
    return Bundle.open(folder)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_kept(path: FieldPath, left_out: Collection[FieldPath]) -> bool:
    """Whether neither a field nor any that it is in is left out."""
    return not any(path[:depth] in left_out for depth in range(1, len(path) + 1))


def _pruned(value: Any, left_out: Collection[FieldPath], path: FieldPath = ()) -> Any:
    """JSON values without the fields to be left out; the elements of a list have its path."""
    if isinstance(value, dict):
        return {
            name: _pruned(each, left_out, (*path, name))
            for name, each in value.items()
            if (*path, name) not in left_out
        }
    if isinstance(value, list):
        return [_pruned(each, left_out, path) for each in value]
    return value


def _check(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"bundle {folder}: file {name} leads out of the bundle")
    if not path.is_file():
        raise BundleError(f"bundle {folder}: file {name} is missing")
    if (found := sha256(path)) != expected:
        raise BundleError(
            f"bundle {folder}: file {name} has sha256 {found}, {MANIFEST} says {expected}"
        )
