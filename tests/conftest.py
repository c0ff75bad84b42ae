"""What all tests share: how hypothesis and torch behave under test."""

from __future__ import annotations

import os

# Networks in tests are tiny: a second thread costs more than it brings, here and in the services
# that tests start. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

# A busy machine must not fail a test, nor one run find what the next cannot repeat.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
