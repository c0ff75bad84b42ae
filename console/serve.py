"""``commin serve``: runs one service in this process."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from console.errors import reported

app = typer.Typer(
    help="Run one service until SIGTERM or Ctrl-C.",
    no_args_is_help=True,
    epilog="Every option can also come from the environment: --default-snr-db of the channel is "
    "COMMIN_CHANNEL_DEFAULT_SNR_DB.",
)

# All arguments, --help included, belong to the service's settings, which state them once.
_PASS_ON: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


@app.command(context_settings=_PASS_ON)
def transmitter(context: typer.Context) -> None:
    """Takes images, encodes them and sends symbols to the channel."""
    _run("transmitter", context.args)


@app.command(context_settings=_PASS_ON)
def channel(context: typer.Context) -> None:
    """Adds noise to symbols and sends them to the receiver."""
    _run("channel", context.args)


@app.command(context_settings=_PASS_ON)
def receiver(context: typer.Context) -> None:
    """Decodes noisy symbols and restores images."""
    _run("receiver", context.args)


def _run(role: str, arguments: list[str]) -> None:
    from pydantic_settings import SettingsError

    from shared.settings import load_settings

    kind = getattr(import_module(f"{role}.settings"), f"{role.capitalize()}Settings")
    with reported(SettingsError):
        settings = load_settings(
            kind,
            _cli_parse_args=arguments,
            _cli_prog_name=f"commin serve {role}",
            _cli_kebab_case=True,
            _cli_implicit_flags=True,
        )
    # After the settings: a service's networks take seconds to import, a wrong option need not.
    import_module(f"{role}.service").run(settings)
