"""What images, Compose and Kubernetes state twice agrees; nothing may do more than it needs to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from channel.settings import ChannelSettings
from receiver.settings import ReceiverSettings
from transmitter.settings import TransmitterSettings

ROOT = Path(__file__).parents[2]
ROLES = ("transmitter", "channel", "receiver")
KINDS = {
    "transmitter": TransmitterSettings,
    "channel": ChannelSettings,
    "receiver": ReceiverSettings,
}
BASE = "python:3.11-slim-bookworm"
DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


def dockerfile(name: str) -> str:
    return (ROOT / f"deploy/docker/{name}.Dockerfile").read_text()


def packages_in(name: str) -> set[str]:
    """Those of this repository that an image holds."""
    return set(re.findall(r"^COPY (\w+) /app/\1$", dockerfile(name), flags=re.M))


def deployment(role: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / f"deploy/kubernetes/base/{role}.yaml").read_text())
    return next(each for each in documents if each["kind"] == "Deployment")


def image_environment(role: str) -> dict[str, str]:
    return dict(re.findall(r"(COMMIN_\w+)=(\S+)", dockerfile(role)))


def given_environment(role: str) -> dict[str, str]:
    """What Compose and Kubernetes set, Compose's own variables at their defaults."""
    given = {
        name: DEFAULT.sub(r"\1", value)
        for name, value in compose()["services"][role]["environment"].items()
        if value is not None  # passed on if set outside
    }
    container = deployment(role)["spec"]["template"]["spec"]["containers"][0]
    return given | {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("role", ROLES)
def test_the_environment_makes_settings(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = image_environment(role) | given_environment(role)
    names = {f"COMMIN_{role}_{field}".upper() for field in KINDS[role].model_fields}
    asked = compose()["services"][role]["environment"].keys() | variables.keys()
    assert not asked - names
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = KINDS[role]()
    assert settings.host == "0.0.0.0"
    assert f"EXPOSE {settings.port} {settings.metrics_port}\n" in dockerfile(role)


@pytest.mark.parametrize("role", ROLES)
def test_ports_agree(role: str) -> None:
    port = image_environment(role)[f"COMMIN_{role.upper()}_PORT"]
    container = deployment(role)["spec"]["template"]["spec"]["containers"][0]
    assert compose()["services"][role]["healthcheck"]["test"][-1] == f"localhost:{port}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == int(port)


def test_services_find_each_other() -> None:
    for before, after in (("transmitter", "channel"), ("channel", "receiver")):
        port = image_environment(after)[f"COMMIN_{after.upper()}_PORT"]
        target = given_environment(before)[f"COMMIN_{before}_{after}".upper()]
        assert target == f"dns:///{after}:{port}"


@pytest.mark.parametrize("name", [*ROLES, "client"])
def test_images_hold_what_they_need(name: str) -> None:
    text = dockerfile(name)
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    install, final = stages[1:]
    assert install.startswith(f"{BASE} AS install")
    assert final.startswith(f"{BASE}\n")
    assert "USER 10001:10001" in final
    assert "pip uninstall --yes wheel setuptools pip" in final
    assert f".[{name}]" in install
    assert ("torch" in text.lower().replace("never torch", "")) == (name in ROLES[::2])
    assert packages_in(name) == {"commin", "shared", "console" if name == "client" else name}
    assert "# syntax" not in text
    assert "@sha256" not in text


@pytest.mark.parametrize("name", [*ROLES, "client"])
def test_what_images_run_imports_no_package_that_they_lack(name: str) -> None:
    entry = "console.cli" if name == "client" else f"{name}.__main__"
    script = f"import sys, {entry}; print(*{{each.partition('.')[0] for each in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(run.stdout.decode().split()) & ours <= packages_in(name)


@pytest.mark.parametrize("service", sorted(compose()["services"]))
def test_containers_are_confined(service: str) -> None:
    settings = compose()["services"][service]
    settings = settings.get("<<", {}) | settings
    assert settings["read_only"]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in settings.get("ports", []))
    if service != "client":
        assert settings["restart"] == "unless-stopped"
        assert settings["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("role", ROLES)
def test_draining_fits_in_the_time_there_is(role: str) -> None:
    for name, value in (image_environment(role) | given_environment(role)).items():
        assert not name.endswith("GRACE_SECONDS"), value
    drain = ReceiverSettings.model_fields["grace_seconds"].default + 5.3
    stop = compose()["services"][role]["stop_grace_period"]
    pod = deployment(role)["spec"]["template"]["spec"]
    assert float(stop.removesuffix("s")) > drain
    assert pod["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize("role", ROLES)
def test_pods_are_confined(role: str) -> None:
    pod = deployment(role)["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["readOnlyRootFilesystem"]
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_gpu_file_only_adds_to_services_there_are() -> None:
    assert compose("docker-compose.gpu.yml")["services"].keys() <= compose()["services"].keys()


def test_images_agree_with_pinned_versions() -> None:
    """Torch in images is one that the package takes, and both images take the same."""
    transmitter, receiver = (
        re.findall(r"^ARG .*$", dockerfile(role), flags=re.M) for role in ROLES[::2]
    )
    assert transmitter == receiver
    manifest = (ROOT / "pyproject.toml").read_text()
    low, high = re.search(r'"torch>=([\d.]+),<(\d+)"', manifest).groups()  # type: ignore[union-attr]
    version = re.search(r"torch==([\d.]+)", transmitter[0])
    assert version
    parts = [int(each) for each in version[1].split(".")]
    assert [int(each) for each in low.split(".")] <= parts < [int(high)]
