"""How a segmentation is scored: mean intersection over union, by two protocols.

- "full": logits upsampled to the label's size (bilinear), every labelled pixel counts. What benchmarks do.
- "paper": logits as they are, at 1/4 size, against nearest-resized labels. What the authors' evaluation
  does; it forgives thin errors. A network may have more logits than the data has classes (the authors'
  twentieth is void): a pixel for which such a class is predicted is a miss of its true class, in both
  protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data.labels import VOID, require_train_ids
from .data.transforms import make_transform
from .loading import to_tensors
from .supervision import match_sizes
from .train_step import autocast, resolve_precision
from .views import Views

__all__ = ["PROTOCOLS", "SegMetrics", "evaluate", "evaluate_by"]

PROTOCOLS = ("full", "paper")


@dataclass(frozen=True)
class SegMetrics:
    """Scores in [0, 1] from a confusion matrix (rows true, columns predicted).

    confusion: (K, K) pixel counts. missed: (K,) pixels of a class for which no class of the data was
    predicted.
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
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) + self.missed - self.confusion.diagonal()
        return hits / union  # 0 / 0 is nan

    @property
    def miou(self) -> float:
        """Mean of the IoU over the classes that are present or predicted."""
        return float(self.iou.nanmean())

    @property
    def miou_all(self) -> float:
        """Mean of the IoU over all classes; one that is neither present nor predicted counts as 0."""
        return float(self.iou.nan_to_num(0.0).mean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        labelled = self.confusion.sum() + self.missed.sum()
        return float(self.confusion.diagonal().sum() / labelled)

    def to_dict(self) -> dict[str, Any]:
        """miou, pixel_accuracy and {class: IoU} as JSON holds them (None for nan)."""
        names = self.names or tuple(str(k) for k in range(len(self.confusion)))
        iou = {name: _or_none(v) for name, v in zip(names, self.iou.tolist(), strict=True)}
        return {"miou": _or_none(self.miou), "pixel_accuracy": _or_none(self.pixel_accuracy), "iou": iou}


def _or_none(value: float) -> float | None:
    return None if value != value else value


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    protocol: str = "full",
    num_classes: int | None = None,
    batch_size: int = 4,
    normalize: bool = True,
    precision: str = "fp32",
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> SegMetrics:
    """Score a network on a dataset of {"image", "label"}; under several processes each takes a share.

    num_classes: K of the data, by default its label space's, else the network's. normalize: as in training.
    flip, scales, window, stride: several looks at each image, averaged (see `views`); by default one plain look.
    The network comes back in the mode (training or not) in which it was.
    Raises `ValueError` for an unknown protocol, no data, or a label that is no train id.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(map(repr, PROTOCOLS))}; got {protocol!r}")
    if len(data) == 0:
        raise ValueError("data must hold at least one sample to be scored; got none: check split and filters")
    names = _class_names(data)
    num_classes = num_classes or len(names) or int(model.spec.num_classes)  # type: ignore[union-attr, arg-type]
    device = next(model.parameters()).device
    chosen = resolve_precision(precision, device)
    supervise = "full" if protocol == "full" else "quarter"
    views = Views(flip, scales, window, stride)
    if protocol == "paper" and not views.plain:
        raise ValueError(
            "protocol 'paper' takes one plain look: leave out flip, scales and window, or use 'full'"
        )
    matrix = _confusion_matrix(max(num_classes, _num_logits(model, num_classes))).to(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for images, labels in _batches(data, batch_size, normalize):
                require_train_ids(labels, num_classes, "the data")
                images, labels = images.to(device), labels.to(device)
                with autocast(device, chosen):
                    logits = views(lambda batch: model(batch).logits, images)
                logits, labels = match_sizes(logits.float(), labels, supervise)
                matrix.update(logits.argmax(1), labels)
        whole = matrix.compute().cpu()
    finally:
        model.train(was_training)
    names = names if len(names) == num_classes else ()
    return SegMetrics(whole[:num_classes, :num_classes], whole[:num_classes, num_classes:].sum(1), names)


def evaluate_by(
    model: nn.Module, data: Any, column: str = "condition", **options: Any
) -> dict[str, SegMetrics]:
    """Score a network on each group of a table alone, such as the weather conditions of ACDC or streets.

    column: the text column to group by. options: those of `evaluate`. Returns value -> scores, values sorted.
    Raises `ValueError` if the table has no such column.
    """
    if column not in data.column_names:
        raise ValueError(f"column {column!r} is not in this table; it has {', '.join(data.column_names)}")
    values = data.select_columns([column])[column]
    rows = {value: [k for k, v in enumerate(values) if v == value] for value in sorted(set(values))}
    return {value: evaluate(model, data.select(chosen), **options) for value, chosen in rows.items()}


def _num_logits(model: nn.Module, otherwise: int) -> int:
    spec = getattr(model, "spec", None)
    return int(getattr(spec, "num_classes", otherwise))


def _confusion_matrix(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassConfusionMatrix

    # It sums over processes in compute(); labels are checked here, with an error that names the label.
    return MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)


def _class_names(data: Any) -> tuple[str, ...]:
    if not hasattr(data, "info"):
        return ()
    from .data.labels import label_space

    try:
        return tuple(label_space(data).names)
    except ValueError:
        return ()


def _shares(count: int) -> Sequence[int]:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return range(dist.get_rank(), count, dist.get_world_size())
    return range(count)


def _batches(data: Any, batch_size: int, normalize: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of neighbours of one size; a sample of another size begins a new batch."""
    transform = make_transform(augment="none", normalize=normalize)
    generator = torch.Generator()
    held: list[tuple[Tensor, Tensor]] = []
    for index in _shares(len(data)):
        sample = transform(*to_tensors(data[index]), generator)
        if held and (len(held) == batch_size or sample[0].shape != held[0][0].shape):
            yield torch.stack([i for i, _ in held]), torch.stack([y for _, y in held])
            held = []
        held.append(sample)
    if held:
        yield torch.stack([i for i, _ in held]), torch.stack([y for _, y in held])
