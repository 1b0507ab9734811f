"""Scores by condition: taken from the networks in run folders, saved beside the table, compared seed by seed."""

import pandas as pd
import pytest

import transkd_lite as tk
from transkd_lite.data.whole import write_json
from transkd_lite.results import comparison, tables

SIZE = {"dataset": "streets", "data_seed": 0, "height": 32, "width": 64, "val_images": 6, "network": "segformer_b0"}


@pytest.fixture
def batch(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"student-none-s{seed}-0a"
        write_json(folder / "run.json", {"parameters": {**SIZE, "method": "none", "seed": seed}})
        write_json(folder / "metrics.json", {"full": {"miou": 0.1, "pixel_accuracy": 0.1, "iou": {}}})
        tk.save_model(tk.create_model("segformer_b0", 19), folder / "student.safetensors")
    return tables.load_batch(tmp_path / "runs")


def test_every_network_is_scored_under_every_condition(batch, tmp_path, monkeypatch):
    table = comparison.score_conditions(batch, batch.table[batch.table["seed"] == 1])
    assert table["condition"].tolist() == ["clear", "fog", "night", "rain", "snow"]
    assert table["images"].tolist() == [2, 1, 1, 1, 1]  # six scenes take the five conditions in turn
    model = tk.load_model(batch.root / "student-none-s1-0a" / "student.safetensors")
    assert set(table["seed"]) == {1}
    scenes = tk.open_dataset("streets", "val", size=(32, 64), num=6).select([1])
    assert scenes["condition"] == ["fog"]
    assert table.set_index("condition").loc["fog", "miou"] == pytest.approx(tk.evaluate(model, scenes).miou)
    monkeypatch.setattr(tables, "DATA", tmp_path)
    assert tables.read_table("results/runs_conditions", comparison.COLUMNS).empty
    comparison.save_results(batch.root, tmp_path / "results")
    pd.testing.assert_frame_equal(tables.read_table("results/runs_conditions"), comparison.score_conditions(batch))


def test_each_network_is_scored_on_its_own_runs_images(batch):
    other = batch.root / "student-none-s1-0a"
    write_json(other / "run.json", {"parameters": {**SIZE, "width": 96, "data_seed": 3, "method": "none", "seed": 1}})
    scenes = tk.open_dataset("streets", "val", size=(32, 96), num=6, seed=3).select([1])
    wanted = tk.evaluate(tk.load_model(other / "student.safetensors"), scenes).miou
    table = comparison.score_conditions(batch).query("seed == 1").set_index("condition")
    assert table.loc["fog", "miou"] == pytest.approx(wanted)


def test_a_table_without_networks_is_refused(batch):
    with pytest.raises(ValueError, match=r"holds no networks.*runs/demo"):
        comparison.score_conditions(tables.Batch("demo (shipped tables)", batch.table, batch.history))


def test_gains_by_hand():
    scores = {"none": [0.30, 0.32, 0.34], "kd": [0.31, 0.34, 0.37]}
    rows = [("run", m, s, "fog", 20, v) for m, values in scores.items() for s, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=list(comparison.COLUMNS))
    (gain,) = comparison.gains_by(table, "condition").itertuples()
    assert (gain.condition, gain.method, gain.pairs) == ("fog", "kd", 3)
    assert gain.high - gain.mean == pytest.approx(0.0248414, rel=1e-5)
    with pytest.raises(ValueError, match="baseline 'at' has no run here"):
        comparison.gains_by(table, "condition", "at")
