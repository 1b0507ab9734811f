"""TransKD for semantic segmentation: networks, distillation methods, data, training and scores.

Use as `import transkd_lite as tk`. A name is imported from its module when it is first used, so that the
import itself costs nothing and a command that only reads run folders never waits for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ModelSpec": "models",
    "SegModel": "models",
    "SegOutput": "models",
    "create_model": "models",
    "list_models": "models",
    "load_model": "models",
    "capture_attention": "models",
    "save_huggingface": "models",
    "save_model": "models",
    "Distiller": "distill",
    "create_method": "distill",
    "list_methods": "distill",
    "describe": "distill",
    "load_reference_checkpoint": "distill.reference",
    "LabelSpace": "data",
    "label_space": "data",
    "open_dataset": "data",
    "TrainConfig": "training.config",
    "FitResult": "training.loop",
    "fit": "training.loop",
    "SegMetrics": "metrics",
    "evaluate": "metrics",
    "evaluate_by": "metrics",
    "as_batch": "metrics",
    "predict": "metrics",
    "count_flops": "profiling",
    "count_parameters": "profiling",
    "export_onnx": "models.onnx",
    "GradientRecord": "explore.gradients",
    "load_gradients": "explore.gradients",
    "record_gradients": "explore.gradients",
    "term_gradients": "explore.gradients",
    "Experiment": "experiments.experiment",
    "run_experiment": "experiments.experiment",
}
_MODULES = (
    "models",
    "distill",
    "data",
    "metrics",
    "profiling",
    "training",
    "experiments",
    "results",
    "plots",
    "explore",
)

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"transkd_lite has no {name!r}; its names are {', '.join(sorted(_HOME))}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
