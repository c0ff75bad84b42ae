"""Writes the stubs in ``commin/v1`` from the protocol files beside this script.

``make proto`` runs it. With ``--check`` it writes nothing and fails if the committed stubs differ
from what the protocol files give; with ``--lint`` it runs ``buf lint`` over them, offline.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2

PROTO = Path(__file__).resolve().parent
ROOT = PROTO.parent
PACKAGE = "commin/v1"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
LINT = {"version": "v2", "lint": {"use": ["STANDARD", "COMMENTS"], "ignore": ["google"]}}


def protoc(*arguments: str) -> None:
    """Runs the protoc of grpcio-tools; google/rpc comes from the installed googleapis package."""
    googleapis = Path(status_pb2.__file__).parents[2]
    wellknown = importlib.resources.files(grpc_tools) / "_proto"
    scripts = sysconfig.get_path("scripts")  # where pip put the protoc-gen-mypy plugins
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc"]
        + [f"-I{folder}" for folder in (PROTO, googleapis, wellknown)]
        + list(arguments),
        check=True,
        cwd=PROTO,
        env={**os.environ, "PATH": os.pathsep.join([scripts, os.environ["PATH"]])},
    )


def sources() -> list[Path]:
    """The protocol files."""
    return sorted((PROTO / PACKAGE).glob("*.proto"))


def generate(out: Path) -> None:
    """Writes messages, their types, and for files with a service the gRPC stubs under ``out``."""
    names = [path.relative_to(PROTO).as_posix() for path in sources()]
    services = [n for n in names if re.search(r"^service ", (PROTO / n).read_text(), re.M)]
    quiet = "quiet,readable_stubs"
    protoc(f"--python_out={out}", f"--mypy_out={quiet}:{out}", *names)
    protoc(f"--grpc_python_out={out}", f"--mypy_grpc_out={quiet}:{out}", *services)


def stubs(root: Path) -> dict[str, bytes]:
    """The generated files under ``root``, by name."""
    files = (root / PACKAGE).iterdir()
    return {f.name: f.read_bytes() for f in files if f.name.endswith(SUFFIXES)}


def write() -> None:
    """Replaces the committed stubs and removes those without a protocol file."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = stubs(Path(folder))
    for stale in stubs(ROOT).keys() - fresh.keys():
        (ROOT / PACKAGE / stale).unlink()
    for name, content in fresh.items():
        (ROOT / PACKAGE / name).write_bytes(content)


def check() -> None:
    """Fails, naming the files, if the committed stubs are not up to date."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = stubs(Path(folder)), stubs(ROOT)
    names = fresh.keys() | committed.keys()
    if wrong := sorted(name for name in names if fresh.get(name) != committed.get(name)):
        sys.exit(
            f"{PACKAGE} is not what the protocol files give: {', '.join(wrong)}. Do: make proto"
        )


def lint() -> None:
    """Lints an image that protoc built, so that buf has no dependency to fetch."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.binpb")
        names = [path.relative_to(PROTO).as_posix() for path in sources()]
        protoc(
            "--include_imports", "--include_source_info", f"--descriptor_set_out={image}", *names
        )
        buf = Path(sysconfig.get_path("scripts"), "buf")
        linted = subprocess.run([buf, "lint", image, "--config", json.dumps(LINT)], check=False)
    if linted.returncode:
        sys.exit(linted.returncode)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_const", dest="act", const=check, default=write)
    what.add_argument("--lint", action="store_const", dest="act", const=lint)
    parser.parse_args().act()


if __name__ == "__main__":
    main()
