"""What all tests share: how hypothesis and torch behave under test, and a bundle."""

from __future__ import annotations

import os
from pathlib import Path

# Networks in tests are tiny: a second thread costs more than it brings, here and in the services
# that tests start. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test, nor one run find what the next cannot repeat.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle of tiny networks with random weights."""
    from tests.tiny import make_bundle  # the channel's tests run where torch is not installed

    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
