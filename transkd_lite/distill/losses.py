"""The losses of all methods as pure functions of student and teacher tensors.

All take the student first, return a scalar, expect equal shapes (the methods see to that), and
compute in float32 at least. The gradient flows into both arguments: that the teacher is a constant is the
Distiller's business. KL divergences are written with log-softmax on both sides, so that no 0 · log 0 arises.

TransKD uses `hcl` on fused features and `mse` on embeddings (arXiv 2202.13393, section III); the others are
its competitors, each with its source. Labels are train ids below the number of classes, or 255 (void), which counts
nowhere. `count` replaces the number of valid pixels that a mean is divided by, where several processes share a
mini-batch (`count_valid`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transkd_lite.data.labels import VOID
from transkd_lite.data.transforms import resize_labels

__all__ = ["at", "cirkd", "cwd", "dist", "dkd", "hcl", "ifvd", "kd", "mgd", "mse", "resize_labels", "skd"]

# --- Bringing two networks to one shape and one precision before they are compared.
#
# Features differ in size when strides differ, embeddings in length, labels are larger than all of them; mixed
# precision leaves bfloat16 behind. Everything here is a pure function; what needs parameters (a change of
# width) is part of a method.

P = ParamSpec("P")


def _widen(value: Any) -> Any:
    """float16 and bfloat16 tensors become float32, also inside lists and tuples; everything else stays."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    return tuple(_widen(v) for v in value) if isinstance(value, list | tuple) else value


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute `loss` in float32 at least, whatever the precision of its tensors and of the autocast around it.

    A sum over a map of 128x256 positions keeps two digits in bfloat16, and autocast would also run the
    products of the affinity losses in bfloat16.
    """

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first: Any = args or tuple(kwargs.values())
        while isinstance(first, list | tuple):
            first = first[0]
        device = "cpu" if first.is_meta else first.device.type  # autocast does not know meta tensors
        with torch.autocast(device, enabled=False):
            return loss(*_widen(args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapped


def map_size(feature: Tensor) -> tuple[int, int]:
    """(H, W) of a map (N, C, H, W)."""
    return feature.shape[2], feature.shape[3]


def pooling_window(size: tuple[int, int], most: int) -> int:
    """The smallest of 1, 2, 4, 8, … such that windows of that side leave at most `most` positions of a map."""
    window = 1
    while -(-size[0] // window) * -(-size[1] // window) > most:
        window *= 2
    return window


def resize_map(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (N, C, H, W) to (N, C, *size); the tensor itself where the size is right already."""
    if feature.shape[-2:] == torch.Size(size):
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def resize_tokens(tokens: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Bilinear resize of a token sequence (N, H*W, C), laid out row by row on `size`, to (N, H'*W', C)."""
    if tuple(size) == tuple(new_size):
        return tokens
    grid = tokens.transpose(1, 2).unflatten(2, size)
    return resize_map(grid, new_size).flatten(2).transpose(1, 2)


def valid_pixels(labels: Tensor | None, like: Tensor) -> Tensor:
    """Which positions of a map (N, C, H, W) are not void, (N, H, W) bool; without labels all of them."""
    if labels is None:
        return torch.ones_like(like[:, 0], dtype=torch.bool)
    return resize_labels(labels, map_size(like)) != VOID


def count_valid(valid: Tensor, processes: int = 1) -> Tensor:
    """How many entries of a bool tensor are valid, at least 1: what a mean over them divides by.

    Where processes share a mini-batch it is the count of all over their number. The mean of the processes' terms,
    which is what gradients are averaged to, is then the term of the whole mini-batch, however unequal their void.
    """
    count = valid.sum()
    if processes > 1:
        torch.distributed.all_reduce(count)
    return count.clamp_min(1) / processes


# --- The losses of all methods as pure functions of student and teacher tensors.

RELATIONS = 2**24  # similarities held at a time: 64 MiB each for student and teacher


def _check_shapes(student: Tensor, teacher: Tensor, *, channels: bool = True) -> None:
    """Raise ValueError unless the shapes agree (without `channels`: all but dimension 1)."""
    own, other = list(student.shape), list(teacher.shape)
    if not channels:
        own[1], other[1] = 0, 0
    if own != other:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree"
            f"{'' if channels else ' in all but channels'}: resize or project the student's tensor first"
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _kl(student_logits: Tensor, teacher_logits: Tensor, dim: int) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)), summed over `dim`."""
    log_s = F.log_softmax(student_logits, dim)
    log_t = F.log_softmax(teacher_logits, dim)
    return (log_t.exp() * (log_t - log_s)).sum(dim)


def _mean_where(values: Tensor, valid: Tensor, count: Tensor | None) -> Tensor:
    """Mean of `values` where `valid`; 0, still attached to the graph, where nothing is."""
    return values.where(valid, 0.0).sum() / (count_valid(valid) if count is None else count)


def _unit(x: Tensor, dim: int, floor: float | Tensor = 0.0) -> Tensor:
    """x over its Euclidean norm along `dim`; 0, with gradient 0, where the norm is not above `floor`.

    A plain division by max(norm, 1e-12) has gradients of 1e12 at constant inputs.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.where(norm > floor, torch.inf)


# Features and embeddings


@full_precision
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over all elements, of any shape: PEA's and FitNet's distance."""
    _check_shapes(student, teacher)
    return F.mse_loss(student, teacher)


@full_precision
def hcl(student_features: Sequence[Tensor] | Tensor, teacher_features: Sequence[Tensor] | Tensor) -> Tensor:
    """Hierarchical context loss, summed over stages (Chen et al. 2021, Knowledge Review; the loss of CSF).

    Of a stage: [MSE + Σ_k 2^-k MSE of l_k x l_k averages] / (1 + Σ_k 2^-k), l_k those of 4, 2, 1 below the height.
    Shapes: lists of maps (N, C_i, H_i, W_i), equal in both, or one map each. 0 when equal. Raises ValueError
    for lists of different length.
    """
    student_features, teacher_features = (
        [f] if isinstance(f, Tensor) else f for f in (student_features, teacher_features)
    )
    if len(student_features) != len(teacher_features):
        raise ValueError(
            f"hcl needs as many student features as teacher features, got {len(student_features)} and "
            f"{len(teacher_features)}"
        )
    stages = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        _check_shapes(student, teacher)
        total, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
        for level in (4, 2, 1):
            if level < student.shape[2]:
                weight /= 2  # halves per level used, not per level listed
                pooled = [F.adaptive_avg_pool2d(x, (level, level)) for x in (student, teacher)]
                total, weights = total + weight * F.mse_loss(pooled[0], pooled[1]), weights + weight
        stages.append(total / weights)
    return torch.stack(stages).sum()


@full_precision
def at(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Attention transfer: mean (Q_S - Q_T)^2, Q = channel mean of F^2 as a vector of unit length per image.

    Shapes: (N, C, H, W), channels may differ. Zagoruyko and Komodakis 2017 (arXiv 1612.03928), reduced as in
    CIRKD.
    """
    _check_shapes(student_feature, teacher_feature, channels=False)
    student, teacher = (_unit(f.square().mean(1).flatten(1), 1) for f in (student_feature, teacher_feature))
    return F.mse_loss(student, teacher)


@full_precision
def mgd(generated: Tensor, teacher_feature: Tensor) -> Tensor:
    """Masked generative distillation: sum of squares between the generated and the teacher's map, over N.

    Shapes: (N, C, H, W). Yang et al. 2022 (arXiv 2205.01529); the masking and the generator are the method's.
    """
    _check_shapes(generated, teacher_feature)
    return F.mse_loss(generated, teacher_feature, reduction="sum") / generated.shape[0]


# Logits


@full_precision
def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    count: Tensor | None = None,
) -> Tensor:
    """tau^2 · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau)) over classes.

    Shapes: logits (N, K, H, W); labels (N, h, w) of any size or None (then every pixel counts). Hinton et al.
    2015 (arXiv 1503.02531).
    """
    _check_temperature(temperature)
    _check_shapes(student_logits, teacher_logits)
    divergence = _kl(student_logits / temperature, teacher_logits / temperature, dim=1)
    return temperature**2 * _mean_where(divergence, valid_pixels(labels, student_logits), count)


@full_precision
def cwd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, over: str = "positions") -> Tensor:
    """Channel-wise distillation of logits or features (N, C, H, W); Shu et al. 2021 (arXiv 2011.13256).

    over="positions": a softmax over the H·W positions of every channel, tau^2 / (N C) · Σ KL(T ‖ S).
    over="classes": a softmax over the channels of every position, tau^2 / (N H W) · Σ KL(T ‖ S).
    """
    if over not in ("positions", "classes"):
        raise ValueError(f'over must be "positions" or "classes", got {over!r}')
    _check_temperature(temperature)
    _check_shapes(student_logits, teacher_logits)
    student, teacher = (z.flatten(2) / temperature for z in (student_logits, teacher_logits))
    return temperature**2 * _kl(student, teacher, dim=2 if over == "positions" else 1).mean()


@full_precision
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    count: Tensor | None = None,
) -> Tensor:
    """Decoupled KD: tau^2 · mean over valid pixels of alpha · TCKD + beta · NCKD.

    Zhao et al. 2022 (arXiv 2203.08679), pixel by pixel: with p the softmax of z / tau and t the pixel's class,
    TCKD is the KL of (p_t, 1 - p_t) and NCKD that of the softmax over the other classes. KD would be TCKD + (1 - p_t
    of the teacher) · NCKD. alpha, beta and tau are those of the paper's CIFAR-100 runs; it used (1, 0.5, 1) on
    ImageNet. Shapes: logits (N, K, H, W), labels (N, h, w) of any size. 0 with one class.
    """
    _check_temperature(temperature)
    _check_shapes(student_logits, teacher_logits)
    valid = valid_pixels(labels, student_logits)
    target = resize_labels(labels, map_size(student_logits)).where(valid, 0)[:, None]
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter(1, target, False)
    log_s, log_t = (F.log_softmax(z / temperature, 1) for z in (student_logits, teacher_logits))
    target_s, target_t = log_s.gather(1, target), log_t.gather(1, target)
    lowest = torch.finfo(log_s.dtype).min  # not -inf: with one class nothing is left, and inf - inf is nan
    rest_s, rest_t = (z.where(others, lowest).logsumexp(1, keepdim=True) for z in (log_s, log_t))
    tckd = target_t.exp() * (target_t - target_s) + rest_t.exp() * (rest_t - rest_s)
    difference = ((log_t - rest_t) - (log_s - rest_s)).where(others, 0.0)
    nckd = ((log_t - rest_t).where(others, -torch.inf).exp() * difference).sum(1)
    return temperature**2 * _mean_where(alpha * tckd[:, 0] + beta * nckd, valid, count)


def _correlation_distance(student: Tensor, teacher: Tensor, dim: int, valid: Tensor) -> Tensor:
    """1 - Pearson correlation along `dim` over the valid entries; 0 where the teacher is constant there."""
    count = valid.sum(dim, keepdim=True).clamp_min(1)

    def direction(x: Tensor) -> Tensor:
        x = x * valid
        centred = (x - x.sum(dim, keepdim=True) / count) * valid
        # What is left of a constant after centring is rounding, and has no direction.
        return _unit(centred, dim, floor=1e-5 * torch.linalg.vector_norm(x, dim=dim, keepdim=True))

    wanted = direction(teacher)
    return (wanted * (wanted - direction(student))).sum(dim)  # wanted · wanted is 1, or 0 for a constant


@full_precision
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    count: Tensor | None = None,
) -> Tensor:
    """DIST: tau^2 · [beta · (1 - inter) + gamma · (1 - intra)], of the softmax of z / tau (arXiv 2205.10536).

    inter: mean over valid pixels of the Pearson correlation across classes. intra: mean over classes of the
    correlation across all valid pixels of the batch. beta = gamma = tau = 1 as in the authors' segmentation
    runs. What the teacher holds constant has no correlation and counts as matched.
    Shapes: logits (N, K, H, W), labels (N, h, w) or None.
    """
    _check_temperature(temperature)
    _check_shapes(student_logits, teacher_logits)
    valid = valid_pixels(labels, student_logits).flatten()
    student, teacher = (
        (z / temperature).softmax(1).transpose(0, 1).flatten(1) for z in (student_logits, teacher_logits)
    )
    every_class = torch.ones_like(student, dtype=torch.bool)
    inter = _mean_where(_correlation_distance(student, teacher, 0, every_class), valid, count)
    intra = _correlation_distance(student, teacher, 1, valid[None]).mean()
    return temperature**2 * (beta * inter + gamma * intra)


# Relations between positions


def _directions(feature: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C), every position's vector of unit length."""
    return _unit(feature.flatten(2).transpose(1, 2), 2)


@full_precision
def skd(student_feature: Tensor, teacher_feature: Tensor, *, pool: int | None = 2) -> Tensor:
    """Pair-wise structured distillation: mean (a_S - a_T)^2 of the affinities a_ij = f_i · f_j of nodes.

    Nodes are the maxima of pool x pool windows, of unit length; None takes windows that leave at most 32 x 64 nodes, as
    in the authors' runs. Shapes: (N, C, H, W), channels may differ.
    Liu et al. 2019 (arXiv 1903.04197).
    """
    _check_shapes(student_feature, teacher_feature, channels=False)
    window = pooling_window(map_size(student_feature), 32 * 64) if pool is None else pool
    nodes = [_directions(F.max_pool2d(f, window, ceil_mode=True)) for f in (student_feature, teacher_feature)]
    return F.mse_loss(nodes[0] @ nodes[0].mT, nodes[1] @ nodes[1].mT)


@full_precision
def ifvd(
    student_feature: Tensor, teacher_feature: Tensor, labels: Tensor, *, num_classes: int, count: Tensor | None = None
) -> Tensor:
    """Intra-class feature variation: MSE of the maps cosine(f(p), mean feature of p's class in the image).

    Mean over valid pixels. Shapes: features (N, C, H, W), channels may differ; labels (N, h, w) of any size.
    Wang et al. 2020 (ECCV, "Intra-class feature variation distillation"), prototypes per image as in CIRKD.
    """
    _check_shapes(student_feature, teacher_feature, channels=False)
    valid = valid_pixels(labels, student_feature).flatten(1)
    classes = resize_labels(labels, map_size(student_feature)).flatten(1).where(valid, 0)
    member = F.one_hot(classes, num_classes).to(student_feature.dtype) * valid[..., None]
    mean = member / member.sum(1, keepdim=True).clamp_min(1)

    def similarity(feature: Tensor) -> Tensor:
        prototypes = member @ (mean.mT @ feature.flatten(2).mT)
        return (_directions(feature) * _unit(prototypes, 2)).sum(2)

    return _mean_where((similarity(student_feature) - similarity(teacher_feature)).square(), valid, count)


@full_precision
def cirkd(
    student_feature: Tensor, teacher_feature: Tensor, *, temperature: float = 0.1, pool: int | None = None
) -> Tensor:
    """Cross-image relations: KL(T ‖ S) of row-softmaxed similarities between the pixels of image pairs.

    Mean over the N^2 ordered pairs, (i, i) included, and over rows. Vectors have unit length. Shapes: (N, C,
    H, W), channels may differ. Yang et al. 2022 (arXiv 2204.06986); no factor tau^2, as there.

    Maps are first average-pooled over pool x pool windows. None takes the smallest power of 2 that leaves at most 64 x
    128 positions, which gives the windows of the authors' runs: 1 at 64 x 128, 4 at 256 x 256. Similarities are held
    in blocks of rows and computed again for the gradient, so that their memory does not grow with the map.
    """
    _check_temperature(temperature)
    _check_shapes(student_feature, teacher_feature, channels=False)
    window = pooling_window(map_size(student_feature), 64 * 128) if pool is None else pool
    student, teacher = (
        _directions(F.avg_pool2d(f, window, ceil_mode=True)) for f in (student_feature, teacher_feature)
    )

    def divergence(student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return _kl(student_rows @ student.mT / temperature, teacher_rows @ teacher.mT / temperature, 2).sum()

    count = student.shape[:2].numel()
    blocks = [x.flatten(0, 1).split(max(1, RELATIONS // count)) for x in (student, teacher)]
    again = partial(checkpoint, divergence, use_reentrant=False, preserve_rng_state=False)
    sums = [(divergence if count**2 <= RELATIONS else again)(*rows) for rows in zip(*blocks, strict=True)]
    return torch.stack(sums).sum() / (len(student) * count)
