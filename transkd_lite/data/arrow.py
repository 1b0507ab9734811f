"""Resized samples kept in one memory-mapped Arrow file, so that no worker decodes and shrinks a photograph
twice.

A Cityscapes pair costs 2 MB at 512x1024 and is read back as fast as memory is copied.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transkd_lite.data.decode import Decoder
from transkd_lite.data.folders import Pair
from transkd_lite.data.labels import ILLEGAL, lookup_table
from transkd_lite.data.verify import cache_folder, fingerprint

if TYPE_CHECKING:
    import datasets

__all__ = ["cached"]


def cached(
    table: datasets.Dataset, pairs: Sequence[Pair], decoder: Decoder, cache: Literal[True] | str | Path
) -> datasets.Dataset:
    """The same samples from an Arrow file, which is made first where it does not exist yet.

    Args:
        table: rows of file names; its label space goes along.
        pairs: the same files; a changed file, size or table makes another Arrow file.
        cache: True for the user's cache folder, or the folder to use.
    """
    import datasets

    def raw(row: dict[str, Any]) -> dict[str, Any]:
        """PIL images as uncompressed PPM and PGM files, which `Decoder` opens like any other."""
        files = {kind: io.BytesIO() for kind in ("image", "label")}
        for kind, file in files.items():
            row[kind].save(file, "PPM")
        return {kind: {"bytes": file.getvalue(), "path": None} for kind, file in files.items()}

    folder = cache_folder() / "arrow" if cache is True else Path(cache)
    file = folder / f"{fingerprint(pairs, decoder.values, repr(decoder.size).encode())}.arrow"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{file.stem}-{os.getpid()}.partial"
        decoded = table.with_transform(decoder)
        try:
            decoded.map(raw, cache_file_name=str(aside), features=table.features, desc="caching")
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
    resized = datasets.Dataset.from_file(str(file))
    resized.info.description = table.info.description
    return resized.with_transform(Decoder(lookup_table(ILLEGAL).tobytes()))
