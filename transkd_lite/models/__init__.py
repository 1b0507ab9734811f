"""The networks of the paper, and any timm pyramid, behind one interface: `create_model(...)(images) ->
SegOutput`.
"""

from transkd_lite.models.output import ModelSpec, SegModel, SegOutput
from transkd_lite.models.weights import create_model, list_models, load_model, save_huggingface, save_model

__all__ = [
    "ModelSpec", "SegModel", "SegOutput", "create_model", "list_models", "load_model", "save_huggingface", "save_model",
]  # fmt: skip
