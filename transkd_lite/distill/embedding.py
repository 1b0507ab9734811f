"""Aligning patch embeddings: PEA, the Global-Local Mixer, the Embedding Assistant (TransKD, sections III-B to D).

    PEA   E'_i = Linear_i(E_i), compared with the teacher's E_i by MSE
    GL    E'_i = Linear_i(a MHSA(E_i) + b conv1d_3(E_i) · sigmoid(conv1d_3(E_i))), in the paper in stage 4
    EA    E'_i = a_i Linear_i(E_i) + b_i PatchEmbed_i(input of the student's stage i)

In the authors' files Linear_i is `embed{i}_linearproject` (a lone stage is always called `embed1_…`), the
mixer's parts are `attn4`, `conv1` (our `value`), `conv2` (`gate`), `atten_weight` (`attention_scale`) and
`conv_weight` (`conv_scale`), the assistants are `patch_embed{i}`, and `fuse_weights` holds a_1 … a_4, then
b_1 … b_4 (`linear_scale`, `patch_scale`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import Part, Terms
from transkd_lite.distill.losses import resize_map
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["PAPER_WEIGHTS", "AlignedEmbeddings", "EmbeddingAssistant", "GLMixer", "StageAlignment"]

PAPER_WEIGHTS = (0.1, 0.1, 0.5, 1.0)  # of the terms pea_1 … pea_4
NUM_HEADS = 8  # of the mixer's attention


class GLMixer(nn.Module):
    """Global-Local Mixer: a MHSA(E) + b [conv1d_3(E) · sigmoid(conv1d_3(E))], optionally + E.

    a and b are learned and start at the two numbers `start`, by default 0.5 each, the mean of the global and the local
    path. (The authors left them to uninitialised memory, which `start` can imitate.) Shapes: (N, L, C) -> (N, L, C).
    """

    def __init__(self, channels: int, residual: bool = False, start: Sequence[float] = (0.5, 0.5)) -> None:
        from timm.layers import Attention  # heavy

        super().__init__()
        if len(start) != 2:
            raise ValueError(f"a mixer starts at two numbers (attention, convolution), got {tuple(start)}")
        if channels % NUM_HEADS:
            raise ValueError(f"{channels} channels cannot be split into {NUM_HEADS} heads: take another student")
        self.residual = residual
        self.attention = Attention(channels, NUM_HEADS)  # without bias in q, k and v
        self.value, self.gate = (nn.Conv1d(channels, channels, 3, padding=1) for _ in range(2))
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

    def forward(self, feature: Tensor, size: Sequence[int]) -> Tensor:
        # Backbones that round sizes down differ by one position from this convolution.
        return self.norm(resize_map(self.proj(feature), size).flatten(2).transpose(1, 2))


class EmbeddingAssistant(nn.Module):
    """A second, teacher-sized patch embedding of stage i beside the linear projection of the student's own.

    a starts at 0.1 i and b at 0.1 (i + 4). Without `linear_path` the assistant stands alone: b PatchEmbed(x).
    """

    def __init__(self, stage: int, student: ModelSpec, teacher: ModelSpec, linear_path: bool = True) -> None:
        super().__init__()
        inputs, before = (3, *student.channels), (1, *student.strides)
        i, width = stage - 1, teacher.channels[stage - 1]
        self.linear = nn.Linear(student.channels[i], width) if linear_path else None
        self.linear_scale = nn.Parameter(torch.full((1,), 0.1 * stage)) if linear_path else None
        self.patch_embed = PatchEmbed(inputs[i], width, student.patch_sizes[i], student.strides[i] // before[i])
        self.patch_scale = nn.Parameter(torch.full((1,), 0.1 * (stage + 4)))

    def forward(self, tokens: Tensor, stage_input: Tensor, size: Sequence[int]) -> Tensor:
        """(N, h*w, C_S) and the stage's input (N, C_in, H, W) -> (N, h*w, C_T)."""
        assisted = self.patch_scale * self.patch_embed(stage_input, size)
        return assisted if self.linear is None else self.linear_scale * self.linear(tokens) + assisted


class StageAlignment(nn.Module):
    """PEA of one stage, with a Global-Local Mixer before the linear projection where one is given."""

    def __init__(self, stage: int, student: ModelSpec, teacher: ModelSpec, mixer: GLMixer | None = None) -> None:
        super().__init__()
        self.mixer = mixer
        self.linear = nn.Linear(student.channels[stage - 1], teacher.channels[stage - 1])

    def forward(self, tokens: Tensor, stage_input: Tensor, size: Sequence[int]) -> Tensor:
        """(N, L, C_S) -> (N, L, C_T); the stage's input is not looked at."""
        return self.linear(tokens if self.mixer is None else self.mixer(tokens))


class AlignedEmbeddings(Part):
    """The student's patch embeddings in the teacher's width: one term `pea_<stage>` a chosen stage.

    `stages` maps 1 … 4 to modules (tokens, input of the stage, size of its grid) -> projected tokens.
    """

    def __init__(self, stages: Mapping[int, nn.Module], weights: Mapping[int, float]) -> None:
        super().__init__("pea", {f"pea_{stage}": weights[stage] for stage in stages})
        self.stages = nn.ModuleDict({str(stage): module for stage, module in stages.items()})
        self.reads = [f"embeddings_{stage}" for stage in stages]

    def projected(self, images: Tensor, student: SegOutput) -> dict[int, Tensor]:
        """The projected embeddings (N, H_i*W_i, C_T_i) of the chosen stages."""
        inputs = (images, *student.features)
        return {
            i: module(student.embeddings[i - 1], inputs[i - 1], student.features[i - 1].shape[2:])
            for i, module in ((int(key), module) for key, module in self.stages.items())
        }

    def forward(self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> Terms:
        terms = {}
        for i, tokens in self.projected(images, student).items():
            own, wanted = student.features[i - 1].shape[2:], teacher.features[i - 1].shape[2:]
            if own != wanted:  # resized as the map that they are
                tokens = resize_map(tokens.transpose(1, 2).unflatten(2, own), wanted).flatten(2).transpose(1, 2)
            terms[f"pea_{i}"] = losses.mse(tokens, teacher.embeddings[i - 1])
        return terms
