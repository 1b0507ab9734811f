"""Pictures of a batch are made as its runs saw their images."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

import transkd_lite as tk
from transkd_lite.data.whole import write_json
from transkd_lite.results import comparison, tables


@pytest.fixture
def batch(tmp_path):
    """A finished student and a teacher that were trained on images in [0, 1]."""
    torch.manual_seed(0)
    scores = {"miou": 0.1, "pixel_accuracy": 0.2, "iou": {"road": 0.1}}
    for name in ("teacher-none-s0-0a", "student-none-s0-0b"):
        shape = {"height": 32, "width": 64, "val_images": 5}
        parameters = {"dataset": "streets", "network": "segformer_b0", "normalize": False, **shape}
        write_json(tmp_path / name / "run.json", {"parameters": parameters})
        tk.save_model(tk.create_model("segformer_b0", 19), tmp_path / name / "student.safetensors")
        write_json(tmp_path / name / "metrics.json", {"full": scores, "paper": scores})
    return tables.load_batch(tmp_path)


def test_networks_see_the_validation_images_as_in_training(batch, monkeypatch):
    seen = []

    def watch(model, images, **options):
        seen.append(options)
        return tk.predict(model, images, **options)

    monkeypatch.setattr(comparison, "predict", watch)
    pictures = comparison.load_gallery(batch, 2)
    assert list(pictures.rows) == ["label", "none", "teacher"]
    assert seen == [{"normalize": False}] * 2
    truth = tk.open_dataset("streets", "val", size=(32, 64), num=2)
    for picture, row in zip(pictures.images, truth, strict=True):
        assert np.array_equal(picture, row["image"])


def test_teachers_and_students_share_the_table(batch):
    assert list(tables.teachers(batch.table)["run"]) == ["teacher-none-s0-0a"]
    assert list(tables.students(batch.table)["run"]) == ["student-none-s0-0b"]


def test_what_stays_of_a_batch_includes_its_scores_by_condition_and_the_checksums_of_its_networks(batch, tmp_path):
    saved = comparison.save_results(batch.root, tmp_path / "kept")
    ends = (".csv", "_history.csv", "_networks.csv", "_references.csv", ".png", "_strip.png", "_conditions.csv")
    assert [path.name for path in saved] == [f"{batch.name}{end}" for end in ends]
    assert all(path.is_file() for path in saved)
    networks = pd.read_csv(saved[2]).set_index("run")
    assert set(networks.index) == set(batch.table["run"])
    for run, row in networks.iterrows():
        content = (batch.root / run / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_figure_of_a_batch_names_its_variants_best_first(batch, tmp_path, monkeypatch):
    table = batch.table
    runs = [
        table[table["run"].str.startswith("student")].assign(method=method, options=options, miou=miou)
        for method, options, miou in [
            ("none", "{}", 0.1),
            ("transkd-base", '{"fusion": "abf"}', 0.2),
            ("transkd-base", "{}", 0.3),
        ]
    ]
    drawn = pd.concat([table[table["run"].str.startswith("teacher")], *runs], ignore_index=True)
    figures = []
    monkeypatch.setattr(tables, "load_batch", lambda root: tables.Batch("mine", drawn, batch.history))
    monkeypatch.setattr(comparison, "score_conditions", lambda batch: pd.DataFrame())
    monkeypatch.setattr("transkd_lite.plots.to_png", lambda figure: figures.append(figure) or b"")
    comparison.save_results(tmp_path, tmp_path / "kept")
    (axis,) = figures[0].axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["transkd-base", "transkd-base (fusion abf)", "none"]
    assert "teacher 10.0" in [text.get_text() for text in axis.texts]


def test_the_networks_that_ship_with_the_course_are_shown_for_streets_alone(batch):
    table = batch.table.assign(dataset="camvid")
    assert comparison.load_gallery(tables.Batch("camvid (shipped tables)", table, batch.history)) is None
