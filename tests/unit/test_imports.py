"""What must import where torch is not installed. The contracts in pyproject.toml say the rest."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

# None in sys.modules makes an import fail just as a missing package does.
WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
for name in {modules!r}:
    __import__(name)
"""
HEAVY = ["torch", "torchvision", "diffusers", "safetensors", "accelerate", "PIL"]
SERVICES = ["grpc_health", "grpc_reflection", "grpc_status", "prometheus_client", "pydantic"]


def modules_of(package: str) -> list[str]:
    path = import_module(package).__path__
    found = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    return [package, *(name for name in found if not name.endswith("__main__"))]


def import_without(missing: list[str], modules: list[str]) -> None:
    code = WITHOUT.format(missing=missing, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_channel_imports_without_torch() -> None:
    modules = modules_of("channel")
    assert "channel.awgn" in modules
    import_without(HEAVY, modules)


def test_a_client_imports_with_grpcio_protobuf_and_numpy() -> None:
    modules = modules_of("commin")
    assert "commin.v1.frame_pb2" in modules
    import_without([*HEAVY, *SERVICES], modules)


def test_bundles_are_described_without_torch() -> None:
    import_without(["torch"], ["shared.architecture", "shared.bundle", "shared.draws"])


def test_a_missing_package_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="torch"):
        import_without(["torch"], ["transmitter.power"])
