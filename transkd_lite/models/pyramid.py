"""Any timm backbone with four stages at strides 4, 8, 16, 32, with SegFormer's all-MLP head.

The embedding of a stage is what its patch-embedding or downsampling layer gives.
"""

from __future__ import annotations

import timm
from torch import Tensor

__all__ = ["timm_weights"]


def timm_weights(name: str) -> dict[str, Tensor]:
    """timm's ImageNet weights of a backbone. Raises FileNotFoundError where they cannot be fetched."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        raise FileNotFoundError(
            f"timm's weights of {name} could not be fetched ({error}): check the connection, or give a path"
        ) from error
