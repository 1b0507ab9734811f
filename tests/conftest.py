"""For every test: the same examples on every machine, however slow it is, and kernels that start warm."""

import pytest
from hypothesis import HealthCheck, settings
from quick import fork_kernels

settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    # Examples may share a temporary folder: each clears it.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any machine")


@pytest.fixture
def forked(monkeypatch):
    """Kernels start warm, see `fork_kernels`."""
    fork_kernels(monkeypatch)
