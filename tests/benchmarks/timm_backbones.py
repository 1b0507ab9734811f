"""Which timm backbones train with TransKD: one line each, then the counts.

    python tests/benchmarks/timm_backbones.py [--only 'mobilevit*'] [--all] [--limit 60] [--jobs 2] [--out FILE]

Tries the smallest member of each family (the modules of timm.models, split by the first word of the name) or all
members. A backbone with new weights is the student of SegFormer-B0 in one step with `transkd-base` and `transkd-ea`,
then its teacher, at two image sizes; or it is refused with a ValueError of one sentence. The first and
last rows and columns of each of its embeddings must read that side of the image, by their gradient. Results are
appended to FILE, and what is in there is not tried again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from transkd_lite.distill.methods import create_method
from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import create_model

SIZES = ((99, 149), (161, 75))
IMG_SIZES = ((96, 160), (128, 64), (224, 224), (256, 256))
NUM_CLASSES = 5
LONGEST = 600


def survey() -> dict[str, tuple[str, float, list[int]]]:
    """Every backbone's family, millions of parameters and strides; built without memory for its weights."""
    found = {}
    for name in timm.list_models():
        with torch.device("meta"):
            model = timm.create_model(name)
        levels = getattr(model.feature_info, "info", model.feature_info)
        word = re.match(r"((tf|legacy|test|dm|gc|eca|ese|cs|tiny|wide)_?)?[a-z]+(v\d)?", name)
        family = f"{type(model).__module__.rpartition('.')[2]}:{word[0] if word else name}"
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        found[name] = (family, size, sorted({level["reduction"] for level in levels}))
    return found


def try_backbone(name: str) -> dict[str, Any]:
    """{"verdict": "trained", "refused", "wrong" or "raw error", "why": …, "sizes": …}."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start, tried = time.process_time(), []
    verdict, why, sources = "trained", "", []
    try:
        for backbone, size in backbones(name):
            sources = [*backbone.sources]
            train_step(backbone, create_model("segformer_b0", NUM_CLASSES), size)
            train_step(create_model("segformer_b0", NUM_CLASSES), backbone, size)
            if not tried:
                check_places(backbone)
            tried.append(size)
    except ValueError as error:
        verdict, why = "refused", str(error)
        if tried or "\n" in why or len(why) > LONGEST:
            verdict = "raw error"
    except AssertionError as error:
        verdict, why = ("wrong" if "stage" in str(error) else "raw error"), repr(error)
    except Exception as error:
        verdict, why = "raw error", repr(error)
    seconds = round(time.process_time() - start, 1)
    return {
        "name": name, "verdict": verdict, "why": why, "sizes": tried, "sources": sources, "seconds": seconds
    }  # fmt: skip


def backbones(name: str) -> Iterator[tuple[SegModel, tuple[int, int]]]:
    """The backbone for two sizes of images that it takes; where img_size sets them, one for each."""
    model = create_model(f"timm:{name}", NUM_CLASSES)
    if model.image_size is None:
        k = model.multiple
        wide = ((k, 2 * k), (3 * k, k)) if k < 128 else ((k, k), (k, 2 * k))
        yield from ((model, size) for size in (SIZES if k == 1 else wide))
        return
    taken = 0
    for size in IMG_SIZES:
        try:
            yield create_model(f"timm:{name}", NUM_CLASSES, img_size=size), size
            taken += 1
        except ValueError as error:
            if len(str(error)) > LONGEST:
                raise
        if taken == 2:
            return
    if not taken:
        yield model, model.image_size


def train_step(student: SegModel, teacher: SegModel, size: tuple[int, int]) -> None:
    """One step of AdamW on two images with both methods; the loss is finite, and weights change."""
    images, labels = torch.rand(2, 3, *size), torch.randint(0, NUM_CLASSES, (2, *size))
    methods = [create_method(method, student, teacher) for method in ("transkd-base", "transkd-ea")]
    with torch.no_grad():
        target = teacher.eval()(images)
    output = student.train()(images)
    check_shapes(student, images, output)
    loss = F.cross_entropy(F.interpolate(output.logits, size, mode="bilinear"), labels)
    loss = loss + sum(method.combine(method(images, output, target, labels)) for method in methods)
    loss.backward()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    optimizer.step()
    assert loss.isfinite(), f"the loss at {size} is {loss.item()}"
    assert any(p.grad is not None and p.grad.any() for p in student.parameters()), "no gradient"


def check_shapes(model: SegModel, images: Tensor, output: Any) -> None:
    """Features and embeddings are what the spec says: widths, and strides with sizes rounded up or down."""
    stages = zip(output.features, output.embeddings, model.spec.channels, model.spec.strides, strict=True)
    for i, (feature, embedding, channels, stride) in enumerate(stages, start=1):
        n, c, h, w = feature.shape
        for side, grid in zip(images.shape[2:], (h, w), strict=True):
            assert grid in (side // stride, -(-side // stride)), f"stage {i}: {tuple(feature.shape)}"
        assert (c, tuple(embedding.shape)) == (channels, (n, h * w, c)), f"stage {i}: {tuple(embedding.shape)}"


def check_places(model: SegModel) -> None:
    """The first and last rows and columns of each embedding read, by their gradient, that side of the image."""
    k = model.multiple
    size = model.image_size or (-(-193 // k) * k, -(-255 // k) * k)
    images = torch.rand(2, 3, *size, requires_grad=True)
    output = model.eval()(images)
    for i, (feature, embedding) in enumerate(zip(output.features, output.embeddings, strict=True), start=1):
        grid = embedding[0].view(*feature.shape[2:], -1)
        for axis in (0, 1):
            centres = []
            for place in (0, -1):
                read = torch.autograd.grad(grid.select(axis, place).norm(), images, retain_graph=True)[0][0].abs()
                share = read.sum((0, 2 - axis)) / read.sum()
                centres.append((share * torch.arange(len(share)) / len(share)).sum().item())
            slack = 0 if i < 3 else 0.05  # with new weights, deep tokens read the whole image almost evenly
            assert centres[0] < centres[1] + slack, f"stage {i}: centres along axis {axis} are {centres}"


def chosen(args: argparse.Namespace) -> list[str]:
    """The names to try: of each family the smallest, or all; by pattern; below the limit."""
    kept = args.out.with_suffix(".survey.json")
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(survey()))
    known = json.loads(kept.read_text())
    small = sorted((n for n, (_, size, _) in known.items() if size <= args.limit), key=lambda n: known[n][1])
    families = {known[name][0] for name in known}
    first = {known[name][0]: name for name in reversed(small)}
    print(f"timm {timm.__version__}: {len(known)} backbones of {len(families)} families; "
          f"{len(families) - len(first)} families have none below {args.limit:g} M parameters")  # fmt: skip
    if args.only:
        return [name for name in small if any(fnmatch.fnmatch(name, only) for only in args.only)]
    return small if args.all else list(first.values())[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="patterns of names, for instance 'dla*'")
    parser.add_argument("--all", action="store_true", help="all members of each family, not the smallest alone")
    parser.add_argument("--limit", type=float, default=60, help="millions of parameters")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/timm_backbones.jsonl"))
    args = parser.parse_args()
    names = chosen(args)
    lines = args.out.read_text().splitlines() if args.out.is_file() else []
    results = {r["name"]: r for r in map(json.loads, lines)}
    waiting = [name for name in names if name not in results]
    # Fresh processes now and then: what timm keeps in memory adds up.
    with get_context("spawn").Pool(args.jobs, maxtasksperchild=20) as pool, args.out.open("a") as file:
        for result in pool.imap_unordered(try_backbone, waiting):
            results[result["name"]] = result
            print(json.dumps(result), file=file, flush=True)
            said = result["why"] or result["sizes"]
            print(f"{result['name']:<36}{result['verdict']:<10}{result['seconds']:>6} s  {said}", flush=True)
    tried = [results[name] for name in names]
    print(dict(Counter(r["verdict"] for r in tried)))
    reasons = Counter(re.sub(r"[\[(]?\d[\d, ]*[\])]?", "…", r["why"].partition(" ")[2]) for r in tried if r["why"])
    for reason, count in reasons.most_common():
        print(f"{count:>4}  {reason}")


if __name__ == "__main__":
    main()
