"""``commin channel``: shows or changes a running channel."""

from __future__ import annotations

from typing import Annotated

import typer

from console.errors import reported
from console.link import tls_files
from console.options import TLSCa, TLSCert, TLSKey, decibels


def channel(
    address: Annotated[
        str, typer.Option(help="Address of the channel service", metavar="HOST:PORT")
    ] = "127.0.0.1:50052",
    snr: Annotated[
        float | None,
        typer.Option(parser=decibels, metavar="DB", help="New SNR of frames that set none"),
    ] = None,
    tls_ca: TLSCa = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
) -> None:
    """Show a running channel, or set the SNR of frames that set none."""
    import commin

    tls = tls_files(tls_ca, tls_cert, tls_key)
    with reported(OSError, ValueError):  # LinkError is an OSError
        now = commin.configure_channel(address, default_snr_db=snr, tls=tls)
    print(
        f"{now.model} at {now.default_snr_db:g} dB unless a frame sets its own SNR, "
        f"which may be {now.snr_range.min_db:g} to {now.snr_range.max_db:g} dB"
    )
