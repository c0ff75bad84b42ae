"""The baselines as schemes, and the fit to training images that they need."""

from __future__ import annotations

import hashlib
from pathlib import Path

import PIL
from PIL import features

from evaluation.baselines.linear import LinearAnalogue
from evaluation.schemes import SchemeError, TensorScheme
from training.data import ImageSource, load_all

NAMES = ("linear", "digital")


def baseline_scheme(name: str, fit: LinearAnalogue) -> TensorScheme:
    """One of :data:`NAMES` as a scheme.

    Arguments:
        name: Which.
        fit: Principal components of training images; ``digital`` needs their mean only.
    """
    if name == "linear":
        return TensorScheme(name, fit, {"kind": "linear", "basis": fit.digest})
    return _digital(fit)


def _digital(fit: LinearAnalogue) -> TensorScheme:
    from evaluation.baselines.digital import DigitalSeparation

    side = round((len(fit.mean) / 3) ** 0.5)
    sender = DigitalSeparation(fit.symbols, fit.mean.view(3, side, side))
    codecs = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp", "avif")}
    mean = hashlib.sha256(fit.mean.numpy().tobytes()).hexdigest()
    depends_on = {"kind": "digital", "symbols": fit.symbols, "mean": mean}
    return TensorScheme(
        "digital",
        sender,
        depends_on | {"headers": sender.headers, "pillow": PIL.__version__} | codecs,
    )


def fitted(data: Path, size: int, symbols: int, folder: Path | None) -> LinearAnalogue:
    """The fit to a training set, from ``folder`` if it was made before.

    Arguments:
        data: A data set, or a safetensors file with a fit.
        size: Height and width of the images, pixels.
        symbols: k, complex channel uses for each image.
        folder: Where fits are kept; None to keep none.

    Raises:
        DatasetError: If the data set cannot be used.
        OSError: If the fit cannot be kept.
        SchemeError: If the file holds no fit for images of that size and that k.
    """
    if data.suffix == ".safetensors":
        return _checked(data, size, symbols)
    if folder is None:
        return LinearAnalogue.fit(load_all(data, size), symbols)
    path = folder / f"linear-{_digest(data)[:16]}-{size}-{symbols}.safetensors"
    if not path.is_file():
        fit = LinearAnalogue.fit(load_all(data, size), symbols)
        folder.mkdir(parents=True, exist_ok=True)
        fit.save(path)
    return _checked(path, size, symbols)


def _checked(path: Path, size: int, symbols: int) -> LinearAnalogue:
    try:
        fit = LinearAnalogue.load(path)
    except ValueError as error:
        raise SchemeError(str(error)) from error
    if (len(fit.mean), fit.symbols) != (3 * size * size, symbols):
        raise SchemeError(
            f"{path} is a fit for {len(fit.mean)} values in {fit.symbols} symbols, "
            f"the bundle takes {3 * size * size} in {symbols}"
        )
    return fit


def _digest(data: Path) -> str:
    """Of all encoded images, sha256, hexadecimal."""
    source = ImageSource(data)
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(hashlib.sha256(source[index]).digest())
    return digest.hexdigest()
