"""Whatever is done to one file of a run, no reader gives another answer without a word (see `damage.py`)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import damage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_no_damage_is_silent_and_no_error_is_bare() -> None:
    faults: list[str] = []
    found = damage.main(8, seed=3, show=faults.append)
    assert faults == []
    assert {name for name, _ in found} == set(damage.READERS)
    did = {kind: sum(times for (_, what), times in found.items() if what == kind) for kind in ("same", "refused")}
    assert did["refused"] > did["same"]
    assert not [name for name, what in found if name.endswith("other lr") and what == "same"]
