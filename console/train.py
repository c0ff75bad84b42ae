"""``commin train``: trains the parts of a bundle, and puts them into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.errors import UserError, reported

if TYPE_CHECKING:
    from training.config import TrainingConfig

app = typer.Typer(
    help="Train the parts of a bundle; run again, a command continues where it stopped.",
    no_args_is_help=True,
    epilog="On several GPUs: accelerate launch -m console train jscc …",
)

Config = Annotated[Path, typer.Option(help="YAML file, such as training/configs/faces64.yaml")]
Data = Annotated[Path, typer.Option(help="Training set: parquet, or folder of images")]
Validation = Annotated[Path, typer.Option(help="Validation set: parquet, or folder of images")]
Runs = Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard")]
BundleFolder = Annotated[
    Path | None, typer.Option(help="Folder of the bundle to write; unset: models/NAME")
]


@app.command()
def jscc(
    config: Config,
    data: Data,
    validation: Validation,
    runs: Runs = Path("runs"),
    bundle: BundleFolder = None,
) -> None:
    """Train the DeepJSCC encoder and decoder, eq. (6); starts the bundle."""
    settings = _read(config)

    from training.assemble import add_jscc
    from training.jscc import train_jscc

    with reported(OSError, RuntimeError, ValueError):
        trained = train_jscc(settings, data, validation, runs)
        if _is_main_process():
            add_jscc(_folder(bundle, settings), settings, trained)


@app.command()
def inn(
    config: Config,
    data: Data,
    validation: Validation,
    runs: Runs = Path("runs"),
    bundle: BundleFolder = None,
    snr_conditioned: Annotated[
        bool | None,
        typer.Option(help="One network for all SNRs, or one for each; unset: as configured"),
    ] = None,
    inverse_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of the inverse's error; 0 leaves it out"),
    ] = None,
    guided_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of the error on the prior's estimates; 0 leaves it out"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the training; unset: as configured")
    ] = None,
) -> None:
    """Train the invertible networks that imitate the bundle's DeepJSCC link, eq. (9).

    With both weights 0 the loss is the paper's, eq. (9) alone.
    """
    settings = _read(config)
    changed = settings.model_dump()
    if snr_conditioned is not None:
        changed["inn"]["architecture"]["snr_conditioned"] = snr_conditioned
    if inverse_weight is not None:
        changed["inn"]["inverse_weight"] = inverse_weight
    if guided_weight is not None:
        guided = changed["inn"]["guided"] or {}
        changed["inn"]["guided"] = guided | {"weight": guided_weight} if guided_weight else None
    if steps is not None:
        changed["inn"]["loop"]["steps"] = steps
    settings = type(settings).model_validate(changed)

    from accelerate import PartialState

    from training.assemble import add_inns, load_link
    from training.inn import train_inns

    folder = _folder(bundle, settings)
    with reported(OSError, RuntimeError, ValueError):
        jscc, estimator = load_link(folder, settings, PartialState().device)
        networks: dict[float | None, Any] = {}
        scores: dict[str, dict[str, float]] = {}
        for snr_db, network, score in train_inns(settings, jscc, estimator, data, validation, runs):
            networks[snr_db] = network
            scores |= score
        if _is_main_process():
            add_inns(folder, settings, networks, scores)


@app.command()
def prior(
    config: Config,
    data: Annotated[Path | None, typer.Option(help="Training set, as for jscc")] = None,
    validation: Annotated[Path | None, typer.Option(help="Validation set, as for jscc")] = None,
    runs: Runs = Path("runs"),
    bundle: BundleFolder = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="diffusers folder whose weights to start from")
    ] = None,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Put the prior of --from into the bundle untrained")
    ] = False,
) -> None:
    """Train the diffusion prior; a configuration with a pretrained one has it used as it is."""
    settings = _read(config)

    from training.assemble import add_pretrained_prior, add_prior, copy_prior
    from training.prior import train_prior

    with reported(OSError, RuntimeError, ValueError):
        if settings.prior.pretrained and not start:
            add_pretrained_prior(_folder(bundle, settings), settings)
            return
        if as_it_is and start:
            copy_prior(_folder(bundle, settings), settings, start)
            return
        if data is None or validation is None:
            raise UserError("training a prior takes --data and --validation")
        trained = train_prior(settings, data, validation, runs, start)
        if _is_main_process():
            add_prior(_folder(bundle, settings), settings, trained)


@app.command()
def stylegan2(
    config: Config,
    data: Data,
    validation: Validation,
    runs: Runs = Path("runs"),
    bundle: BundleFolder = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps in all; at most those done: no training, only into the bundle"
        ),
    ] = None,
) -> None:
    """Train the StyleGAN-2 generator, the prior of inverse-jscc."""
    settings = _read(config)

    from training.assemble import add_generator
    from training.stylegan2 import train_stylegan2

    with reported(OSError, RuntimeError, ValueError):
        generator, scores = train_stylegan2(settings, data, validation, runs, steps)
        if _is_main_process():
            add_generator(_folder(bundle, settings), settings, generator, scores)


def _read(path: Path) -> TrainingConfig:
    """Reads a configuration.

    Raises:
        UserError: If there is none or a field is wrong; names the field.
    """
    import yaml
    from pydantic import ValidationError

    from training.config import TrainingConfig

    try:
        return TrainingConfig.read(path)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors(include_url=False)
        )
        raise UserError(f"{path}: {faults}") from error
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"configuration {path} cannot be read: {error}") from error


def _folder(bundle: Path | None, settings: TrainingConfig) -> Path:
    return bundle or Path("models") / settings.name


def _is_main_process() -> bool:
    """Whether this process is the one that writes, of all that train together."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
