"""Distillation: `create_method(name, student, teacher)` gives a `Distiller`, whatever the method.

Pure losses are in `losses`, the modules of TransKD in `fusion` and `embedding`.
"""

from transkd_lite.distill import losses
from transkd_lite.distill.describe import describe, method_table
from transkd_lite.distill.methods import Distiller, create_method, list_methods

__all__ = ["Distiller", "create_method", "describe", "list_methods", "losses", "method_table"]
