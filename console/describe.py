"""``commin describe``: what a running link has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.options import LinkOption, TLSCa, TLSCert, TLSKey

if TYPE_CHECKING:
    from commin.v1.describe_pb2 import BundleDescription, LinkDescription


def describe(
    link: LinkOption = "127.0.0.1:50051",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False,
    tls_ca: TLSCa = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
) -> None:
    """Show what a running link has loaded."""
    from google.protobuf.json_format import MessageToJson

    from console.link import opened

    with opened(link, tls_ca, tls_cert, tls_key) as connection:
        description = connection.describe()
    if json:
        print(MessageToJson(description, always_print_fields_with_no_presence=True))
    else:
        _print(description)


def _print(link: LinkDescription) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("service", "what", "value", title="Link")
    for name, service in (("transmitter", link.transmitter), ("receiver", link.receiver)):
        table.add_row(name, "device", service.device)
        table.add_row("", "bundle", _bundle(service.bundle))
        if name == "transmitter":
            snrs = link.channel.snr_range
            table.add_row("channel", "model", link.channel.model)
            table.add_row("", "default SNR", f"{link.channel.default_snr_db:g} dB")
            table.add_row("", "SNRs", f"{snrs.min_db:g} to {snrs.max_db:g} dB")
    for restorer in link.receiver.restorers:
        default = " (default)" if restorer.name == link.receiver.default_restorer else ""
        steps = f", {restorer.default_steps} steps" if restorer.max_steps else ""
        table.add_row("", f"restorer {restorer.name}{default}", restorer.summary + steps)
    Console().print(table)


def _bundle(bundle: BundleDescription) -> str:
    snrs = bundle.snr_range
    return (
        f"{bundle.name}: {bundle.image_size}×{bundle.image_size} pixels in k = {bundle.symbols} "
        f"symbols (ρ = {bundle.bandwidth_ratio:.4f}), {snrs.min_db:g} to {snrs.max_db:g} dB"
    )
