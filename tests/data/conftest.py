"""Fixtures of this folder; the made-up datasets are built in `trees`."""

from pathlib import Path
from types import ModuleType

import pytest
import trees as builders


@pytest.fixture(scope="session")
def trees() -> ModuleType:
    """The builders of made-up datasets."""
    return builders


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """No test remembers verdicts of another, or touches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRANSKD_CACHE", str(folder))
    return folder
