"""What a damaged file of a dataset does: refused by name, read whole, or wrong without a word?

    python tests/faults/damaged_labels.py --count 180 [--camvid DIR]

Each trial takes one pair of a street scene (or of CamVid), damages one file as a failing disk or a broken copy does,
opens it by `open_dataset` and compares every pixel. A zeroed sector is 512 bytes at a multiple of 512, drawn at
random; a cut file ends at a random byte. "whole": the pixels are right, since the damage changed nothing that counts,
or since the cache was made again. "silent" and "traceback" must be 0. Two labels of one size that change places
cannot be told: nothing in them says to which picture they belong.

RESULTS
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.streets import draw_scene

SECTOR = 512


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers((len(content) - 1) // SECTOR + 1)) * SECTOR
    return content[:at] + bytes(len(content[at : at + SECTOR])) + content[at + SECTOR :]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def draw_pairs(root: Path, num: int) -> list[tuple[Path, Path]]:
    """Scenes of 192x384 and their labels as PNG, 11 for void as CamVid has it."""
    pairs = []
    root.mkdir(parents=True)
    for k in range(num):
        scene = draw_scene(0, k, (192, 384), "clear", split="train")
        ids = np.where(scene.label > 10, 11, scene.label).astype(np.uint8)
        Image.fromarray(scene.image).save(root / f"{k}.png")
        Image.fromarray(ids).save(root / f"{k}_label.png")
        pairs.append((root / f"{k}.png", root / f"{k}_label.png"))
    return pairs


def camvid_pairs(root: Path, num: int) -> list[tuple[Path, Path]]:
    labels = sorted((root / "trainannot").glob("*.png"))
    images = {path.stem: path for path in (root / "train").iterdir()}
    return [(images[label.stem], label) for label in labels[:: max(len(labels) // num, 1)][:num]]


# What is damaged: the kind of trial, the picture's suffix and options, which file, and how.
FILES = {
    "PNG label, zeroed sector": (".png", {}, "trainannot", zeroed),
    "PNG label, cut": (".png", {}, "trainannot", cut),
    "PNG image, zeroed sector": (".png", {}, "train", zeroed),
    "JPEG image, zeroed sector": (".jpg", {"quality": 90}, "train", zeroed),
    "optimised JPEG, zeroed sector": (".jpg", {"quality": 90, "optimize": True}, "train", zeroed),
    "progressive JPEG, zeroed sector": (".jpg", {"quality": 90, "progressive": True}, "train", zeroed),
    "JPEG image, cut": (".jpg", {"quality": 90}, "train", cut),
    "WebP image, zeroed sector": (".webp", {"quality": 90}, "train", zeroed),
    "WebP image, cut": (".webp", {"quality": 90}, "train", cut),
    "image and label swapped": (".png", {}, "both", None),
    "label of another size": (".png", {}, "trainannot", "other"),
}
CACHES = {"Arrow cache, zeroed sector": zeroed, "Arrow cache, cut": cut, "Arrow cache of another split": None}


def make_root(root: Path, pair: tuple[Path, Path], suffix: str, options: dict[str, object]) -> Path:
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    Image.open(pair[0]).convert("RGB").save(root / "train" / f"a{suffix}", **options)
    shutil.copy(pair[1], root / "trainannot/a.png")
    return root


def outcome(root: Path, pristine: list[bytes], **options: object) -> str:
    """ "refused", "whole", "silent" or "traceback" for what is in `root` now."""
    try:
        rows = list(open_dataset("camvid", "train", root=root, **options))
    except (ValueError, FileNotFoundError) as error:  # DataError is a ValueError
        return "refused" if str(root) in str(error) else "traceback"
    except Exception:
        return "traceback"
    return "whole" if pixels(rows) == pristine else "silent"


def pixels(rows: object) -> list[bytes]:
    return [np.asarray(row[kind]).tobytes() for row in rows for kind in ("image", "label")]  # type: ignore[attr-defined]


def damage_files(kind: str, pairs: list[tuple[Path, Path]], count: int, folder: Path) -> Counter[str]:
    suffix, options, where, how = FILES[kind]
    rng, found = np.random.default_rng(0), Counter[str]()
    for trial in range(count):
        root = make_root(folder / f"{kind} {trial}", pairs[trial % len(pairs)], suffix, options)
        pristine = pixels(open_dataset("camvid", "train", root=root, check=False))
        image, label = root / f"train/a{suffix}", root / "trainannot/a.png"
        if where == "both":
            image.rename(root / "aside")
            label.rename(image)
            (root / "aside").rename(label)
        elif how == "other":
            grey = Image.open(label)
            grey.resize((grey.width // 2, grey.height // 2), Image.Resampling.NEAREST).save(label)
        else:
            file = image if where == "train" else label
            file.write_bytes(how(file.read_bytes(), rng))
        found[outcome(root, pristine)] += 1
        shutil.rmtree(root)
    return found


def damage_caches(kind: str, pairs: list[tuple[Path, Path]], count: int, folder: Path) -> Counter[str]:
    rng, found, how = np.random.default_rng(0), Counter[str](), CACHES[kind]
    roots = [make_root(folder / f"{kind} {k}", pair, ".png", {}) for k, pair in enumerate(pairs[:2])]
    for root in roots:
        open_dataset("camvid", "train", root=root, cache=root / "cache")
    pristine = pixels(open_dataset("camvid", "train", root=roots[0]))
    other = next((roots[1] / "cache").iterdir())
    for _ in range(count):
        file = next((roots[0] / "cache").glob("[!.]*"))
        file.write_bytes(other.read_bytes() if how is None else how(file.read_bytes(), rng))
        found[outcome(roots[0], pristine, cache=roots[0] / "cache")] += 1
    for root in roots:
        shutil.rmtree(root)
    return found


def run(count: int, camvid: Path | None = None) -> dict[str, Counter[str]]:
    """The outcomes of `count` trials of every kind."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSKD_CACHE"] = f"{folder}/verdicts"
        pairs = camvid_pairs(camvid, 12) if camvid else draw_pairs(Path(folder, "scenes"), 6)
        found = {kind: damage_files(kind, pairs, count, Path(folder)) for kind in FILES}
        return found | {kind: damage_caches(kind, pairs, count, Path(folder)) for kind in CACHES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="trials of each kind")
    parser.add_argument("--camvid", type=Path, help="photographs in place of drawn scenes")
    args = parser.parse_args()
    print(f"{'':<34}" + "".join(f"{word:>11}" for word in ("refused", "whole", "silent", "traceback")))
    for kind, found in run(args.count, args.camvid).items():
        print(f"{kind:<34}" + "".join(f"{found[word]:>11}" for word in ("refused", "whole", "silent", "traceback")))


if __name__ == "__main__":
    main()
