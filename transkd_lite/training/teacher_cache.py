"""A frozen teacher's answers, computed once for each sample and read back in every later epoch.

Where the augmentation has few states (none: one, flip: two), the teacher sees the same few pictures in every epoch. Its
answers are computed when they are first needed, always for the same chunk of samples together: neither the order of
the samples nor a kill can change a bit. They are kept in memory, or else in a memory-mapped file in the user's cache
folder, where other runs with the same teacher and pictures find them. A run with the cache equals one without it to
rounding, since the teacher sees other mini-batches.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import uuid
import warnings
from collections.abc import Collection
from pathlib import Path

import pooch
import psutil
import torch
from torch import Tensor

from transkd_lite.data.transforms import make_transform
from transkd_lite.metrics import autocast
from transkd_lite.models.output import SegModel, SegOutput
from transkd_lite.training.stream import SampleStore

__all__ = ["TeacherCache", "maps_by_name"]

CHUNK = 8  # samples that the teacher answers together
FILE_GB = 16  # the largest file; a teacher with more to say computes in every step


def maps_by_name(output: SegOutput) -> dict[str, Tensor]:
    """The maps of a network's output: logits, features_1 … features_4, embeddings_1 … embeddings_4."""
    stages = {f"{kind}_{i}": x for kind in ("features", "embeddings") for i, x in enumerate(getattr(output, kind), 1)}
    return {"logits": output.logits, **stages}


class TeacherCache:
    """cache(keys) -> the teacher's output for samples by key: their number, plus the number of samples where flipped.

    reads: names of the maps that the method reads; the others are given as zeros of the right shape.
    budget: bytes of memory. What needs more goes into one file in `TRANSKD_CACHE`, or the user's cache folder.
    place: "memory" or "file"; "" where there is room in neither, and the cache cannot be called.
    """

    def __init__(
        self, teacher: SegModel, store: SampleStore, *, normalize: bool, flips: bool, reads: Collection[str],
        device: torch.device, precision: str, budget: float,
    ) -> None:  # fmt: skip
        self.teacher, self.store, self.device, self.precision = teacher, store, device, precision
        self.transform = make_transform(normalize=normalize)
        self.answered = torch.zeros(len(store) * (1 + flips), dtype=torch.bool)
        first = maps_by_name(self._ask(range(1), flipped=False))
        self.shapes = {name: x.shape[1:] for name, x in first.items()}
        self.reads = {name: first[name] for name in self.shapes if name in reads}
        self.rows = torch.empty(0, dtype=torch.uint8)  # a key's answers are one row of bytes
        self.widths = [x.nbytes for x in self.reads.values()]
        size = (len(self.answered), sum(self.widths))
        self.num_bytes = size[0] * size[1]
        self.file: Path | None = None
        self.whole: Path | None = None  # what the file will be called, and its digest behind it, when it is whole
        self.place = ""
        if self.num_bytes <= budget:
            self.place, self.rows = "memory", torch.empty(size, dtype=torch.uint8)
        elif self.num_bytes <= FILE_GB * 2**30:
            facts = [torch.__version__, str(device), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
            facts += [teacher.spec.to_json(), precision, normalize, len(self.answered), sorted(self.reads)]
            key = hashlib.sha256(json.dumps(facts).encode())
            for tensor in teacher.state_dict().values():
                key.update(tensor.cpu().contiguous().numpy().tobytes())
            for index in range(len(store)):
                key.update(store[index][0].numpy().tobytes())
            home = Path(os.environ.get("TRANSKD_CACHE") or pooch.os_cache("transkd_lite"))
            self.file = self._open_file(home / "teacher", key.hexdigest()[:16])
        if self.file is not None:
            mapped = torch.from_file(str(self.file), shared=True, size=self.num_bytes, dtype=torch.uint8)
            self.place, self.rows = "file", mapped.view(size)

    def __call__(self, keys: Tensor) -> SegOutput:
        """The teacher's output for keys (n,), on the device; the answers that are missing are computed first."""
        num_samples = len(self.store)
        for key in keys.tolist():
            if not self.answered[key]:
                flipped, index = divmod(key, num_samples)
                start = index // CHUNK * CHUNK
                samples = range(start, min(start + CHUNK, num_samples))
                maps = maps_by_name(self._ask(samples, flipped=bool(flipped)))
                chunk = slice(flipped * num_samples + start, flipped * num_samples + samples.stop)
                self.rows[chunk] = torch.cat([_as_bytes(maps[name]) for name in self.reads], 1).cpu()
                self.answered[chunk] = True
                if self.answered.all():
                    self._publish()
        parts = dict(zip(self.reads, self.rows[keys].split(self.widths, dim=1), strict=True))
        found: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            if name in parts:
                answer = parts[name].contiguous().view(self.reads[name].dtype).view(len(keys), *shape)
                found[name] = answer.to(self.device, non_blocking=True)
            else:
                found[name] = torch.zeros((), device=self.device).expand(len(keys), *shape)
        features, embeddings = (
            tuple(x for name, x in found.items() if name.startswith(kind)) for kind in ("features", "embeddings")
        )
        return SegOutput(found["logits"], features, embeddings)

    def _ask(self, samples: range, flipped: bool) -> SegOutput:
        unused = torch.Generator()
        pictures = torch.stack([self.transform(*self.store[index], unused)[0] for index in samples]).to(self.device)
        with torch.no_grad(), autocast(self.device, self.precision):
            return self.teacher(pictures.flip(-1) if flipped else pictures)

    def _open_file(self, folder: Path, key: str) -> Path | None:
        """A file that another run has filled, or a new one of the right size; None where the disk is full."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{key}-*"):
            if path.name == f"{key}-{_digest(path)}":
                self.answered[:] = True
                os.utime(path)
                return path
            warnings.warn(f"{path} is damaged (it has not the digest of its name): made again", stacklevel=4)
            path.unlink(missing_ok=True)
        for path in folder.glob(f".filling-{socket.gethostname()}-*"):  # left by a run that was killed
            if not psutil.pid_exists(int(path.name.rsplit("-", 2)[1])):
                path.unlink(missing_ok=True)
        files = sorted(folder.glob("[!.]*"), key=os.path.getmtime)
        while files and sum(map(os.path.getsize, files)) + self.num_bytes > FILE_GB * 2**30:
            files.pop(0).unlink(missing_ok=True)  # the one that was not used for the longest time
        path = folder / f".filling-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.num_bytes)
        except OSError as error:
            path.unlink(missing_ok=True)
            warnings.warn(
                f"no room for {self.num_bytes / 2**20:.0f} MB of the teacher's answers in {folder} ({error}): the "
                "teacher computes in every step; make room, or set TRANSKD_CACHE to another folder",
                stacklevel=4,
            )
            return None
        self.whole = folder / key
        return path

    def _publish(self) -> None:
        """Give a file that is whole the name under which other runs find it."""
        if self.whole is not None and self.file is not None:
            with self.file.open("rb+") as file:
                os.fsync(file.fileno())
            whole = self.whole.with_name(f"{self.whole.name}-{_digest(self.file)}")
            with contextlib.suppress(OSError):  # where it cannot be shared it still serves this run
                self.file, self.whole = self.file.replace(whole), None

    def close(self) -> None:
        """A file that did not become whole goes."""
        if self.whole is not None and self.file is not None:
            self.file.unlink(missing_ok=True)


def _as_bytes(x: Tensor) -> Tensor:
    """(n, …) -> (n, bytes)."""
    return x.reshape(len(x), -1).contiguous().view(torch.uint8)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
