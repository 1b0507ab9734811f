"""Protects: a damaged file is refused by name or read whole; nothing wrong passes, and nothing ends in a traceback."""

import damaged_labels
import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSKD_CACHE", "")  # the script sets its own
        yield dict(damaged_labels.run(4))


def test_no_damage_passes_or_ends_in_a_traceback(found):
    bad = {kind: dict(outcomes) for kind, outcomes in found.items() if outcomes["silent"] or outcomes["traceback"]}
    assert bad == {}


def test_damage_is_refused_and_a_cache_is_made_again(found):
    assert all(found[kind]["refused"] >= 3 for kind in damaged_labels.FILES), found
    assert all(found[kind]["whole"] == 4 for kind in damaged_labels.CACHES), found
