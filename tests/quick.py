"""A profile of fixture notebooks that takes seconds: what the tests of profiles, batch and command line start from."""

from pathlib import Path

from transkd_lite.distill.methods import METHODS

FIXTURES = Path(__file__).parent / "notebooks" / "fixtures"
PARAMETERS = {"height": 32, "width": 64, "train_images": 4, "val_images": 2, "steps": 1, "batch_size": 2}
PROFILE = {
    "name": "quick",
    "about": "fixture",
    "notebooks": str(FIXTURES),
    "lessons": ["lesson"],
    "parameters": PARAMETERS,
    "teacher": {"network": "segformer_b1", "notebook": "quick_run"},
    "students": {"methods": ["none", "kd"], "seeds": [0, 1], "notebook": "quick_run"},
    "report": "report",
}


def weight_multiple(method, options):
    """By what a run's options multiply the published loss weights of its method."""
    if not options:
        return 1.0
    name = next(name for name in ("weight", "feature_weight", "embedding_weights") if name in options)
    given, usual = (of[name] for of in (options, METHODS[method].options))
    return round(given[0] / usual[0] if name == "embedding_weights" else given / usual, 4)
