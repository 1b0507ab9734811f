"""The networks of the paper, and any timm pyramid, behind one interface: `create_model(...)(images) -> SegOutput`.

What a network gives is in `output`; `weights` goes from a name or a file to a network, and back.
"""

from transkd_lite.models import attention, head, segformer

__all__ = ["attention", "head", "segformer"]
