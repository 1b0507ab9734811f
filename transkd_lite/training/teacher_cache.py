"""A frozen teacher's answers, computed once for each sample and read back in every later epoch.

Where the augmentation has few states (none: one, flip: two), the teacher sees the same few pictures in every epoch. Its
answers are computed when they are first needed, always for the same chunk of samples together: neither the order of
the samples nor a kill can change a bit. They are kept in the memory of the device, or else in a memory-mapped file in
the user's cache folder, where other runs with the same teacher and pictures find them. A run with the cache equals one
without it to rounding, since the teacher sees other mini-batches.
"""

import contextlib
import hashlib
import itertools
import json
import os
import socket
import warnings
from collections.abc import Collection
from pathlib import Path

import psutil
import torch
from torch import Tensor

from transkd_lite.data.transforms import make_transform
from transkd_lite.data.whole import TEMPORARY, digest, user_cache
from transkd_lite.distill.distiller import MAPS
from transkd_lite.metrics import autocast
from transkd_lite.models.output import SegModel, SegOutput
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.stream import SampleStore

__all__ = ["TeacherCache", "maps_by_name"]

CHUNK = 8  # samples that the teacher answers together
FILE_GB = 16  # the largest file; a teacher with more to say computes in every step


def maps_by_name(output: SegOutput) -> dict[str, Tensor]:
    """The maps of a network's output: logits, features_1 … features_4, embeddings_1 … embeddings_4."""
    return dict(zip(MAPS, (output.logits, *output.features, *output.embeddings), strict=True))


class TeacherCache:
    """cache(keys) -> the teacher's output for samples by key: their number, plus the number of samples where flipped.

    config: its precision is "fp32", "bf16" or "fp16". What is left of its cache_mb beside the samples is the memory
    that answers may take; what needs more goes into one file in `TRANSKD_CACHE`, or the user's cache folder.
    reads: names of the maps that the method reads; the others are given as zeros of the right shape.
    place: "memory" or "file"; "" where there is room in neither, and the cache cannot be called.
    """

    def __init__(
        self, teacher: SegModel, store: SampleStore, config: TrainConfig, reads: Collection[str], device: torch.device
    ) -> None:
        self.teacher, self.store, self.device, self.precision = teacher, store, device, config.precision
        self.transform = make_transform(normalize=config.normalize)
        self.zeros = {name: torch.zeros_like(x) for name, x in self._ask(range(1)).items()}
        self.reads = [name for name in self.zeros if name in reads]
        self.widths = [self.zeros[name].nbytes for name in self.reads]
        # A key's answers are one row of bytes.
        self.answered = torch.zeros(len(store) * int(config.num_states), dtype=torch.bool)
        self.size = (len(self.answered), sum(self.widths))
        self.num_bytes = self.size[0] * self.size[1]
        self.file = Path()
        self.whole: Path | None = None  # what the file will be called, and its digest behind it, when it is whole
        self.place = ""
        if self.num_bytes <= config.cache_mb * 2**20 - store.keeps * store.num_bytes:
            self.place, self.rows = "memory", torch.empty(self.size, dtype=torch.uint8, device=device)
        elif self.num_bytes <= FILE_GB * 2**30:
            gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
            machine = (torch.__version__, str(device), gpu, torch.backends.cpu.get_cpu_capability())
            asked = (teacher.spec.to_json(), config.precision, config.normalize, len(self.answered), self.reads)
            key = hashlib.sha256(json.dumps([*machine, torch.get_num_threads(), *asked]).encode())
            pictures = (store[index][0] for index in range(len(store)))
            for tensor in itertools.chain(teacher.state_dict().values(), pictures):
                key.update(_as_bytes(tensor.cpu().reshape(1, -1)).numpy().data)
            folder = user_cache("teacher")
            try:
                self._open_file(folder, key.hexdigest()[:16])
            except (OSError, RuntimeError) as error:  # torch's, where a file may not be read
                self.place = ""
                what = f"no room for {self.num_bytes / 2**20:.0f} MB of the teacher's answers in {folder} ({error})"
                advice = "make room, or set TRANSKD_CACHE to another folder"
                warnings.warn(f"{what}: the teacher computes in every step; {advice}", stacklevel=4)

    def __call__(self, keys: Tensor) -> SegOutput:
        """The teacher's output for keys (n,), on the device; the answers that are missing are computed first."""
        num_samples = len(self.store)
        for key in keys.tolist():
            if not self.answered[key]:
                state = key // num_samples * num_samples  # the first key of those that are flipped alike
                start = state + (key - state) // CHUNK * CHUNK
                chunk = range(start, min(start + CHUNK, state + num_samples))
                maps = self._ask(chunk)
                where = slice(chunk.start, chunk.stop)
                self.rows[where] = torch.cat([_as_bytes(maps[name]) for name in self.reads], 1).to(self.rows.device)
                self.answered[where] = True
                if self.whole is not None and self.answered.all():  # other runs can find it
                    whole = self.whole.with_name(f"{self.whole.name}-{digest(self.rows.numpy().data)}")
                    with contextlib.suppress(OSError):  # where it cannot be shared it still serves this run
                        self.file, self.whole = self.file.replace(whole), None
        found = {name: zeros.expand(len(keys), *zeros.shape[1:]) for name, zeros in self.zeros.items()}
        for name, part in zip(self.reads, self.rows[keys].split(self.widths, dim=1), strict=True):
            answer = part.contiguous().view(found[name].dtype).view(found[name].shape)
            found[name] = answer.to(self.device, non_blocking=True)
        logits, *stages = found.values()
        return SegOutput(logits, tuple(stages[: len(stages) // 2]), tuple(stages[len(stages) // 2 :]))

    def _ask(self, keys: range) -> dict[str, Tensor]:
        """The teacher's maps for keys, of which all or none are flipped."""
        num_samples, unused = len(self.store), torch.Generator()
        pictures = torch.stack([self.transform(*self.store[key % num_samples], unused)[0] for key in keys])
        pictures = pictures.to(self.device)
        with torch.no_grad(), autocast(self.device, self.precision):
            return maps_by_name(self.teacher(pictures.flip(-1) if keys.start >= num_samples else pictures))

    def _open_file(self, folder: Path, key: str) -> None:
        """Take a file that another run has filled, or a new one of the right size. `OSError`: no room or right."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{key}-*"):
            if path.stat().st_size == self.num_bytes and path.name == f"{key}-{digest(self._map(path, False))}":
                self.answered[:] = True
                with contextlib.suppress(OSError):
                    os.utime(path)
                return
            warnings.warn(f"{path} is damaged (it has not the digest of its name): made again", stacklevel=4)
            path.unlink(missing_ok=True)
        for path in folder.glob(f"{TEMPORARY}{socket.gethostname()}-*"):  # left by a run that was killed
            if not psutil.pid_exists(int(path.name.rsplit("-", 2)[1])):
                path.unlink(missing_ok=True)
        files = sorted(folder.glob("[!.]*"), key=os.path.getmtime)
        while files and sum(map(os.path.getsize, files)) + self.num_bytes > FILE_GB * 2**30:
            files.pop(0).unlink(missing_ok=True)  # the one that was not used for the longest time
        path = folder / f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{os.urandom(16).hex()}"
        reserve = getattr(os, "posix_fallocate", lambda handle, start, size: os.truncate(handle, size))
        try:
            with path.open("wb") as file:
                reserve(file.fileno(), 0, self.num_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._map(path, shared=True)
        self.whole = folder / key

    def _map(self, path: Path, shared: bool) -> memoryview:
        """Take the rows of a file, and give their bytes; what is not shared is only read: it may be another user's."""
        mapped = torch.from_file(str(path), shared=shared, size=self.num_bytes, dtype=torch.uint8)
        self.place, self.file, self.rows = "file", path, mapped.view(self.size)
        return self.rows.numpy().data

    def close(self) -> None:
        """A file that did not become whole goes."""
        if self.whole is not None:
            self.file.unlink(missing_ok=True)


def _as_bytes(x: Tensor) -> Tensor:
    """(n, …) -> (n, bytes)."""
    return x.reshape(len(x), -1).contiguous().view(torch.uint8)
