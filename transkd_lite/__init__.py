"""TransKD for semantic segmentation: networks, distillation methods, data, training and scores.

Use as `import transkd_lite as tk`. A name is imported from its module when it is first used, so that the
import itself costs nothing and a command that only reads run folders never waits for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "models.output": "ModelSpec SegModel SegOutput",
    "models.weights": "create_model list_models load_model save_huggingface save_model",
    "models.onnx": "export_onnx",
    "distill.distiller": "Distiller Part",
    "distill.methods": "create_method describe list_methods register",
    "distill.reference": "load_reference_checkpoint",
    "data.datasets": "open_dataset",
    "data.labels": "LabelSpace label_space",
    "training.config": "TrainConfig",
    "training.loop": "FitResult fit",
    "metrics": "SegMetrics as_batch evaluate evaluate_by predict",
    "profiling": "count_flops count_parameters",
    "explore.gradients": "GradientRecord load_gradients record_gradients term_gradients",
    "experiments.experiment": "Experiment run_experiment",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = {"results", "plots", *(module.partition(".")[0] for module in _NAMES)}

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
