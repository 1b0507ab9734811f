"""A cached teacher gives the same run: to rounding beside one that answers anew, to the bit beside itself."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transkd_lite.distill.methods import create_method, list_methods
from transkd_lite.models.weights import create_model
from transkd_lite.training import teacher_cache
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.folder import read_run
from transkd_lite.training.loop import fit
from transkd_lite.training.stream import SampleStore
from transkd_lite.training.teacher_cache import TeacherCache, maps_by_name

QUICK = {"steps": 8, "batch_size": 2, "lr": 1e-3, "log_every": 2, "precision": "fp32", "augment": "flip"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSKD_CACHE", str(tmp_path / "cache"))


def scenes(num: int = 6) -> list[dict[str, Any]]:
    images = np.random.default_rng(0).integers(0, 256, (num, 32, 64, 3), dtype=np.uint8)
    return [{"image": image, "label": (image[..., 0] // 86).astype(np.uint8)} for image in images]


def networks(method: str = "transkd-base") -> tuple[Any, Any, Any]:
    torch.manual_seed(1)
    teacher, student = create_model("segformer_b1", 3).eval(), create_model("segformer_b0", 3)
    return student, teacher, create_method(method, student, teacher)


def trained(method: str = "transkd-base", **settings: Any) -> tuple[Any, Any]:
    student, teacher, distiller = networks(method)
    options = {name: settings.pop(name) for name in ("out_dir", "resume") if name in settings}
    result = fit(
        student, scenes(), config=TrainConfig(**{**QUICK, **settings}), teacher=teacher, method=distiller, **options
    )
    return student.state_dict(), result


def cache_of(teacher: Any, **settings: Any) -> TeacherCache:
    reads = settings.pop("reads", ["logits", "features_4"])
    config = TrainConfig(**{"augment": "flip", "precision": "fp32", **settings})
    return TeacherCache(teacher, SampleStore(scenes(11)), config, reads, torch.device("cpu"))


@pytest.mark.parametrize("method", list_methods())
def test_every_method_trains_as_without_the_cache_to_rounding(method: str) -> None:
    """What a method does not say that it reads would be zeros: the losses would be others."""
    settings = {"eps": 0.1}  # with Adam's own, gradients of nothing but rounding go anywhere
    (_, cached), (_, anew) = trained(method, **settings), trained(method, **settings, teacher_cache="off")
    assert (cached.metrics["teacher_cache"], anew.metrics["teacher_cache"]) == ("memory", "off")
    for name in anew.history.columns.drop("images_per_s"):
        assert cached.history[name].tolist() == pytest.approx(anew.history[name].tolist(), rel=1e-4, abs=1e-7), name


def test_an_answer_is_the_teachers_whatever_the_mini_batch_and_its_order() -> None:
    _, teacher, _ = networks()
    cache, other = cache_of(teacher), cache_of(teacher)
    keys = torch.tensor([10, 0, 21, 7, 3])
    found = cache(keys)
    for key in (3, 21, 0):  # one at a time, in another order
        for name in ("logits", "features_4"):
            row = maps_by_name(found)[name][keys.tolist().index(key)]
            assert torch.equal(row, maps_by_name(other(torch.tensor([key])))[name][0])
    picture = cache.transform(*cache.store[10], torch.Generator())[0]
    with torch.no_grad():
        plain, flipped = teacher(picture[None]), teacher(picture[None].flip(-1))
    torch.testing.assert_close(found.logits[0], plain.logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features[3][2], flipped.features[3][0], rtol=1e-4, atol=1e-5)
    assert [x.shape for x in found.embeddings] == [(5, *x.shape[1:]) for x in plain.embeddings]


def test_memory_file_and_a_file_that_another_run_filled_give_the_same_bits(tmp_path: Path) -> None:
    weights, result = trained()
    assert result.metrics["teacher_cache"] == "memory"
    asked = []
    for _ in range(2):
        in_file, result = trained(cache_mb=0, out_dir=tmp_path / f"run{len(asked)}")
        assert read_run(result.out_dir).info["teacher_cache"] == "file"
        asked.append([path.name for path in (tmp_path / "cache" / "teacher").iterdir()])
        assert all(torch.equal(tensor, in_file[name]) for name, tensor in weights.items())
    assert len(asked[0]) == 1
    assert asked[0] == asked[1]


def test_a_whole_file_is_found_and_the_teacher_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, teacher, _ = networks()
    keys = torch.arange(22)
    first = cache_of(teacher, cache_mb=0)
    answers = first(keys)
    again = cache_of(teacher, cache_mb=0)
    monkeypatch.setattr(again, "_ask", None)
    assert torch.equal(again(keys).logits, answers.logits)


def test_a_whole_file_may_be_anothers_and_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, teacher, _ = networks()
    cache_of(teacher, cache_mb=0)(torch.arange(22))
    (file,) = (tmp_path / "cache" / "teacher").iterdir()
    content = file.read_bytes()

    def refuses(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("os.utime", refuses)
    found = cache_of(teacher, cache_mb=0)
    assert (found.place, found.answered.all()) == ("file", True)
    found.rows.zero_()
    assert file.read_bytes() == content


@pytest.mark.parametrize("end", [None, -1])
def test_a_damaged_file_is_named_and_made_again(end: int | None, tmp_path: Path) -> None:
    _, teacher, _ = networks()
    keys = torch.arange(22)
    answers = cache_of(teacher, cache_mb=0)(keys)
    (path,) = (tmp_path / "cache" / "teacher").iterdir()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content[:end])
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged"):
        again = cache_of(teacher, cache_mb=0)
    assert torch.equal(again(keys).logits, answers.logits)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_another_teacher_picture_precision_or_map_has_a_file_of_its_own(tmp_path: Path) -> None:
    _, teacher, _ = networks()
    keys = torch.arange(22)
    cache_of(teacher, cache_mb=0)(keys)
    cache_of(teacher, cache_mb=0, precision="bf16")(keys)
    cache_of(teacher, cache_mb=0, normalize=False)(keys)
    cache_of(teacher, cache_mb=0, reads=["logits"])(keys)
    with torch.no_grad():
        next(teacher.parameters()).add_(1e-6)
    cache_of(teacher, cache_mb=0)(keys)
    cache_of(teacher.bfloat16(), cache_mb=0, precision="bf16")(keys)
    assert len(list((tmp_path / "cache" / "teacher").iterdir())) == 6


def test_what_a_killed_run_left_goes_and_a_running_ones_stays(tmp_path: Path) -> None:
    _, teacher, _ = networks()
    running = cache_of(teacher, cache_mb=0)  # not whole yet
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = running.file.with_name(running.file.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
    left.write_bytes(b"half")
    other = cache_of(teacher, cache_mb=0)
    assert not left.exists()
    assert running.file.exists()
    running.close()
    other.close()
    assert not list((tmp_path / "cache" / "teacher").iterdir())


def test_without_room_on_the_disk_or_below_the_limit_the_teacher_answers_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, teacher, _ = networks()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.warns(UserWarning, match="no room for .* MB of the teacher's answers in .*No space left"):
            assert cache_of(teacher, cache_mb=0).place == ""
    with monkeypatch.context() as patched:
        patched.setenv("TRANSKD_CACHE", __file__)  # no folder can be made below a file
        with pytest.warns(UserWarning, match="set TRANSKD_CACHE to another folder"):
            assert cache_of(teacher, cache_mb=0).place == ""
    monkeypatch.setattr(teacher_cache, "FILE_GB", 1e-6)
    assert cache_of(teacher, cache_mb=0).place == ""


def test_the_folder_keeps_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, teacher, _ = networks()
    first = cache_of(teacher, cache_mb=0)
    first(torch.arange(22))
    monkeypatch.setattr(teacher_cache, "FILE_GB", 1.5 * first.num_bytes / 2**30)
    second = cache_of(teacher, cache_mb=0, normalize=False)
    second(torch.arange(22))
    assert [path.name for path in (tmp_path / "cache" / "teacher").iterdir()] == [second.file.name]


@pytest.mark.parametrize(
    ("augment", "steps", "used"), [("none", 12, True), ("standard", 12, False), ("flip", 5, False)]
)
def test_it_is_used_only_where_a_picture_comes_again(augment: str, steps: int, used: bool) -> None:
    _, result = trained(augment=augment, steps=steps)
    assert result.metrics["teacher_cache"] == ("memory" if used else "off")


@pytest.mark.parametrize(("precision", "workers", "cache_mb"), itertools.product(["fp32", "bf16"], [0, 2], [1024, 0]))
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    tmp_path: Path, precision: str, workers: int, cache_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transkd_lite.training.checkpoint import RunFolder

    settings = {"precision": precision, "workers": workers, "cache_mb": cache_mb, "checkpoint_every": 2}
    whole, _ = trained(**settings)
    save = RunFolder.save

    def stop_in_the_first_epoch(folder: RunFolder, trainer: Any) -> None:
        save(folder, trainer)
        if trainer.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save", stop_in_the_first_epoch)
        with pytest.raises(KeyboardInterrupt):
            trained(**settings, out_dir=tmp_path / "run")
    again, result = trained(**settings, out_dir=tmp_path / "run", resume=True)
    assert result.resumed_from == 2
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
