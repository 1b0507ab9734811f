"""Images and labels: official datasets, synthetic streets, joint transforms, class tables.

``make_transform`` is in ``data.transforms``, which needs torch; what is here does not.
"""

from transkd_lite.data.datasets import DATASETS, open_dataset
from transkd_lite.data.files import DataError
from transkd_lite.data.labels import VOID, LabelSpace, label_space

__all__ = ["AUGMENTATIONS", "DATASETS", "VOID", "DataError", "LabelSpace", "label_space", "open_dataset"]

AUGMENTATIONS = ("none", "flip", "paper", "paper-fixed", "standard")  # see `data.transforms`
