"""The losses of all methods as pure functions of student and teacher tensors.

All take the student first, return a scalar, expect equal shapes (the methods see to that), and
compute in float32 at least. The gradient flows into both arguments: that the teacher is a constant is the
Distiller's business. KL divergences are written with log-softmax on both sides, so that no 0 · log 0 arises.

TransKD uses `hcl` on fused features and `mse` on embeddings (arXiv 2202.13393, section III); the others are
its competitors, each with its source. Labels are train ids below the number of classes, or 255 (void), which counts
nowhere.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transkd_lite.data.labels import VOID
from transkd_lite.data.transforms import resize_labels

__all__ = ["at", "cirkd", "cwd", "dist", "dkd", "hcl", "ifvd", "kd", "mgd", "mse", "resize_labels", "skd"]

# --- Bringing two networks to one shape and one precision before they are compared.
#
# Features differ in size when strides differ, embeddings in length, labels are larger than all of them; mixed
# precision leaves bfloat16 behind. What needs parameters (a change of width) is part of a method.

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute `loss` in float32 at least, whatever the precision of its tensors and of the autocast around it.

    A sum over a map of 128x256 positions keeps two digits in bfloat16, and autocast would also run the
    products of the affinity losses in bfloat16.
    """

    def widen(value: Any) -> Any:
        return value.float() if getattr(value, "dtype", None) in (torch.float16, torch.bfloat16) else value

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        known = (v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and not v.is_meta)
        with torch.autocast(next(known, "cpu"), enabled=False):  # which does not know meta tensors
            return loss(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return wrapped


def pooling_window(size: Sequence[int], most: int) -> int:
    """The smallest of 1, 2, 4, 8, … such that windows of that side leave at most `most` positions of a map."""
    window = 1
    while -(-size[0] // window) * -(-size[1] // window) > most:
        window *= 2
    return window


def resize_map(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of (N, C, H, W) to (N, C, *size); the tensor itself where the size is right already."""
    if feature.shape[2:] == torch.Size(size):
        return feature
    return F.interpolate(feature, size=tuple(size), mode="bilinear", align_corners=False)


def valid_pixels(labels: Tensor | None, like: Tensor) -> Tensor:
    """Which positions of a map (N, C, H, W) are not void, (N, H, W) bool; without labels all of them."""
    if labels is None:
        return torch.ones_like(like[:, 0], dtype=torch.bool)
    return resize_labels(labels, like.shape[2:]) != VOID


# --- What several losses share.

RELATIONS = 2**24  # similarities held at a time: 64 MiB each for student and teacher


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"student and teacher must have one shape, got {shapes}: resize or project the former")


def _soften(temperature: float, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both over the temperature."""
    _check_shapes(student, teacher)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return student / temperature, teacher / temperature


def _kl(student_logits: Tensor, teacher_logits: Tensor, dim: int) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)), summed over `dim`."""
    log_s, log_t = F.log_softmax(student_logits, dim), F.log_softmax(teacher_logits, dim)
    return (log_t.exp() * (log_t - log_s)).sum(dim)


def _mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` where `valid`; 0, still attached to the graph, where nothing is."""
    return values.where(valid, 0.0).sum() / valid.sum().clamp_min(1)


def _unit(x: Tensor, dim: int, floor: float | Tensor = 0.0) -> Tensor:
    """x over its Euclidean norm along `dim`; 0, with gradient 0, where the norm is not above `floor`.

    A plain division by max(norm, 1e-12) has gradients of 1e12 at constant inputs.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.where(norm > floor, torch.inf)


# --- Features and embeddings.


@full_precision
def mse(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Mean squared error over all elements, of any shape: PEA's and FitNet's distance; or reduction="sum"."""
    _check_shapes(student, teacher)
    return F.mse_loss(student, teacher, reduction=reduction)


@full_precision
def hcl(student_features: Sequence[Tensor] | Tensor, teacher_features: Sequence[Tensor] | Tensor) -> Tensor:
    """Hierarchical context loss, summed over stages (Chen et al. 2021, Knowledge Review; the loss of CSF).

    Of a stage: [MSE + Σ_k 2^-k MSE of l_k x l_k averages] / (1 + Σ_k 2^-k), l_k those of 4, 2, 1 below the height.
    Shapes: lists of maps (N, C_i, H_i, W_i), equal in both, or one map each. 0 when equal. Raises `ValueError`
    for lists of different length.
    """
    if not (isinstance(student_features, Tensor) and isinstance(teacher_features, Tensor)):
        return torch.stack([hcl(s, t) for s, t in zip(student_features, teacher_features, strict=True)]).sum()
    _check_shapes(student_features, teacher_features)
    difference = student_features - teacher_features  # averaging is linear: one map to pool instead of two
    total, weights, weight = difference.square().mean(), 1.0, 1.0
    for level in (4, 2, 1):
        if level < difference.shape[2]:
            weight /= 2  # halves per level used, not per level listed
            pooled = F.adaptive_avg_pool2d(difference, level)
            total, weights = total + weight * pooled.square().mean(), weights + weight
    return total / weights


@full_precision
def at(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Attention transfer: mean (Q_S - Q_T)^2, Q = channel mean of F^2 as a vector of unit length per image.

    Shapes: (N, C, H, W), channels may differ. Zagoruyko and Komodakis 2017 (arXiv 1612.03928), reduced as in
    CIRKD.
    """
    return mse(*(_unit(f.square().mean(1).flatten(1), 1) for f in (student_feature, teacher_feature)))


@full_precision
def mgd(generated: Tensor, teacher_feature: Tensor) -> Tensor:
    """Masked generative distillation: sum of squares between the generated and the teacher's map, over N.

    Shapes: (N, C, H, W). Yang et al. 2022 (arXiv 2205.01529); the masking and the generator are the method's.
    """
    return mse(generated, teacher_feature, reduction="sum") / len(generated)


# --- Logits.


@full_precision
def kd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """tau^2 · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau)) over classes.

    Shapes: logits (N, K, H, W); labels (N, h, w) of any size or None (then every pixel counts). Hinton et al.
    2015 (arXiv 1503.02531).
    """
    divergence = _kl(*_soften(temperature, student_logits, teacher_logits), dim=1)
    return temperature**2 * _mean_where(divergence, valid_pixels(labels, student_logits))


@full_precision
def cwd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, over: str = "positions") -> Tensor:
    """Channel-wise distillation of logits or features (N, C, H, W); Shu et al. 2021 (arXiv 2011.13256).

    over="positions": a softmax over the H·W positions of every channel, tau^2 / (N C) · Σ KL(T ‖ S).
    over="classes": a softmax over the channels of every position, tau^2 / (N H W) · Σ KL(T ‖ S).
    """
    dims = {"positions": 2, "classes": 1}
    if over not in dims:
        raise ValueError(f'over must be "positions" or "classes", got {over!r}')
    student, teacher = _soften(temperature, student_logits, teacher_logits)
    return temperature**2 * _kl(student.flatten(2), teacher.flatten(2), dims[over]).mean()


@full_precision
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled KD: tau^2 · mean over valid pixels of alpha · TCKD + beta · NCKD.

    Zhao et al. 2022 (arXiv 2203.08679), pixel by pixel: with p the softmax of z / tau and t the pixel's class,
    TCKD is the KL of (p_t, 1 - p_t) and NCKD that of the softmax over the other classes. KD would be TCKD + (1 - p_t
    of the teacher) · NCKD. alpha, beta and tau are those of the paper's CIFAR-100 runs; it used (1, 0.5, 1) on
    ImageNet. Shapes: logits (N, K, H, W), labels (N, h, w) of any size. 0 with one class.
    """
    log_s, log_t = (F.log_softmax(z, 1) for z in _soften(temperature, student_logits, teacher_logits))
    classes = resize_labels(labels, student_logits.shape[2:])
    valid = classes != VOID
    target = classes.where(valid, 0)[:, None]
    others = torch.ones_like(log_s, dtype=torch.bool).scatter(1, target, False)
    target_s, target_t = log_s.gather(1, target), log_t.gather(1, target)
    lowest = torch.finfo(log_s.dtype).min  # not -inf: with one class nothing is left, and inf - inf is nan
    rest_s, rest_t = (z.where(others, lowest).logsumexp(1, keepdim=True) for z in (log_s, log_t))
    tckd = target_t.exp() * (target_t - target_s) + rest_t.exp() * (rest_t - rest_s)
    difference = ((log_t - rest_t) - (log_s - rest_s)).where(others, 0.0)
    nckd = ((log_t - rest_t).where(others, -torch.inf).exp() * difference).sum(1)
    return temperature**2 * _mean_where(alpha * tckd[:, 0] + beta * nckd, valid)


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
) -> Tensor:
    """DIST: tau^2 · [beta · (1 - inter) + gamma · (1 - intra)], of the softmax of z / tau (arXiv 2205.10536).

    inter: mean over valid pixels of the Pearson correlation across classes. intra: mean over classes of the
    correlation across all valid pixels of the batch. beta = gamma = tau = 1 as in the authors' segmentation
    runs. What the teacher holds constant has no correlation and counts as matched.
    Shapes: logits (N, K, H, W), labels (N, h, w) or None.
    """
    valid = valid_pixels(labels, student_logits).flatten()
    softened = _soften(temperature, student_logits, teacher_logits)
    student, teacher = (z.softmax(1).transpose(0, 1).flatten(1) for z in softened)
    across_classes = _correlation_distance(student, teacher, 0, torch.ones_like(student, dtype=torch.bool))
    across_pixels = _correlation_distance(student, teacher, 1, valid[None])
    return temperature**2 * (beta * _mean_where(across_classes, valid) + gamma * across_pixels.mean())


# --- Relations between positions.


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
    window = pooling_window(student_feature.shape[2:], 32 * 64) if pool is None else pool
    nodes = (_directions(F.max_pool2d(f, window, ceil_mode=True)) for f in (student_feature, teacher_feature))
    return mse(*(node @ node.mT for node in nodes))


@full_precision
def ifvd(student_feature: Tensor, teacher_feature: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """Intra-class feature variation: MSE of the maps cosine(f(p), mean feature of p's class in the image).

    Mean over valid pixels. Shapes: features (N, C, H, W), channels may differ; labels (N, h, w) of any size.
    Wang et al. 2020 (ECCV, "Intra-class feature variation distillation"), prototypes per image as in CIRKD.
    """
    classes = resize_labels(labels, student_feature.shape[2:]).flatten(1)
    valid = classes != VOID
    member = F.one_hot(classes.where(valid, 0), num_classes).to(student_feature.dtype) * valid[..., None]
    mean = member / member.sum(1, keepdim=True).clamp_min(1)

    def similarity(feature: Tensor) -> Tensor:
        prototypes = member @ (mean.mT @ feature.flatten(2).mT)
        return (_directions(feature) * _unit(prototypes, 2)).sum(2)

    return _mean_where((similarity(student_feature) - similarity(teacher_feature)).square(), valid)


@full_precision
def cirkd(student: Tensor, teacher: Tensor, *, temperature: float = 0.1, pool: int | None = None) -> Tensor:
    """Cross-image relations: KL(T ‖ S) of row-softmaxed similarities between the pixels of image pairs.

    Mean over the N^2 ordered pairs, (i, i) included, and over rows. Vectors have unit length. Shapes: (N, C,
    H, W), channels may differ. Yang et al. 2022 (arXiv 2204.06986); no factor tau^2, as there.

    Maps are first average-pooled over pool x pool windows. None takes the smallest power of 2 that leaves at most 64 x
    128 positions, which gives the windows of the authors' runs: 1 at 64 x 128, 4 at 256 x 256. Similarities are held
    in blocks of rows and computed again for the gradient, so that their memory does not grow with the map.
    """
    window = pooling_window(student.shape[2:], 64 * 128) if pool is None else pool
    student, teacher = (_directions(F.avg_pool2d(f, window, ceil_mode=True)) for f in (student, teacher))

    def divergence(student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return _kl(*_soften(temperature, student_rows @ student.mT, teacher_rows @ teacher.mT), dim=2).sum()

    count = student.shape[:2].numel()
    blocks = [x.flatten(0, 1).split(max(1, RELATIONS // count)) for x in (student, teacher)]
    again = partial(checkpoint, divergence, use_reentrant=False, preserve_rng_state=False)
    sums = [(divergence if count**2 <= RELATIONS else again)(*rows) for rows in zip(*blocks, strict=True)]
    return torch.stack(sums).sum() / (len(student) * count)
