"""Distillation: `create_method(name, student, teacher)` gives a `Distiller`, whatever the method.

Pure losses are in `losses`, the modules of TransKD in `fusion` and `embedding`.
"""

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import Distiller, Part
from transkd_lite.distill.methods import create_method, describe, list_methods, register

__all__ = ["Distiller", "Part", "create_method", "describe", "list_methods", "losses", "register"]
