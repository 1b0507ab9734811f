"""Images and labels: official datasets, synthetic streets, joint transforms, class tables.

`make_transform` is in `data.transforms`, which needs torch; what is here does not.
"""

from typing import Literal

from transkd_lite.data.datasets import DATASETS, open_dataset
from transkd_lite.data.decoding import DataError
from transkd_lite.data.labels import VOID, LabelSpace, label_space

__all__ = ["DATASETS", "VOID", "Augmentation", "DataError", "LabelSpace", "label_space", "open_dataset"]

Augmentation = Literal["none", "flip", "paper", "paper-fixed", "standard"]  # see `data.transforms`
