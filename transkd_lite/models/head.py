"""Decoder heads: SegFormer's all-MLP head and the semantic-FPN head that the paper gives to PVTv2.

Sources: SegFormer (Xie et al. 2021, section 3.2); Panoptic feature pyramid networks (Kirillov et al. 2019).
Initial values are those of the published code, so that the first cross entropy is near log(num_classes).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AllMLPHead", "FoldedHead", "PreNormBlock", "SemanticFPNHead", "folded_heads", "initialise", "to_map", "to_tokens",
]  # fmt: skip

# --- Small parts that several networks share: token and map layouts, stochastic depth, initial weights.
#
# Initial values of the encoders follow SegFormer (Xie et al. 2021) and PVTv2 (Wang et al. 2021): linear layers from
# a truncated normal of standard deviation 0.02, convolutions from a normal of variance 2 / fan-out, biases zero.


def to_tokens(x: Tensor) -> Tensor:
    """A map (N, C, H, W) as tokens (N, H * W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Tokens (N, H * W, C) as a map (N, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, size)


class PreNormBlock(nn.Module):
    """A block over tokens (N, H * W, C): x + attention(norm(x)), then x + mlp(norm(x)), both of (tokens, size).

    In training each branch is dropped for whole images at the rate `drop_path` (stochastic depth, Huang et al. 2016).
    What is kept is divided by the probability of keeping it, so that the expectation is unchanged.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp: nn.Module, drop_path: float, norm_eps: float) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1; got {drop_path}")
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = mlp
        self.drop_rate = drop_path

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), size))
        return x + self.drop(self.mlp(self.norm2(x), size))

    def drop(self, branch: Tensor) -> Tensor:
        """The branch with some images at 0."""
        if not self.training or self.drop_rate == 0:
            return branch
        kept = torch.rand((len(branch), 1, 1), device=branch.device) < 1 - self.drop_rate
        return branch * (kept.to(branch.dtype) / (1 - self.drop_rate))


def initialise(module: nn.Module) -> None:
    """Set one layer's initial weights; give it to `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


# --- The two heads.


class AllMLPHead(nn.Module):
    """Each feature to a common width, all to the largest size, fused by a 1x1 convolution, classified.

    features 4 x (N, C_i, H_i, W_i) -> logits (N, K, H_1, W_1). The concatenation runs from the deepest stage
    to the shallowest, as in the published weights. Layers begin with PyTorch's own values, the fusing
    convolution with Kaiming's normal (fan-out), as in NVIDIA's code and the TransKD authors'. With
    `normed` projections (mmsegmentation's variant) so do the projections, and the classifier with a normal of
    standard deviation 0.01, as there.

    The switch `folded` has the linear maps taken before the upsampling: the same function for a fraction of the work.
    Bilinear upsampling gives every position a mean of others with weights that add to 1, the same in all channels, so
    it commutes with whatever is linear (and affine) in the channels:

        W [up(P_1 x_1 + b_1); …] = Σ_i up(W_i (P_i x_i + b_i))

    The right side mixes on the small maps, and W_i P_i can be multiplied out first. At 512x1024 this takes
    SegFormer-B0 from 17.8 to 9.2 and B2 from 129 to 52 G multiply-accumulates. Sums are rounded in another order,
    which is all that differs. Training and export switch it on (`folded_heads`); as published it is off. Norms
    between the two maps do not commute: a head that has them computes as it is, whatever the switch says.
    """

    folded = False

    def __init__(
        self, channels: tuple[int, ...], width: int, num_classes: int, *, dropout: float = 0.1, normed: bool = False
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(c, width, bias=not normed) for c in channels)
        self.projection_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels) if normed else None
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for weight in [self.fuse.weight, *(self.projections.parameters() if normed else [])]:
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        if normed:
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.get_parameter("bias"))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        folded = self.folded and self.projection_norms is None
        prepare = self.mix if folded else self.project
        maps = [_resize(prepare(i, feature), features[0].shape[2:]) for i, feature in enumerate(features)]
        fused = sum(maps[1:], maps[0]) if folded else self.fuse(torch.cat(maps[::-1], dim=1))
        return self.classifier(self.dropout(F.relu(self.norm(fused))))

    def project(self, i: int, feature: Tensor) -> Tensor:
        """P x + b: feature of stage i + 1, (N, C_i, H_i, W_i), at the common width."""
        projected = to_map(self.projections[i](to_tokens(feature)), feature.shape[2:])
        return projected if self.projection_norms is None else F.relu(self.projection_norms[i](projected))

    def mix(self, i: int, feature: Tensor) -> Tensor:
        """W (P x + b), in the cheaper order: (W P) x + W b where there are more tokens than channels."""
        tokens = to_tokens(feature)
        if tokens.shape[0] * tokens.shape[1] <= tokens.shape[2]:
            mixed = F.linear(self.projections[i](tokens), self.mixer(i))
        else:
            device = "cpu" if tokens.is_meta else tokens.device.type  # autocast does not know meta tensors
            with torch.autocast(device, enabled=False):  # the product of weights keeps their precision
                weight, bias = self.product(i)
            mixed = F.linear(tokens, weight, bias)
        return to_map(mixed, feature.shape[2:])

    def mixer(self, i: int) -> Tensor:
        """W (C, C), what the fusing convolution does to stage i + 1; in its weight the deepest comes first."""
        return self.fuse.weight.flatten(1).chunk(len(self.projections), dim=1)[-1 - i]

    def product(self, i: int) -> tuple[Tensor, Tensor]:
        """Weight (C, C_i) and bias of x -> W (P x + b) as one linear map."""
        weight, bias = self.projections[i].parameters()
        return self.mixer(i) @ weight, self.mixer(i) @ bias


class FoldedHead(nn.Module):
    """An all-MLP head with its linear maps multiplied out once, W_i P_i, as 1x1 convolutions of the small maps."""

    def __init__(self, head: AllMLPHead) -> None:
        super().__init__()
        weights, biases = zip(*map(head.product, range(len(head.projections))), strict=True)
        self.weights = nn.ParameterList(weight[:, :, None, None] for weight in weights)
        self.biases = nn.ParameterList(biases)
        self.norm, self.classifier = head.norm, head.classifier

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        first, *others = map(F.conv2d, features, self.weights, self.biases)
        fused = first + sum(_resize(x, first.shape[2:]) for x in others)
        return self.classifier(F.relu(self.norm(fused)))


@contextlib.contextmanager
def folded_heads(*models: nn.Module | None) -> Iterator[None]:
    """Within the context the all-MLP heads of the models are `folded`; then they are again what they were."""
    modules = (m for model in models if model is not None for m in model.modules())
    heads = [m for m in modules if isinstance(m, AllMLPHead) and not m.folded]
    try:
        for head in heads:
            head.folded = True
        yield
    finally:
        for head in heads:
            head.folded = False


class SemanticFPNHead(nn.Module):
    """Top-down pyramid of one width, each level brought to a quarter of the image by 3x3 convolutions, then
    summed.

    features 4 x (N, C_i, H_i, W_i) -> logits (N, K, H_1, W_1). As the paper gives it to PVTv2: pyramid of
    width 256 without norms, head of width 128. Level i passes max(1, i) convolutions (i = 0 … 3), each
    followed by ReLU and, for i > 0, by doubling the size. Initial values are mmsegmentation's: Xavier's uniform in
    the pyramid, Kaiming's normal (fan-out) in the head, a small normal in the classifier. Its standard deviation
    is 0.003 where mmsegmentation has 0.01, since without norms the features are about three times as large.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        pyramid, width = 256, 128
        self.laterals = nn.ModuleList(nn.Conv2d(c, pyramid, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(pyramid, pyramid, 3, padding=1) for _ in channels)
        self.scales = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width if j else pyramid, width, 3, padding=1) for j in range(max(1, i)))
            for i in range(len(channels))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(values)
            elif name.startswith("scales"):
                nn.init.kaiming_normal_(values, mode="fan_out", nonlinearity="relu")
            elif not name.startswith("classifier"):
                nn.init.xavier_uniform_(values)
        nn.init.normal_(self.classifier.weight, std=0.003)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[2:], mode="nearest")
        for i, (smooth, convolutions) in enumerate(zip(self.smooth, self.scales, strict=True)):
            x = smooth(levels[i])
            for convolution in convolutions.children():
                x = F.relu(convolution(x))
                if i > 0:
                    x = _resize(x, [2 * x.shape[2], 2 * x.shape[3]])
            levels[i] = _resize(x, features[0].shape[2:])
        return self.classifier(self.dropout(torch.stack(levels).sum(0)))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=False)
