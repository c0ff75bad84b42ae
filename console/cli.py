"""The ``commin`` command. Each subcommand has a module; what is heavy loads when it runs."""

from __future__ import annotations

import logging
import sys

import typer

from console import channel, demo, describe, evaluate, send, serve, train
from console.errors import UserError

app = typer.Typer(
    help="A link emulator for semantic image communication.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("send")(send.send)
app.command("describe")(describe.describe)
app.command("channel")(channel.channel)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(serve.app, name="serve")
app.add_typer(train.app, name="train")


def main() -> None:
    """Runs the command that the arguments name; see ``commin --help``."""
    logging.basicConfig(format="commin: %(message)s")
    try:
        app()
    except UserError as error:
        print(f"commin: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(f"commin: {error.name} is not installed: pip install 'commin[all]'", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
