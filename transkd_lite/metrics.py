"""How a segmentation is scored: mean intersection over union, by two protocols.

- "full": logits upsampled to the label's size (bilinear), every labelled pixel counts. What benchmarks do.
- "paper": logits as they are, at 1/4 size, against nearest-resized labels. What the authors' evaluation
  does; it forgives thin errors.

A network for K classes has K logits, or one more for void (the authors' twentieth): a pixel for which void is
predicted is a miss of its true class, in both protocols. Any other number, other names or another order of the
classes is refused, and so is what has no score: logits that are not finite, and labels that are all void.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from transkd_lite.data.decoding import Size, target_size, to_rgb
from transkd_lite.data.labels import VOID, LabelSpace, label_space, require_train_ids
from transkd_lite.data.transforms import make_transform, normalized, require_labelled, resize_labels, to_tensors
from transkd_lite.models.output import SegModel

__all__ = [
    "DTYPES", "PROTOCOLS", "SegMetrics", "as_batch", "autocast", "evaluate", "evaluate_by", "evaluating",
    "match_classes", "match_sizes", "predict", "require_scorable", "resolve_precision",
]  # fmt: skip


def match_sizes(logits: Tensor, labels: Tensor, supervise: str) -> tuple[Tensor, Tensor]:
    """Bring logits (N, K, h, w) and labels (N, H, W) to one size: "full" (H, W) or "quarter" (h, w)."""
    if supervise == "quarter":
        return logits, resize_labels(labels, (logits.shape[-2], logits.shape[-1]))
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return logits, labels


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on a device: bf16 on a GPU that has it, fp16 on an older one, fp32 on everything else."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32"


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Mixed precision of the forward pass; does nothing for fp32.

    On a CPU that trains in bf16, attention is taken as two plain products: the gradient of PyTorch's fused kernel is
    there 3 to 10 times slower than in fp32 (tests/benchmarks/bf16_attention.py).
    """
    plain = precision == "bf16" and device.type == "cpu" and torch.is_grad_enabled()
    attention = sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"), attention:
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """The network as it is deployed, on its device: afterwards every layer is in its mode (training or not) again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield next(model.parameters()).device
    finally:
        for module, training in modes:
            module.training = training


# --- How a segmentation is scored: mean intersection over union, by two protocols.

PROTOCOLS = ("full", "paper")


@dataclass(frozen=True, eq=False)
class SegMetrics:
    """Scores in [0, 1] from a confusion matrix (rows true, columns predicted).

    confusion: (K, K) pixel counts. missed: (K,) pixels of a class for which no class of the data was predicted.
    iou: (K,), nan where a class is neither present nor predicted. miou: mean over the others.
    pixel_accuracy: share of labelled pixels that are right (nan without any).

    >>> SegMetrics(torch.tensor([[3, 1], [0, 4]]), torch.tensor([0, 0])).iou
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """

    confusion: Tensor
    missed: Tensor
    names: tuple[str, ...] = ()

    @property
    def iou(self) -> Tensor:
        """Intersection over union of every class."""
        hits = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) + self.missed - hits
        return hits.double() / union  # 0 / 0 is nan

    @property
    def miou(self) -> float:
        """Mean of the IoU over the classes that are present or predicted."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        return float(self.confusion.diagonal().sum() / (self.confusion.sum() + self.missed.sum()))

    def to_dict(self) -> dict[str, Any]:
        """miou, pixel_accuracy and {class: IoU} as JSON holds them (None for nan)."""
        names = self.names or tuple(str(k) for k in range(len(self.confusion)))
        values = [self.miou, self.pixel_accuracy, *self.iou.tolist()]
        miou, accuracy, *iou = (None if math.isnan(value) else value for value in values)
        return {"miou": miou, "pixel_accuracy": accuracy, "iou": dict(zip(names, iou, strict=True))}


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    protocol: str = "full",
    num_classes: int | None = None,
    batch_size: int = 4,
    normalize: bool = True,
    precision: str = "fp32",
) -> SegMetrics:
    """Score a network on a dataset of {"image", "label"}; under several processes each takes a share.

    num_classes: K of data that carry no label space; by default the network's. normalize: as in training.
    The network comes back in the mode (training or not) in which it was. A bar appears when it takes over five seconds.
    Raises `ValueError` for an unknown protocol or precision, and where there is no score: see `require_scorable`, a
    label that is no train id, logits that are not finite, or labels that are all void at the logits' size.
    """
    from torchmetrics.classification import MulticlassConfusionMatrix

    for name, value, known in (("protocol", protocol, PROTOCOLS), ("precision", precision, ("auto", *DTYPES))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    num_classes, space = require_scorable(model, data, num_classes)
    with evaluating(model) as device, torch.no_grad():
        # The last class is void as a prediction. It sums over processes in compute(); labels are checked here, with an
        # error that names the label.
        matrix: Any = MulticlassConfusionMatrix(num_classes + 1, ignore_index=VOID, validate_args=False).to(device)
        shown = tqdm(_batches(data, batch_size, normalize), "score", -(-len(data) // batch_size), delay=5, leave=False)
        for images, labels in shown:
            require_train_ids(labels, num_classes, "the data")
            images, labels = images.to(device), labels.to(device)
            with autocast(device, resolve_precision(precision, device)):
                logits = _require_finite(model(images).logits)
            match_classes(logits.shape[1], None, data, num_classes)
            logits, labels = match_sizes(logits.float(), labels, "full" if protocol == "full" else "quarter")
            matrix.update(logits.argmax(1), labels)
        whole = matrix.compute().cpu()
    if not whole.any():
        raise ValueError(f"at least one pixel must have a class; at the size of protocol {protocol!r} all are void")
    return SegMetrics(whole[:-1, :-1], whole[:-1, -1], space.names if space else ())


def require_scorable(
    model: nn.Module, data: Any, num_classes: int | None = None, what: str = "data"
) -> tuple[int, LabelSpace | None]:
    """Raise `ValueError` unless a score of the network on data means something; returns what `match_classes` does.

    That is: data hold a sample, their classes are the network's, and some pixel has a class.
    """
    if len(data) == 0:
        raise ValueError(f"{what} must hold at least one sample to be scored; got none: check split and filters")
    num_logits = getattr(getattr(model, "spec", None), "num_classes", None)
    found = match_classes(num_logits, getattr(model, "label_space", None), data, num_classes)
    require_labelled((to_tensors(data[k])[1] for k in range(len(data))), f"the labels of {what}")
    return found


def match_classes(
    num_logits: int | None, own: LabelSpace | None, data: Any, num_classes: int | None = None
) -> tuple[int, LabelSpace | None]:
    """K, the number of classes of data, and their names as far as the data or the network know them.

    num_logits, own: the network's, None where they are not known. num_classes: K of data without a label space.
    Raises `ValueError` where these contradict each other, see the head of this module, and unless 2 <= K <= 255.
    """
    try:
        space = label_space(data)
    except (AttributeError, ValueError):  # a list of samples, or a table that was made elsewhere
        space = own  # type: ignore[assignment]
    if space and own and (difference := own.difference(space)):
        advice = "take the data that it was trained on, or set its label_space to None if only spelling differs"
        raise ValueError(f"network and data must have the same classes in the same order; {difference}: {advice}")
    given = num_logits if num_classes is None else num_classes
    known = space.num_classes if space else given
    if known is None or not 2 <= known <= VOID or num_classes not in (None, known):
        raise ValueError(f"num_classes must be 2 to {VOID}, got {given}: with names it is their number ({known})")
    if num_logits not in (None, known, known + 1):
        rule = f"a network for {known} classes has {known} logits, or one more for void"
        raise ValueError(f"{rule}; got {num_logits}: take the data that it was made for, or create another")
    return known, space


def evaluate_by(model: nn.Module, data: Any, column: str = "condition", **options: Any) -> dict[str, SegMetrics]:
    """Score a network on each group of a table alone, such as the weather conditions of ACDC or streets.

    column: the text column to group by. options: those of `evaluate`. Returns value -> scores, values sorted.
    Raises `ValueError` if the table has no such column, and, before any group is scored, for one whose labels are
    all void: leave it out with `filter`.
    """
    values = data[column][:]
    groups = {value: data.select([k for k, v in enumerate(values) if v == value]) for value in sorted(set(values))}
    for value, group in groups.items():
        require_labelled((to_tensors(row)[1] for row in group), f"the labels with {column} {value!r}")
    return {value: evaluate(model, group, **options) for value, group in groups.items()}


def _batches(data: Any, batch_size: int, normalize: bool) -> Iterator[tuple[Tensor, ...]]:
    """This process's share in batches of neighbours of one size; a sample of another size begins a new batch."""
    transform, generator = make_transform(normalize=normalize), torch.Generator()
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    first, every = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if shared else (0, 1)
    samples = (transform(*to_tensors(data[k]), generator) for k in range(first, len(data), every))
    for _, neighbours in groupby(samples, key=lambda sample: sample[0].shape):
        while batch := list(islice(neighbours, batch_size)):
            yield tuple(map(torch.stack, zip(*batch, strict=True)))


# --- Pictures in, label maps out: what a user of a trained network calls.


def as_batch(images: Any, *, normalize: bool = True) -> Tensor:
    """Stack pictures of one size into the float tensor (N, 3, H, W) that a network takes.

    images: one picture or several, each of any kind that `data.decoding.to_rgb` takes, such as PIL, uint8 arrays
        (H, W, 3) or paths.
    normalize: subtract ImageNet's mean and divide by its deviation; otherwise values are in [0, 1].
    Raises `ValueError`: there is none, they differ in size, or one is no picture.
    """
    arrays = [to_rgb(image) for image in _each(images)]
    found = sorted({array.shape for array in arrays})
    if len(found) != 1:
        raise ValueError(f"a batch holds pictures of one size; got {found}: convert them, or open them with size=")
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return normalized(batch) if normalize else batch


def _each(images: Any) -> Iterable[Any]:
    """The pictures of one or many."""
    shape = tuple(getattr(images, "shape", ()))
    array = len(shape) == 2 or (len(shape) == 3 and not {shape[0], shape[-1]}.isdisjoint({1, 3, 4}))
    return [images] if array or isinstance(images, str | PathLike | Image) else images


def _require_finite(logits: Tensor) -> Tensor:
    """The logits; ValueError where some are not finite, since the class of the largest would be an accident."""
    broken = logits.numel() - int(logits.isfinite().sum())
    if broken:
        raise ValueError(f"every logit must be finite; {broken} of {logits.numel()} are not: try precision='fp32'")
    return logits


@torch.no_grad()
def predict(model: SegModel, images: Any, *, normalize: bool = True, size: Size = None) -> list[NDArray[np.uint8]]:
    """Segment pictures, each at its own size, with logits upsampled to it (bilinear).

    model: the network; it runs where it is, and comes back in the mode in which it was.
    images: one picture or several, see `as_batch`. A photograph is turned upright by its EXIF orientation, and its map
        with it.
    normalize: as in training, see `as_batch`.
    size: what the network is given, as in `open_dataset`: (height, width), the shorter side, or None for the picture
        as it is. The map has the picture's own size in each case.
    Returns one map (H, W) of train ids for each picture; void, where the network has a logit for it beyond the classes
        of its `label_space`, is 255.
    Raises `ValueError`: something that is no picture, logits that are not finite, or more of them than the 255 classes
        that a map of 8 bits can tell from void (a network on its own may have any number).
    """
    maps, num_classes = [], getattr(getattr(model, "label_space", None), "num_classes", VOID)
    with evaluating(model) as device:
        for image in _each(images):
            picture = fromarray(to_rgb(image))
            resized = picture.resize(target_size(size, *picture.size), Resampling.BILINEAR)
            logits = _require_finite(model(as_batch(resized, normalize=normalize).to(device)).logits.float())
            if logits.shape[1] > VOID:
                raise ValueError(f"predict takes up to {VOID} logits; got {logits.shape[1]}: take the argmax instead")
            logits = F.interpolate(logits, size=picture.size[::-1], mode="bilinear")
            label = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
            label[label >= num_classes] = VOID
            maps.append(label)
    return maps
