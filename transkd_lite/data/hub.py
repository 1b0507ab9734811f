"""Any segmentation dataset of the Hugging Face hub, or of a local folder that `datasets.load_dataset`
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transkd_lite.data.decode import Decoder, Size
from transkd_lite.data.labels import LabelSpace, lookup_table, voc_palette

if TYPE_CHECKING:
    import datasets

__all__ = ["open_hub"]


def open_hub(
    repo: str,
    split: str,
    *,
    classes: Sequence[str] = (),
    size: Size = None,
    image_column: str = "image",
    label_column: str = "label",
    palette: Sequence[tuple[int, int, int]] | None = None,
    label_map: dict[int, int] | None = None,
    **load_options: Any,
) -> datasets.Dataset:
    """Open ``split`` of a hub repository as a table with the columns image and label.

    Args:
        classes: names in train-id order, always needed: repositories do not say them in a common way.
        image_column, label_column: what the repository calls its two image columns.
        palette: one colour a class; without it the VOC colours.
        label_map: {value in the files: train id}; without it they hold train ids. 255 is void
            unless the map says otherwise.
        load_options: for ``datasets.load_dataset``, such as ``revision`` or ``name``.

    Raises ValueError without classes, and for a column that is not there or holds no images.
    Files are checked when they are read.
    """
    import datasets

    if not classes:
        raise ValueError("a hub dataset needs classes, names in train-id order: pass classes=('road', ...)")
    space = LabelSpace(tuple(classes), tuple(palette or voc_palette(len(classes) + 1)[1:]))
    decoder = Decoder(lookup_table(space.num_classes, label_map).tobytes(), size)
    table = datasets.load_dataset(repo, split=split, **load_options)
    for option, column in (("image_column", image_column), ("label_column", label_column)):
        if not isinstance(table.features.get(column), datasets.Image):
            columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in table.features.items())
            raise ValueError(f"{option} names a column of images, got {column!r}: name one of {columns}")
    table = table.select_columns([image_column, label_column])
    table = table.rename_columns({image_column: "image", label_column: "label"})
    for column in ("image", "label"):
        table = table.cast_column(column, datasets.Image(decode=False))
    table.info.description = space.to_json(dataset=f"hub:{repo}", split=split)
    return table.with_transform(decoder)
