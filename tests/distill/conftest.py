"""A pair of tiny networks of different widths, and outputs of theirs with whatever values a test needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from transkd_lite.models.output import ModelSpec, SegModel, SegOutput

NUM_CLASSES = 5


class TinyNetwork(SegModel):
    """Four strided convolutions and a linear head: the interface of a real network, in milliseconds."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        widths, steps = (3, *spec.channels), (1, *spec.strides)
        self.embeds = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], spec.patch_sizes[i], steps[i + 1] // steps[i], spec.patch_sizes[i] // 2)
            for i in range(4)
        )
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 1) for width in spec.channels)
        self.classifier = nn.Conv2d(spec.channels[0], spec.num_classes, 1)
        for convolution in (*self.embeds, *self.blocks, self.classifier):
            # Larger than by default: what a random network says must vary from place to place.
            nn.init.normal_(convolution.weight, std=2 / convolution.weight[0].numel() ** 0.5)

    def forward(self, images: Tensor) -> SegOutput:
        features, embeddings, x = [], [], images
        for embed, block in zip(self.embeds, self.blocks, strict=True):
            x = embed(x)
            embeddings.append(x.flatten(2).transpose(1, 2))
            x = x + block(torch.tanh(x))
            features.append(x)
        return SegOutput(self.classifier(features[0]), tuple(features), tuple(embeddings))


class Lab:
    """What the tests of this folder share."""

    num_classes = NUM_CLASSES
    student = ModelSpec("tiny-student", (8, 12, 16, 24), num_classes=NUM_CLASSES)
    teacher = ModelSpec("tiny-teacher", (12, 16, 24, 32), num_classes=NUM_CLASSES)
    network = TinyNetwork

    @staticmethod
    def images(n: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
        return torch.rand(n, 3, *size)

    @staticmethod
    def labels(n: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
        labels = torch.randint(0, NUM_CLASSES, (n, *size))
        labels[:, :16, :32] = 255
        return labels

    @staticmethod
    def output(
        spec: ModelSpec, images: Tensor, make: Callable[..., Tensor] = torch.randn, dtype: torch.dtype = torch.float32
    ) -> SegOutput:
        """An output of a network of that spec, every tensor a leaf that collects its gradient."""

        def leaf(*shape: int) -> Tensor:
            return make(shape).to(dtype).requires_grad_()

        n, _, height, width = images.shape
        sizes = [(-(-height // s), -(-width // s)) for s in spec.strides]
        features = tuple(leaf(n, c, *size) for c, size in zip(spec.channels, sizes, strict=True))
        embeddings = tuple(leaf(n, h * w, c) for c, (h, w) in zip(spec.channels, sizes, strict=True))
        return SegOutput(leaf(n, spec.num_classes, *sizes[0]), features, embeddings)

    @staticmethod
    def tensors(output: SegOutput) -> list[Tensor]:
        return [output.logits, *output.features, *output.embeddings]


@pytest.fixture(scope="session")
def lab() -> type[Lab]:
    return Lab


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
