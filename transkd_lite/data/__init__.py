"""Images and labels: official datasets, synthetic streets, joint transforms, class tables.

`open_dataset` is in `datasets`, class names are in `labels`; `transforms` alone needs torch.
"""

from typing import Literal

Augmentation = Literal["none", "flip", "paper", "paper-fixed", "standard"]  # see `data.transforms`
