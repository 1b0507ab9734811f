"""Two small layers that the fusion modules are built of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BatchNorm2d", "conv_bn"]


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains where it sees one value a channel (a batch of one on a map of 1x1).

    The variance of one value is undefined, and PyTorch refuses. Such a batch is normalised with the running
    statistics, which it does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution without bias, size kept, then BatchNorm.

    The weights start uniform in ±sqrt(3 / fan_in), as in Knowledge Review and TransKD (PyTorch's default is
    sqrt(3) times smaller).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, BatchNorm2d(out_channels))
