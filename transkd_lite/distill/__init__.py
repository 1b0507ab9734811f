"""Distillation: `create_method(name, student, teacher)`, in `methods`, gives a `Distiller`, whatever the method.

Pure losses are in `losses`, the modules of TransKD in `fusion` and `embedding`.
"""

from transkd_lite.distill import embedding, fusion, losses

__all__ = ["embedding", "fusion", "losses"]
