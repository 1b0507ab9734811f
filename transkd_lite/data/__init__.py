"""Images and labels: official datasets, synthetic streets, joint transforms, class tables."""

from transkd_lite.data.datasets import DATASETS, DataError, open_dataset
from transkd_lite.data.labels import VOID, LabelSpace, label_space
from transkd_lite.data.transforms import make_transform

__all__ = ["DATASETS", "VOID", "DataError", "LabelSpace", "label_space", "make_transform", "open_dataset"]
