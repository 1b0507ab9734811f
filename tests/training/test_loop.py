"""fit in one process: what it learns, tells, keeps and refuses."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from transkd_lite.data.whole import DamagedRunError, read_json
from transkd_lite.distill.losses import resize_labels
from transkd_lite.distill.methods import create_method
from transkd_lite.metrics import match_sizes, resolve_precision
from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import create_model, load_model
from transkd_lite.training import checkpoint, loop
from transkd_lite.training.checkpoint import RunFolder, list_checkpoints
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.folder import read_run
from transkd_lite.training.loop import fit, show_progress
from transkd_lite.training.step import NonFiniteLossError, TrainStep, cross_entropy
from transkd_lite.training.stream import SampleStore, batches

QUICK = {"steps": 4, "batch_size": 2, "lr": 1e-3, "log_every": 2, "precision": "fp32", "augment": "none"}


def scenes(num: int = 4, size: int = 32) -> list[dict[str, Any]]:
    """Noise whose label can be read from the first channel."""
    images = np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    return [{"image": image, "label": (image[..., 0] // 86).astype(np.uint8)} for image in images]


def student(num_classes: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("segformer_b0", num_classes, **options)


def pair() -> tuple[Any, Any]:
    torch.manual_seed(1)
    teacher = create_model("segformer_b0", 3)
    return teacher, create_method("transkd-base", student(), teacher, weights={"csf_1": 0.5})


def plain(num: int, rank: int = 0, world_size: int = 1, workers: int = 0) -> list[tuple[torch.Tensor, ...]]:
    config = TrainConfig(batch_size=3, augment="none", normalize=False, workers=workers)
    return list(batches(SampleStore(scenes(num)), config, range(4), rank, world_size))


def test_a_run_tells_everything_and_leaves_a_finished_folder(tmp_path: Path) -> None:
    model, (teacher, method) = student(), pair()
    before = torch.get_rng_state()
    config = TrainConfig(**QUICK, eval_every=2)
    result = fit(
        model, scenes(), config=config, teacher=teacher, method=method, val_data=scenes(2), out_dir=tmp_path / "run"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    history = result.history
    assert history["step"].tolist() == [2, 4]
    assert history["epoch"].tolist() == [1.0, 2.0]
    assert {"lr", "loss", "ce", "csf_1", "pea_4", "weight_csf_1", "images_per_s", "val_miou"} <= set(history)
    terms = [name for name in history if f"weight_{name}" in history]
    summed = history["ce"] + sum(history[name] * history[f"weight_{name}"] for name in terms)
    assert history["loss"].tolist() == pytest.approx(summed.tolist(), rel=1e-5)
    assert history["weight_csf_1"].tolist() == [0.5, 0.5]
    run = read_run(tmp_path / "run")
    assert run.state == run.info["state"] == "finished"
    assert {"versions", "commit", "dirty", "seed", "precision", "device", "wall_s", "peak_mb"} <= set(run.info)
    assert set(run.metrics) >= {"full", "paper", "wall_s", "steps"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "history.csv"), history)
    saved = load_model(tmp_path / "run" / "student.safetensors").state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    again = fit(student(), scenes(), config=config, teacher=teacher, method=method, out_dir=run.folder, resume=True)
    assert (again.resumed_from, again.metrics) == (4, run.metrics)


def test_the_network_learns_what_can_be_learned() -> None:
    config = TrainConfig(steps=60, batch_size=3, lr=3e-4, log_every=20, precision="fp32", augment="none")
    flat = [
        {"image": np.full((32, 32, 3), 60 * k, np.uint8), "label": np.full((32, 32), k, np.uint8)} for k in range(3)
    ]
    result = fit(student(drop_path=0.0, head_dropout=0.0), flat, config=config, val_data=flat)
    assert result.metrics["full"]["miou"] == 1.0
    assert result.history["loss"].iloc[-1] < 0.1 * result.history["loss"].iloc[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    losses = [
        fit(student(), scenes(), config=TrainConfig(**{**QUICK, "seed": s, "deterministic": True})).history["loss"]
        for s in (0, 0, 1)
    ]
    assert losses[0].tolist() == losses[1].tolist() != losses[2].tolist()
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_trains_close_to_fp32() -> None:
    """With steps in proportion to the gradient: where it is nothing but rounding, Adam's own go anywhere."""
    runs_of = [
        fit(student(), scenes(), config=TrainConfig(**{**QUICK, "precision": p, "eps": 0.1})) for p in ("fp32", "bf16")
    ]
    fp32, bf16 = (run.history["loss"].tolist() for run in runs_of)
    assert bf16 == pytest.approx(fp32, rel=0.02)


def stopped(out_dir: Path, config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted as soon as the checkpoint of a step is written."""
    save = RunFolder.save

    def save_and_stop(folder: RunFolder, trainer: Any) -> None:
        save(folder, trainer)
        if trainer.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(student(), scenes(), config=config, out_dir=out_dir)


def test_auto_is_fp32_on_a_cpu_and_a_resumed_run_keeps_what_it_chose(tmp_path: Path, monkeypatch) -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    config = TrainConfig(**{**QUICK, "precision": "auto", "checkpoint_every": 1})
    with monkeypatch.context() as bf16_is_fast:
        bf16_is_fast.setattr(loop, "resolve_precision", lambda precision, device: "bf16")
        stopped(tmp_path / "run", config, 2, monkeypatch)
        whole = fit(student(), scenes(), config=config).history
    again = fit(student(), scenes(), config=config, out_dir=tmp_path / "run", resume=True)
    assert again.resumed_from == 2
    assert read_run(tmp_path / "run").info["precision"] == "bf16"
    assert again.history["loss"].tolist() == whole["loss"].tolist()
    finished = fit(student(), scenes(), config=config, out_dir=tmp_path / "run", resume=True)
    assert finished.metrics == again.metrics


def test_a_resumed_run_keeps_its_threads_or_says_once_that_it_cannot(tmp_path: Path, monkeypatch) -> None:
    config = TrainConfig(**{**QUICK, "steps": 6, "checkpoint_every": 1})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        stopped(tmp_path / "run", config, 2, monkeypatch)
        torch.set_num_threads(1)
        shutil.copytree(tmp_path / "run", tmp_path / "fewer")
        monkeypatch.setattr("os.cpu_count", lambda: 4)
        fit(student(), scenes(), config=config, out_dir=tmp_path / "run", resume=True)
        assert torch.get_num_threads() == 1, "the caller's number comes back"
        assert read_run(tmp_path / "run").info["threads"] == "3"
        monkeypatch.setattr("os.cpu_count", lambda: 2)
        with pytest.warns(UserWarning, match="had 3 threads and goes on at step 2 with the 1 of this machine"):
            fit(student(), scenes(), config=config, out_dir=tmp_path / "fewer", resume=True)
        assert read_run(tmp_path / "fewer").info["threads"] == "3, then 1 from step 2"
    finally:
        torch.set_num_threads(before)


def test_a_broken_loss_is_named_with_its_step_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    teacher, method = pair()
    part = method.parts["pea"]
    original, calls = part.forward, []

    def breaks_at_step_3(*args: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = original(*args)
        return terms | ({"pea_2": terms["pea_2"] * math.nan} if len(calls) == 4 else {})

    part.forward = breaks_at_step_3
    config = TrainConfig(**{**QUICK, "steps": 8, "log_every": 8, "checkpoint_every": 2})
    with pytest.raises(NonFiniteLossError, match=r"at step 3 \(counted from 0\) pea_2 = nan, with lr"):
        fit(student(), scenes(), config=config, teacher=teacher, method=method, out_dir=tmp_path)
    assert [path.name[:13] for path in list_checkpoints(tmp_path / "checkpoint")] == ["step-00000002"]
    assert read_run(tmp_path).state == "failed"


def test_a_run_whose_scoring_fails_or_is_stopped_does_not_train_again(tmp_path: Path, monkeypatch: Any) -> None:
    config = TrainConfig(**QUICK)
    whole = fit(student(), scenes(), config=config, val_data=scenes(2))

    def stopped(*_: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(student(), scenes(), config=config, val_data=scenes(2), out_dir=tmp_path / "run")
    result = fit(student(), scenes(), config=config, val_data=scenes(2), out_dir=tmp_path / "run", resume=True)
    assert (result.resumed_from, result.metrics["full"]) == (4, whole.metrics["full"])


def test_a_used_folder_is_neither_overwritten_nor_resumed_with_other_parameters(tmp_path: Path) -> None:
    fit(student(), scenes(), config=TrainConfig(**QUICK), out_dir=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="pass resume=True"):
        fit(student(), scenes(), config=TrainConfig(**QUICK), out_dir=tmp_path)
    with pytest.raises(ValueError, match=r"these differ: config\.lr: 0\.001 there, 0\.002 now\. Give the same"):
        fit(student(), scenes(), config=TrainConfig(**{**QUICK, "lr": 2e-3}), out_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"train_images: 4 there, 3 now"):
        fit(student(), scenes(3), config=TrainConfig(**QUICK), out_dir=tmp_path, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_a_run_is_not_resumed_with_other_options_of_its_method(tmp_path: Path) -> None:
    model, teacher, config = student(), student(), TrainConfig(**QUICK)
    first, other = (create_method("kd", model, teacher, temperature=tau) for tau in (1.0, 2.0))
    fit(model, scenes(), config=config, teacher=teacher, method=first, out_dir=tmp_path)
    with pytest.raises(ValueError, match=r"option\.kd\.temperature: 1\.0 there, 2\.0 now"):
        fit(model, scenes(), config=config, teacher=teacher, method=other, out_dir=tmp_path, resume=True)


def test_a_stopped_run_knows_its_parameters_by_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(**QUICK, checkpoint_every=2)
    stopped(tmp_path, config, 2, monkeypatch)
    other, wanted = dataclasses.replace(config, lr=2e-3), r"these differ: config\.lr: 0\.001 there, 0\.002 now\. Give"
    (saved,) = list_checkpoints(tmp_path / "checkpoint")
    content = saved.read_bytes()
    saved.write_bytes(content[:-1])
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match=wanted):
        fit(student(), scenes(), config=other, out_dir=tmp_path, resume=True)  # run.json knows them, too
    saved.write_bytes(content)
    (tmp_path / "run.json").write_text('{"state": "interr')
    with pytest.raises(ValueError, match=wanted):
        fit(student(), scenes(), config=other, out_dir=tmp_path, resume=True)
    assert fit(student(), scenes(), config=config, out_dir=tmp_path, resume=True).resumed_from == 2
    assert read_run(tmp_path).info["identity"]["config.lr"] == 0.001


def test_a_finished_run_with_damaged_files_is_neither_read_nor_trained_again(tmp_path: Path) -> None:
    config = TrainConfig(**QUICK)
    fit(student(), scenes(), config=config, out_dir=tmp_path)
    weights = tmp_path / "student.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:3_000_000] + bytes(400_000) + content[3_400_000:])
    wanted = r"student\.safetensors is not what its run left .*: delete the run folder .* and give the command"
    for source in (weights, tmp_path):
        with pytest.raises(DamagedRunError, match=wanted):
            load_model(source)
    with pytest.raises(DamagedRunError, match=wanted):
        fit(student(), scenes(), config=config, out_dir=tmp_path, resume=True)
    weights.write_bytes(content)
    (tmp_path / "metrics.json").write_bytes(b"")
    with pytest.raises(DamagedRunError, match=r"metrics\.json cannot be read"):
        fit(student(), scenes(), config=config, out_dir=tmp_path, resume=True)
    with pytest.raises(FileExistsError, match="holds a run"):
        fit(student(), scenes(), config=config, out_dir=tmp_path)


def test_what_comes_after_the_metrics_changes_nothing_and_is_made_up_for(tmp_path: Path, monkeypatch: Any) -> None:
    config = TrainConfig(**QUICK, checkpoint_every=2)

    def stop(folder: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(student(), scenes(), config=config, out_dir=tmp_path)
    assert list_checkpoints(tmp_path / "checkpoint")
    assert read_run(tmp_path).info["state"] == "finished"  # and metrics.json vouches for it
    assert fit(student(), scenes(), config=config, out_dir=tmp_path, resume=True).resumed_from == 4
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (64, 32)}, r"crop must fit into the image \(32x32\); got crop=\(64, 32\)"),
        ({"class_weights": (1.0, 1.0)}, "class_weights must have one factor for each of the 3 logits; got 2"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(student(), scenes(), config=TrainConfig(**{**QUICK, **settings}), out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_data_is_named() -> None:
    wrong = scenes()
    wrong[1]["label"][0, 0] = 44
    with pytest.raises(ValueError, match=r"train ids are 0-2 and 255; got label 44 in sample 1"):
        fit(student(), wrong, config=TrainConfig(**QUICK))
    with pytest.raises(ValueError, match="at least one sample"):
        fit(student(), [], config=TrainConfig(**QUICK))
    with pytest.raises(ValueError, match=r"one size; got .*\(32, 32\), \(64, 64\).*set crop"):
        fit(student(), scenes(2) + scenes(2, 64), config=TrainConfig(**{**QUICK, "batch_size": 4}))
    with pytest.raises(ValueError, match="got a teacher without a method"):
        fit(student(), scenes(), config=TrainConfig(**QUICK), teacher=student())


def test_every_epoch_sees_every_sample_once_and_positions_say_all() -> None:
    seen = torch.cat([images[:, 0, 0, 0] for images, *_ in plain(6)])
    whole = torch.tensor([float(s["image"][0, 0, 0]) / 255 for s in scenes(6)]).sort().values
    assert torch.equal(seen[:6].sort().values, whole)
    assert torch.equal(seen[6:].sort().values, whole)
    assert not torch.equal(seen[:6], seen[6:])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers on one core, too
def test_samples_that_are_larger_than_the_first_are_kept_within_the_limit() -> None:
    large = scenes(4, size=512)  # a megabyte each
    store = SampleStore([*scenes(1), *large], cache_mb=2)
    for index in (*range(5), 4, 0):
        assert torch.equal(store[index][0], SampleStore([*scenes(1), *large], cache_mb=0)[index][0])
    kept = sum(tensor.nbytes for pair in store._kept.values() for tensor in pair)
    assert 2**20 < kept <= 2 * 2**20


def test_loader_processes_change_nothing() -> None:
    for batch, other in zip(plain(5), plain(5, workers=2), strict=True):
        assert all(map(torch.equal, batch, other))


def test_processes_share_every_batch() -> None:
    shares = [plain(6, rank=r, world_size=3) for r in range(3)]
    for step, (images, *_) in enumerate(plain(6)):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), images)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes; got batch_size=3"):
        plain(6, world_size=2)


def test_cross_entropy_is_the_weighted_mean_and_zero_without_labels() -> None:
    logits, labels = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 8, 8))
    labels[0, :4] = 255
    weights = torch.tensor([1.0, 0.0, 2.5])
    expected = torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels, weights), expected)
    loss = cross_entropy(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_quarter_supervision_resizes_labels_and_full_resizes_logits() -> None:
    logits, labels = torch.randn(1, 3, 8, 16), torch.randint(0, 3, (1, 32, 64))
    quarter, full = match_sizes(logits, labels, "quarter"), match_sizes(logits, labels, "full")
    assert torch.equal(quarter[0], logits)
    assert torch.equal(quarter[1], labels[:, 2::4, 2::4])
    assert full[0].shape == (1, 3, 32, 64)
    assert torch.equal(full[1], labels)
    assert resize_labels(labels, (5, 7)).shape == (1, 5, 7)


def test_the_teacher_gets_no_gradient_and_no_graph() -> None:
    teacher, method = pair()
    model = student()
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    step = TrainStep(model, TrainConfig(), teacher.eval(), method)
    step(images, labels)["total"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert not any(name.startswith("_outside") for name, _ in step.named_parameters())


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b1"])
def test_the_folded_head_is_the_head(name: str) -> None:
    """To rounding in float64, gradients included, whichever order of products is the cheaper one."""
    torch.manual_seed(0)
    model = create_model(name, 3, drop_path=0.0, head_dropout=0.0).double().train()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found = []
    for folded in (False, True):
        with folded_heads(model if folded else None):
            logits = model(images).logits
        found.append([logits, *torch.autograd.grad(logits.square().mean(), list(model.parameters()))])
    for plain_value, folded_value in zip(*found, strict=True):
        torch.testing.assert_close(folded_value, plain_value, rtol=1e-8, atol=1e-12)
    assert not model.head.folded


def test_a_score_between_two_logging_intervals_gets_a_row_of_its_own() -> None:
    config = TrainConfig(**{**QUICK, "log_every": 4}, eval_every=1)
    history = fit(student(), scenes(), config=config, val_data=scenes(2)).history
    assert history["step"].tolist() == [1, 2, 3, 4]
    assert history["val_miou"].notna().tolist() == [True, True, True, False]


def test_an_accelerator_with_other_settings_is_named(monkeypatch) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    Accelerator(cpu=True, mixed_precision="bf16")
    with pytest.raises(ValueError, match=r"without mixed precision.*restart the kernel"):
        fit(student(), scenes(), config=TrainConfig(**QUICK))


def test_progress_is_told_to_those_who_look_from_outside(tmp_path: Path) -> None:
    with show_progress(20, 10, "none", "train", file=tmp_path / "checkpoint" / "progress.json") as show:
        show(11)
        assert read_json(tmp_path / "checkpoint" / "progress.json")["step"] == 11
        show(20, loss=1.5)
    at = read_json(tmp_path / "checkpoint" / "progress.json")
    assert at == {"step": 20, "steps": 20, "left_s": 0, "loss": 1.5}
