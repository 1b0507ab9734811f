"""Aligning patch embeddings: PEA, the Global-Local Mixer, the Embedding Assistant (TransKD, sections III-B to D).

    PEA   E'_i = Linear_i(E_i), compared with the teacher's E_i by MSE
    GL    E'_i = Linear_i(a MHSA(E_i) + b conv1d_3(E_i) · sigmoid(conv1d_3(E_i))), in the paper in stage 4
    EA    E'_i = a_i Linear_i(E_i) + b_i PatchEmbed_i(input of the student's stage i)

In the authors' files Linear_i is `embed{i}_linearproject` (a lone stage is always called `embed1_…`), the
mixer's parts are `attn4`, `conv1` (our `value`), `conv2` (`gate`), `atten_weight` (`attention_scale`) and
`conv_weight` (`conv_scale`), the assistants are `patch_embed{i}`, and `fuse_weights` holds a_1 … a_4, then
b_1 … b_4 (`linear_scale`, `patch_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import Part
from transkd_lite.distill.losses import map_size, resize_map, resize_tokens
from transkd_lite.models.output import SegOutput

__all__ = ["PAPER_WEIGHTS", "AlignedEmbeddings", "EmbeddingAssistant", "GLMixer", "StageAlignment"]

PAPER_WEIGHTS = (0.1, 0.1, 0.5, 1.0)  # of the terms pea_1 … pea_4
Size = tuple[int, int]


class MultiHeadAttention(nn.Module):
    """Plain multi-head self-attention over tokens (N, L, C), without bias in q, k and v."""

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split into {num_heads} heads: choose a divisor")
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GLMixer(nn.Module):
    """Global-Local Mixer: a MHSA(E) + b [conv1d_3(E) · sigmoid(conv1d_3(E))], optionally + E.

    a and b are learned and start at `start`, by default 0.5 each, the mean of the global and the local path.
    (The authors left them to uninitialised memory, which `start` can imitate.) Shapes: (N, L, C) -> (N, L, C).

    Raises ValueError unless `start` holds two finite numbers.
    """

    def __init__(
        self, channels: int, num_heads: int = 8, residual: bool = False, start: Sequence[float] = (0.5, 0.5)
    ) -> None:
        super().__init__()
        if len(start) != 2 or not all(math.isfinite(value) for value in start):
            raise ValueError(
                f"the mixing weights start at two finite numbers (attention, convolution), got {tuple(start)}: "
                "for example (0.5, 0.5)"
            )
        self.residual = residual
        self.attention = MultiHeadAttention(channels, num_heads)
        self.value = nn.Conv1d(channels, channels, 3, padding=1)
        self.gate = nn.Conv1d(channels, channels, 3, padding=1)
        self.attention_scale, self.conv_scale = (nn.Parameter(torch.full((1,), float(value))) for value in start)

    def local(self, tokens: Tensor) -> Tensor:
        """The gated convolution along the token sequence."""
        channels_first = tokens.transpose(1, 2)
        return (self.value(channels_first) * torch.sigmoid(self.gate(channels_first))).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.attention_scale * self.attention(tokens) + self.conv_scale * self.local(tokens)
        return mixed + tokens if self.residual else mixed


class PatchEmbed(nn.Module):
    """An overlapping patch embedding: strided convolution, then LayerNorm (eps 1e-5).

    It starts as SegFormer's do: weights normal with variance 2 / fan_out, no bias.
    Shapes: map (N, C_in, H, W) and the size wanted -> tokens (N, h*w, C_out).
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, patch_size, stride, padding=patch_size // 2)
        nn.init.kaiming_normal_(self.proj.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.proj.get_parameter("bias"))
        self.norm = nn.LayerNorm(out_channels, eps=1e-5)

    def forward(self, feature: Tensor, size: Size) -> Tensor:
        # Backbones that round sizes down differ by one position from this convolution.
        return self.norm(resize_map(self.proj(feature), size).flatten(2).transpose(1, 2))


class EmbeddingAssistant(nn.Module):
    """A second, teacher-sized patch embedding of stage i beside the linear projection of the student's own.

    a starts at 0.1 i and b at 0.1 (i + 4). Without `linear_path` the assistant stands alone: b PatchEmbed(x).
    """

    def __init__(
        self,
        stage: int,
        in_channels: int,
        student_channels: int,
        teacher_channels: int,
        patch_size: int,
        stride: int,
        linear_path: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(student_channels, teacher_channels) if linear_path else None
        self.linear_scale = nn.Parameter(torch.full((1,), 0.1 * stage)) if linear_path else None
        self.patch_embed = PatchEmbed(in_channels, teacher_channels, patch_size, stride)
        self.patch_scale = nn.Parameter(torch.full((1,), 0.1 * (stage + 4)))

    def forward(self, tokens: Tensor, stage_input: Tensor, size: Size) -> Tensor:
        """(N, h*w, C_S) and the stage's input (N, C_in, H, W) -> (N, h*w, C_T)."""
        assisted = self.patch_scale * self.patch_embed(stage_input, size)
        return assisted if self.linear is None else self.linear_scale * self.linear(tokens) + assisted


class StageAlignment(nn.Module):
    """PEA of one stage, with a Global-Local Mixer before the linear projection where asked for."""

    def __init__(self, student_channels: int, teacher_channels: int, mixer: GLMixer | None = None) -> None:
        super().__init__()
        self.mixer = mixer
        self.linear = nn.Linear(student_channels, teacher_channels)

    def forward(self, tokens: Tensor, stage_input: Tensor, size: Size) -> Tensor:
        """(N, L, C_S) -> (N, L, C_T); the stage's input is not looked at."""
        return self.linear(tokens if self.mixer is None else self.mixer(tokens))


class AlignedEmbeddings(Part):
    """The student's patch embeddings in the teacher's width: one term `pea_<stage>` a chosen stage.

    `stages` maps "1" … "4" to modules (tokens, input of the stage, size of its grid) -> projected tokens.
    """

    def __init__(self, stages: Mapping[int, nn.Module], weights: Mapping[int, float]) -> None:
        super().__init__("pea", {f"pea_{stage}": weights[stage] for stage in stages})
        self.stages = nn.ModuleDict({str(stage): module for stage, module in stages.items()})

    def projected(self, images: Tensor, student: SegOutput) -> dict[int, Tensor]:
        """The projected embeddings (N, H_i*W_i, C_T_i) of the chosen stages."""
        inputs = (images, *student.features)
        sizes = [map_size(feature) for feature in student.features]
        return {
            i: module(student.embeddings[i - 1], inputs[i - 1], sizes[i - 1])
            for i, module in ((int(key), module) for key, module in self.stages.items())
        }

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        terms = {}
        for i, tokens in self.projected(images, student).items():
            own, wanted = map_size(student.features[i - 1]), map_size(teacher.features[i - 1])
            terms[f"pea_{i}"] = losses.mse(resize_tokens(tokens, own, wanted), teacher.embeddings[i - 1])
        return terms
