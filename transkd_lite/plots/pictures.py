"""Pictures: label maps in the data set's palette, errors in two tones, features in colours, scalars in cividis."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from transkd_lite.data.labels import VOID, LabelSpace
from transkd_lite.plots.style import in_style, legend_below, literal, new_axes

__all__ = ["error_map", "label_legend", "maps", "overlay", "principal_colours", "segmentations"]

Pictures = Sequence[ArrayLike]
RIGHT_COLOUR, WRONG_COLOUR, VOID_COLOUR = np.array([(222,) * 3, (178, 24, 43), (40,) * 3], np.uint8)
SHEET_WIDTH, CELL_WIDTH, TALLEST = 7.5, 2.2, 3.5  # inches: a sheet, a cell of `maps`, the most that a map may be high


def error_map(prediction: ArrayLike, label: ArrayLike) -> NDArray[np.uint8]:
    """Two tones, uint8 (H, W, 3): light where `prediction` is right, red where wrong, dark where void."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    out = np.where((prediction == label)[..., None], RIGHT_COLOUR, WRONG_COLOUR)
    return np.where((label == VOID)[..., None], VOID_COLOUR, out)


def principal_colours(feature: ArrayLike, basis: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Show a feature map (C, H, W) by its three main components as red, green and blue: uint8 (H, W, 3).

    feature: one feature map.
    basis: another map (C, H', W') whose components and range to use, so that the colours of two maps compare.
    """
    feature = np.asarray(feature, np.float32)
    flat = feature.reshape(len(feature), -1).T
    reference = flat if basis is None else np.asarray(basis, np.float32).reshape(len(feature), -1).T
    centre = reference.mean(0)
    components = np.linalg.svd(reference - centre, full_matrices=False)[2][:3].T
    low, high = np.percentile((reference - centre) @ components, [2, 98], axis=0)
    unit = np.clip(((flat - centre) @ components - low) / np.maximum(high - low, 1e-6), 0, 1)
    unit = np.pad(unit, ((0, 0), (0, 3 - unit.shape[1])))
    return np.uint8(255 * unit).reshape(*feature.shape[1:], 3)


def label_map(label: ArrayLike, space: LabelSpace) -> Image.Image:
    """A label map (H, W) as a picture with a palette: the indices are the train ids, the colours those of `space`."""
    picture = Image.fromarray(np.asarray(label, np.uint8))
    picture.putpalette(space.colorize(np.arange(256)).tobytes())
    return picture


def overlay(image: ArrayLike, label: ArrayLike, space: LabelSpace, *, opacity: float = 0.5) -> Image.Image:
    """A picture at its own size under the colours of its classes, and below it a legend of those that occur.

    image, label: uint8 (H, W, 3), and (H, W) of train ids; where it is void the picture is left as it is.
    opacity: of the colours, 0 to 1.

    The letters grow with the picture, so that they can be read where it is shown on the width of a telephone; beside a
    picture of fewer than 240 pixels the sheet is wider than the picture.
    """
    label, picture = np.asarray(label), Image.fromarray(np.asarray(image, np.uint8))
    painted = Image.blend(picture, Image.fromarray(space.colorize(label)), opacity)
    picture.paste(painted, mask=Image.fromarray(np.uint8(255) * (label < space.num_classes)))
    em = max(10, min(picture.width, 3 * picture.height) // 34)  # the height of a line of letters
    font, width = ImageFont.truetype(findfont("DejaVu Sans"), em), max(picture.width, 24 * em)
    names = {k: fill(space.names[k], 13) for k in np.unique(label).tolist() if k < space.num_classes}
    columns = width // (11 * em)
    rows = [list(names)[first : first + columns] for first in range(0, len(names), columns)]
    heights = [int(1.3 * em) * max(names[k].count("\n") + 1 for k in row) + em // 4 for row in rows]
    sheet = Image.new("RGB", (width, picture.height + em // 2 + sum(heights)), "white")
    sheet.paste(picture)
    draw, top = ImageDraw.Draw(sheet), picture.height + em // 2
    for row, height in zip(rows, heights, strict=True):
        for left, k in zip(range(em // 2, width, width // columns), row, strict=False):
            draw.rectangle((left, top, left + em, top + em), space.palette[k], "grey")
            draw.multiline_text((left + 1.5 * em, top), names[k], "black", font, spacing=em // 4)
        top += height
    return sheet


def label_legend(fig: Figure, space: LabelSpace, present: Sequence[int]) -> None:
    """Put names and colours of the classes `present` (train ids) below the panels of `fig`."""
    colours = np.asarray(space.palette) / 255
    legend_below(fig, 6, [Patch(facecolor=colours[k], edgecolor="0.6", label=literal(space.names[k])) for k in present])


def draw_picture(axis: Axes, picture: ArrayLike) -> AxesImage:
    """A map (H, W) in cividis or a picture (H, W, 3) as it is, without ticks and frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return axis.imshow(np.asarray(picture), cmap="cividis", interpolation="nearest", aspect="equal")


def segmentations(
    images: Pictures, rows: Mapping[str, Pictures], space: LabelSpace, *, errors_against: str | None = None
) -> Figure:
    """A sheet of pictures: one column an image, one row a set of label maps, and a legend of the classes that occur.

    images: N pictures, uint8 (H, W, 3).
    rows: name of the row -> N label maps (H, W) of train ids.
    space: names and palette.
    errors_against: the row that holds the truth; each other row is then followed by its error map.
    """
    sheet = [("image", images)]
    for name, maps_ in rows.items():
        sheet.append((name, [space.colorize(np.asarray(label)) for label in maps_]))
        if errors_against not in (None, name):
            sheet.append(("its errors", list(map(error_map, maps_, rows[errors_against]))))
    height, width = np.asarray(images[0]).shape[:2]
    tall = len(sheet) * SHEET_WIDTH / len(images) * height / width
    fig, axes = new_axes(len(sheet), len(images), SHEET_WIDTH, tall + 0.8)
    for axis_row, (name, pictures) in zip(axes, sheet, strict=True):
        for axis, picture in zip(axis_row, pictures, strict=True):
            draw_picture(axis, picture)
        axis_row[0].set_ylabel(literal(name), fontsize=8, rotation=0, ha="right", va="center")
    seen = set().union(*(np.unique(label).tolist() for maps_ in rows.values() for label in maps_))
    label_legend(fig, space, sorted(k for k in seen if k < len(space.names)))
    return fig


@in_style
def maps(panels: Mapping[str, ArrayLike], *, columns: int = 4, bar: bool = True, unit: str = "") -> Figure:
    """Draw named maps side by side: (H, W) scalars in cividis with a colour bar, (H, W, 3) as they are.

    Every map keeps its proportions; a row is as high as its tallest map needs.
    """
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    arrays = [np.asarray(panel) for panel in panels.values()]
    barred = bar and any(array.ndim == 2 for array in arrays)
    tallest = max(array.shape[0] / array.shape[1] for array in arrays)
    height = min(CELL_WIDTH * (0.75 if barred else 0.95) * tallest, TALLEST) + 0.3  # the title's share
    fig, axes = new_axes(rows, columns, CELL_WIDTH * columns, rows * height + 0.1)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, name, array in zip(axes.flat, panels, arrays, strict=False):
        drawn = draw_picture(axis, array)
        axis.set_title(literal(name))
        if array.ndim == 2 and bar:  # beside the map, so that maps of one column stay one below the other
            fig.colorbar(drawn, cax=axis.inset_axes((1.03, 0.1, 0.04, 0.8)), label=unit)
    return fig
