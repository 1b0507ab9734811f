"""Scores against steps and seconds, with what was spent before the first step."""

import pandas as pd
import pytest

from transkd_lite.data.whole import HISTORY_FILE, METRICS_FILE, write_json
from transkd_lite.results import comparison, tables


@pytest.fixture
def batch(tmp_path):
    """Two runs of `none`, one of `kd`: 40 steps of 4 images at 8 and 4 images a second, scored at 10 and 30."""
    for method, seed, speed, scores in (
        ("none", 0, 8.0, (0.10, 0.20)),
        ("none", 1, 8.0, (0.14, 0.24)),
        ("kd", 0, 4.0, (0.2, 0.3)),
    ):
        folder = tmp_path / f"student-{method}-s{seed}-00000000"
        folder.mkdir()
        steps = [10, 20, 30, 40]
        history = pd.DataFrame({"step": steps, "loss": 1.0, "ce": 1.0, "images_per_s": speed})
        history["val_miou"] = [scores[0], None, scores[1], None]
        history.to_csv(folder / HISTORY_FILE, index=False)
        parameters = {"method": method, "seed": seed, "batch_size": 4, "steps": 40, "dataset": "streets"}
        write_json(folder / "run.json", {"parameters": parameters})
        full = {"miou": scores[1] + 0.1, "pixel_accuracy": 0.5, "iou": {"road": 0.5}}
        write_json(folder / METRICS_FILE, {"full": full, "wall_s": 160 / speed})
        (folder / "student.safetensors").touch()
    found = tables.load_batch(tmp_path)
    return found.history, tables.students(found.table)


def test_one_run_on_a_busy_machine_does_not_move_the_clock(batch):
    history, table = batch
    slow = {"run": "student-none-s2-00000000", "seed": 2}
    history, table = (
        pd.concat([rows, rows[rows["run"] == "student-none-s1-00000000"].assign(**slow, **{clock: 900.0})])
        for rows, clock in ((history, "seconds"), (table, "wall_s"))
    )
    curves = comparison.score_curves(history, table).set_index(["method", "step"])
    assert curves.loc["none", "seconds"].to_dict() == {10: 5.0, 30: 15.0, 40: 20.0}


def test_seconds_are_those_of_training_and_the_last_point_is_the_final_score(batch):
    curves = comparison.score_curves(*batch).set_index(["method", "step"])
    assert curves.loc["none", "seconds"].to_dict() == {10: 5.0, 30: 15.0, 40: 20.0}
    assert curves.loc["kd", "seconds"].to_dict() == {10: 10.0, 30: 30.0, 40: 40.0}
    assert curves.loc[("none", 30), ["mean", "low", "high", "runs"]].tolist() == pytest.approx([0.22, 0.2, 0.24, 2])
    assert curves.loc[("kd", 40), "mean"] == pytest.approx(0.4)


def test_the_time_to_a_score_is_that_of_the_first_point_that_has_it(batch):
    reached = comparison.time_to_reach(comparison.score_curves(*batch), 0.2)
    assert reached.loc["none", ["step", "seconds"]].tolist() == [30, 15.0]
    assert reached.loc["kd", ["step", "seconds"]].tolist() == [10, 10.0]
    never = comparison.time_to_reach(comparison.score_curves(*batch), 0.35)
    assert never.loc["none"].isna().all()
    assert never.loc["kd", "step"] == 40
