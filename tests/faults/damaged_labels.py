"""What a damaged file of a dataset does: refused by name, read whole, or wrong without a word?

    python tests/faults/damaged_labels.py --count 180 [--camvid DIR]

Each trial takes one pair of a street scene (or of CamVid), damages one file as a failing disk or a broken copy does,
reads it as every opening and every access does, and compares all pixels. A zeroed sector is 512 bytes at a multiple of
512, drawn at random; a cut file ends at a random byte. "whole": the pixels are right, since the damage changed nothing
that counts, or since the cache was made again. "silent" and "traceback" must be 0. Two labels of one size that change
places cannot be told: nothing in them says to which picture they belong.

Measured on 12 photographs of CamVid (480x360) by `--count 180 --camvid DIR`, Pillow 13, 20 trials of each cache:

    PNG label, zeroed sector or cut          180 + 180 refused
    PNG image, zeroed sector                 180 refused
    JPEG, zeroed sector: plain, optimised,   180 + 180 + 180 refused
    progressive
    JPEG, WebP, cut                          180 + 180 refused
    WebP, zeroed sector                      180 refused
    image and label swapped, another size    180 + 180 refused
    Arrow cache: zeroed, cut, another's      20 + 20 + 20 whole (made again)
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.decoding import DataError, Decoder
from transkd_lite.data.labels import VOID, lookup_table
from transkd_lite.data.streets import draw_scene

SECTOR = 512
OUTCOMES = ("refused", "whole", "silent", "traceback")


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
    "PNG label, zeroed sector": (".png", {}, "label", zeroed),
    "PNG label, cut": (".png", {}, "label", cut),
    "PNG image, zeroed sector": (".png", {}, "image", zeroed),
    "JPEG image, zeroed sector": (".jpg", {"quality": 90}, "image", zeroed),
    "optimised JPEG, zeroed sector": (".jpg", {"quality": 90, "optimize": True}, "image", zeroed),
    "progressive JPEG, zeroed sector": (".jpg", {"quality": 90, "progressive": True}, "image", zeroed),
    "JPEG image, cut": (".jpg", {"quality": 90}, "image", cut),
    "WebP image, zeroed sector": (".webp", {"quality": 90}, "image", zeroed),
    "WebP image, cut": (".webp", {"quality": 90}, "image", cut),
    "image and label swapped": (".png", {}, "both", None),
    "label of another size": (".png", {}, "label", None),
}
CACHES = {"Arrow cache, zeroed sector": zeroed, "Arrow cache, cut": cut, "Arrow cache of another split": None}


def outcome(read: Callable[[], list[bytes]], pristine: list[bytes], root: Path) -> str:
    """What reading comes to: "refused" needs the file's folder in the message."""
    try:
        found = read()
    except DataError as error:
        return "refused" if str(root) in str(error) else "traceback"
    except Exception:
        return "traceback"
    return "whole" if found == pristine else "silent"


def damage_files(kind: str, pairs: list[tuple[Path, Path]], count: int, root: Path) -> Counter[str]:
    suffix, options, which, how = FILES[kind]
    rng, found = np.random.default_rng(0), Counter[str]()
    image, label = root / f"a{suffix}", root / "label.png"
    decoder = Decoder(lookup_table(11, dict(zip(range(12), [*range(11), VOID], strict=True))))

    def read() -> list[bytes]:
        return pixels([decoder.read({"image": {"path": str(image)}, "label": {"path": str(label)}})])

    whole = []
    for pair in pairs:
        Image.open(pair[0]).convert("RGB").save(image, **options)
        shutil.copyfile(pair[1], label)
        whole.append((image.read_bytes(), label.read_bytes(), read()))
    for trial in range(count):
        *content, pristine = whole[trial % len(whole)]
        image.write_bytes(content[0])
        label.write_bytes(content[1])
        if which == "both":
            image.write_bytes(content[1])
            label.write_bytes(content[0])
        elif how is None:
            grey = Image.open(label)
            grey.resize((grey.width // 2, grey.height // 2), Image.Resampling.NEAREST).save(label)
        else:
            file = image if which == "image" else label
            file.write_bytes(how(file.read_bytes(), rng))
        found[outcome(read, pristine, root)] += 1
    return found


def damage_caches(kind: str, pairs: list[tuple[Path, Path]], count: int, root: Path) -> Counter[str]:
    rng, found, how = np.random.default_rng(0), Counter[str](), CACHES[kind]
    for name, pair in zip("ab", pairs, strict=False):
        for folder, file in (("train", pair[0]), ("trainannot", pair[1])):
            (root / name / folder).mkdir(parents=True)
            shutil.copyfile(file, root / name / folder / f"a{file.suffix}")

    def read(name: str = "a") -> list[bytes]:
        return pixels(open_dataset("camvid", "train", root=root / name, cache=root / f"{name} cache"))

    pristine, _ = (read(name) for name in "ab")
    kept, other = (next((root / f"{name} cache").iterdir()) for name in "ab")
    for _ in range(count):
        kept.write_bytes(other.read_bytes() if how is None else how(kept.read_bytes(), rng))
        found[outcome(read, pristine, root)] += 1
    return found


def pixels(rows: Iterable[dict[str, Image.Image]]) -> list[bytes]:
    return [np.asarray(row[kind]).tobytes() for row in rows for kind in ("image", "label")]


def run(count: int, camvid: Path | None = None) -> Iterator[tuple[str, Counter[str]]]:
    """Every kind of damage and the outcomes of `count` trials of it."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSKD_CACHE"] = f"{folder}/verdicts"
        pairs = camvid_pairs(camvid, 12) if camvid else draw_pairs(Path(folder, "scenes"), 6)
        for kind in (*FILES, *CACHES):
            (root := Path(folder, kind)).mkdir()
            yield kind, (damage_files if kind in FILES else damage_caches)(kind, pairs, count, root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="trials of each kind")
    parser.add_argument("--camvid", type=Path, help="photographs in place of drawn scenes")
    args = parser.parse_args()
    print(f"{'':<34}" + "".join(f"{word:>11}" for word in OUTCOMES))
    for kind, found in run(args.count, args.camvid):
        print(f"{kind:<34}" + "".join(f"{found[word]:>11}" for word in OUTCOMES), flush=True)


if __name__ == "__main__":
    main()
