"""The report's table and statistics, on run folders and numbers that can be checked by hand."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from transkd_lite.data.labels import LabelSpace
from transkd_lite.data.whole import write_json
from transkd_lite.results import comparison, tables


def make_run(root, name, method, seed, miou, **parameters):
    scores = {"miou": miou, "pixel_accuracy": 0.9, "iou": {"road": miou, "car": miou}}
    parameters = {"dataset": "streets", "network": "segformer_b0", "method": method, "seed": seed, **parameters}
    write_json(root / name / "run.json", {"parameters": parameters, "versions": {"torch": "2.15"}})
    write_json(root / name / "metrics.json", {"full": scores, "paper": scores, "wall_s": 1.5})


@pytest.fixture
def table():
    scores = {"none": [0.30, 0.32, 0.34], "kd": [0.31, 0.34, 0.37]}
    return pd.DataFrame(
        [{"method": m, "seed": s, "miou": v} for m, values in scores.items() for s, v in enumerate(values)]
    )


def test_results_table_has_a_row_for_each_finished_run_and_protocol(tmp_path):
    make_run(tmp_path, "student-kd-s1-0a", "kd", 1, 0.4, teacher="run:teacher", options={"temperature": 2})
    make_run(tmp_path, "teacher-none-s0-0b", "none", 0, 0.6)
    write_json(tmp_path / "student-kd-s2-0c" / "run.json", {"parameters": {}})
    rows = tables.results_table(tmp_path)
    assert list(rows["protocol"]) == ["full", "paper"] * 2
    assert list(rows["method"]) == ["none", "none", "kd", "kd"]
    assert rows.iloc[2][["method", "seed", "torch", "wall_s", "iou_car"]].tolist() == ["kd", 1, "2.15", 1.5, 0.4]
    assert json.loads(rows.iloc[2]["options"]) == {"temperature": 2}
    assert list(tables.students(rows)["run"]) == ["student-kd-s1-0a"]


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="transkd reproduce"):
        tables.results_table(tmp_path)


def test_paired_difference_by_hand(table):
    # Differences 0.01, 0.02, 0.03: mean 0.02, sd 0.01, t(0.975, 2) = 4.302653, reach 4.302653 * 0.01 / sqrt 3.
    (row,) = comparison.paired_differences(table).itertuples()
    assert (row.method, row.baseline, row.pairs) == ("kd", "none", 3)
    assert row.mean == pytest.approx(0.02)
    assert row.high - row.mean == pytest.approx(0.0248414, rel=1e-5)
    assert row.p == pytest.approx(0.0741799, rel=1e-5)


def test_pairs_are_matched_by_seed_not_by_order(table):
    shuffled = table.sample(frac=1, random_state=3)
    assert comparison.paired_differences(shuffled, "none")["mean"].abs().iloc[0] == pytest.approx(0.02)


def test_one_pair_has_no_interval(table):
    row = comparison.paired_differences(table[table["seed"] == 0]).iloc[0]
    assert row["mean"] == pytest.approx(0.01)
    assert pd.isna(row["low"])


def test_mixed_tables_and_unknown_baselines_are_refused(table):
    with pytest.raises(ValueError, match=r"one run of a seed, here are several: choose"):
        comparison.paired_differences(pd.concat([table, table]))
    with pytest.raises(ValueError, match="baseline 'cwd' has no run here: choose one of none, kd"):
        comparison.paired_differences(table, "cwd")


def test_summary_has_the_best_mean_first(table):
    assert list(comparison.summary(table).index) == ["kd", "none"]
    assert comparison.summary(table).loc["none", "sd"] == pytest.approx(0.02)


def test_rows_of_the_best_mean_come_first_and_keep_their_order(table):
    ordered = comparison.best_first(table)
    assert list(ordered["method"].unique()) == ["kd", "none"]
    alone = table[table["method"] == "none"]
    assert ordered[ordered["method"] == "none"]["seed"].tolist() == alone["seed"].tolist()
    assert len(ordered) == len(table)


def test_published_numbers_carry_their_source():
    published = comparison.published()
    assert published["cityscapes_miou"].tolist() == [76.49, 55.86, 68.58, 68.87, 68.98]
    assert published["source"].notna().all()
    assert published["method"].tolist() == ["teacher", "none", "transkd-base", "transkd-gl", "transkd-ea"]


def test_tables_can_be_saved_and_read_where_the_runs_are_not(tmp_path, monkeypatch):
    make_run(tmp_path / "demo", "student-kd-s0-0a", "kd", 0, 0.3)
    (tmp_path / "demo" / "student-kd-s0-0a" / "history.csv").write_text(
        "step,epoch,lr,loss,ce,kd,weight_kd,images_per_s\n1,0.5,0.1,2.0,1.5,0.25000000001,2.0,9.0\n"
    )
    batch = tables.load_batch(tmp_path / "demo")
    comparison.save_results(tmp_path / "demo", tmp_path / "data" / "results")
    monkeypatch.setattr(tables, "DATA", tmp_path / "data")
    shipped = tables.load_batch("demo")
    assert shipped.root is None
    assert shipped.table["miou"].tolist() == batch.table["miou"].tolist() == [0.3, 0.3]
    assert shipped.history.to_dict("records") == [
        {"step": 1, "loss": 2.0, "ce": 1.5, "kd": 0.25, "method": "kd", "seed": 0, "run": "student-kd-s0-0a"}
    ]


def test_the_verdict_names_each_difference_with_its_own_baseline(table):
    both = pd.concat([comparison.paired_differences(table, name) for name in ("none", "kd")])
    lines = comparison.verdict(both).splitlines()
    assert [line.partition(" from ")[2].partition(" ")[0] for line in lines] == ["none", "kd"]
    assert ["**kd** +2.0" in line for line in lines] == [True, False]
    assert ["**none** -2.0" in line for line in lines] == [False, True]


def test_the_verdict_says_whether_zero_is_left_out(table):
    differences = comparison.paired_differences(table)
    text = comparison.verdict(differences)
    assert text == "- Not distinguishable from none (points, 95% interval): **kd** +2.0 (-0.5 to +4.5)."
    text = comparison.verdict(differences.assign(low=0.01))
    assert text == "- Distinguishable from none (points, 95% interval): **kd** +2.0 (+1.0 to +4.5)."
    single = table[table["seed"] == 0]
    text = comparison.verdict(comparison.paired_differences(single))
    assert text == "- One seed, which says nothing about chance, beside none (points): **kd** +1.0."
    both = pd.concat([differences, comparison.paired_differences(single)])
    assert comparison.verdict(both).splitlines()[1] == text


def test_the_scores_are_a_sentence(table):
    text = comparison.scores_in_words(table, 0.6)
    assert text.startswith("mIoU in %, mean ± standard deviation over seeds: **kd** ")
    assert text.endswith("**none** 32.0 ± 2.0. The teacher reaches 60.0.")
    assert comparison.scores_in_words(table[table["seed"] == 0], None).endswith("**none** 30.0.")


def test_the_papers_rows_say_what_was_not_run(table):
    beside = comparison.beside_the_paper(table, None).set_index("network")["measured here"]
    assert beside["student SegFormer-B0"] == "measured, 32.00 (mean of 3)"
    assert (beside == "not run").sum() == 4
    taught = comparison.beside_the_paper(table, 0.5, "segformer_b1").set_index("network")
    assert taught["measured here"].iloc[0] == "measured, 50.00 (segformer_b1)"
    assert taught.loc["student SegFormer-B0", "published, ACDC"] == "published, 46.26"


def test_the_papers_claims_are_judged_by_intervals():
    gains = {"transkd-base": [0.10, 0.11, 0.12], "transkd-gl": [0.02, 0.12, 0.19], "transkd-ea": [0.06, 0.07, 0.08]}
    alone = [0.30, 0.31, 0.32]
    scores = {"none": alone} | {m: [a + g for a, g in zip(alone, own, strict=True)] for m, own in gains.items()}
    table = pd.DataFrame(
        [{"method": m, "seed": s, "miou": v} for m, values in scores.items() for s, v in enumerate(values)]
    )
    found = comparison.claims(table, teacher=0.41).set_index("claim")
    above = found.loc["transkd-base above none"]
    assert (above["cityscapes"], above["acdc"]) == pytest.approx((68.58 - 55.86, 58.56 - 46.26))
    # 11 points on average, a standard deviation of 1 over three seeds, t(0.975, 2) = 4.3027
    assert (above["mean"], above["low"]) == pytest.approx((11, 11 - 4.3027 / 3**0.5), abs=1e-3)
    assert above["verdict"] == "holds"
    assert found.loc["transkd-gl above none", "verdict"] == "not decided"
    assert found.loc["transkd-ea above transkd-base", "verdict"] == "does not hold"
    closed = found.loc["transkd-base closes more of the gap than published"]
    # a gap of 10 points that shrinks by one as the gain grows by one: 110% of the gap miss the gains by -2.1, 0, 2.1
    assert (closed["mean"], closed["low"]) == pytest.approx((110, 110 - 4.3027 * 21 / 3**0.5), abs=1e-2)
    assert (closed["cityscapes"], closed["verdict"]) == (pytest.approx(61.7), "not decided")
    assert set(comparison.claims(table[table["seed"] == 0])["verdict"]) == {"one seed: not decided"}
    assert comparison.claims(table[table["method"].isin(["none", "transkd-gl"])])["claim"].tolist() == [
        "transkd-gl above none"
    ]


def test_only_runs_of_the_current_batch_count(tmp_path):
    make_run(tmp_path, "student-none-s0-0a", "none", 0, 0.3)
    make_run(tmp_path, "student-none-s0-0b", "none", 0, 0.4, steps=7)
    write_json(tmp_path / "batch.json", {"runs": ["student-none-s0-0b"]})
    assert set(tables.results_table(tmp_path)["run"]) == {"student-none-s0-0b"}
    assert set(tables.results_table(tmp_path)["steps"]) == {7}


def test_all_intervals_stand_side_by_side(table):
    # Differences 0.01, 0.02, 0.03: 27 resamples, the extreme means once each. 0.31, 0.34, 0.37 against 0.30, 0.32,
    # 0.34: six wins, two losses, one tie of nine pairs.
    row = comparison.paired_differences(table).iloc[0]
    assert row["low"] < 0.01 < row["boot_low"] < row["mean"] < row["boot_high"] < 0.03 < row["high"]
    assert row["superiority"] == pytest.approx(6.5 / 9)
    assert row["p_holm"] == row["p"]


def test_p_is_corrected_for_the_number_of_methods(table):
    cwd = table[table["method"] == "kd"].assign(method="cwd", miou=[0.40, 0.41, 0.44])
    both = comparison.paired_differences(pd.concat([table, cwd])).set_index("method")
    assert both.loc["cwd", "p_holm"] == pytest.approx(2 * both.loc["cwd", "p"])
    assert both.loc["kd", "p_holm"] == pytest.approx(both.loc["kd", "p"])


def test_one_method_has_nothing_to_be_compared_with(table):
    alone = table[table["method"] == "none"]
    assert comparison.paired_differences(alone).empty


@pytest.fixture
def full(table):
    return table.assign(iou_road=table["miou"], iou_car=[0.5, 0.5, 0.5, 0.4, 0.5, 0.3])


def test_blocks_are_seeds_or_classes(full):
    seeds = comparison.score_blocks(full)
    assert list(seeds.columns) == ["none", "kd"]
    assert seeds.loc[2, "kd"] == 0.37
    assert comparison.per_class(full).loc["car"].tolist() == pytest.approx([0.5, 0.4])


def test_gains_by_class_by_hand(full):
    gains = comparison.class_gains(full).set_index("class")
    assert gains.loc["road", "mean"] == pytest.approx(0.02)
    # -0.1, 0, -0.2: mean -0.1, sd 0.1, reach 4.302653 * 0.1 / sqrt 3.
    assert gains.loc["car", "mean"] == pytest.approx(-0.1)
    assert gains.loc["car", "high"] == pytest.approx(-0.1 + 0.248414, rel=1e-5)


def test_many_differences_become_two_lists(table):
    kd = table[table["method"] == "kd"]
    more = [kd.assign(method=f"m{k}", miou=kd["miou"] + 0.1 * k) for k in range(5)]
    many = pd.concat([table, *more])
    lines = comparison.verdict(comparison.paired_differences(many)).splitlines()
    assert lines[0].startswith("- Distinguishable from none")
    assert lines[0].index("**m4** +42.0") < lines[0].index("**m1** +12.0")
    assert "**kd** +2.0 (-0.5 to +4.5)" in lines[1]


def budgets(table):
    longer = table.assign(miou=table["miou"] + 0.1 + 0.1 * (table["method"] == "kd"), steps=900)
    rows = pd.concat([table.assign(steps=300), longer], ignore_index=True)
    common = {"dataset": "streets", "student": "segformer_b0", "train_images": 128, "batch_size": 8}
    common |= {"height": 64, "width": 128, "lr": 0.002, "augment": "flip", "precision": "fp32"}
    return rows.assign(**common, teacher="run:t")


def test_gains_by_budget(table):
    gains = comparison.budget_gains({"grid": budgets(table)})
    assert gains["steps"].tolist() == [300, 900]
    assert gains["mean"].tolist() == pytest.approx([0.02, 0.12])
    assert gains["baseline_miou"].tolist() == pytest.approx([0.32, 0.42])
    without = budgets(table).query("method == 'kd' or steps == 300")
    assert comparison.budget_gains({"grid": without})["steps"].tolist() == [300]
    assert comparison.budget_gains({}).empty


def test_scenes_are_scored_one_by_one():
    space = LabelSpace(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
    label = np.array([[0, 0], [1, 255]], np.uint8)
    rows = {"label": [label, label], "kd": [np.array([[0, 1], [1, 1]], np.uint8), np.array([[0, 0], [1, 0]], np.uint8)]}
    rows["void"] = [np.array([[0, 255], [1, 1]], np.uint8), label]
    scores = comparison.scene_scores(comparison.Gallery([None, None], rows, space))
    assert scores["kd"].tolist() == [0.5, 1.0]  # road 1 of 2, sky 1 of 2; void does not count
    assert scores["void"].tolist() == [0.75, 1.0], "a pixel of a class that is predicted as void is a miss"


def test_the_ends_of_the_scale_need_no_network():
    space = LabelSpace(("road", "sky"), ((128, 64, 128), (70, 130, 180)))

    def labels(*maps):
        return datasets.Dataset.from_list(
            [{"label": each.tolist()} for each in maps], info=datasets.DatasetInfo(description=space.to_json())
        )

    above = np.repeat(np.uint8([[1], [1], [1], [1], [0], [0], [0], [0]]), 8, axis=1)
    below = 1 - above  # seen once, where `above` is seen twice
    pole = above.copy()
    pole[:, 3] = 0  # one pixel wide: it is missing at a quarter of the size
    found = comparison.reference_scores(labels(above, above, below), labels(pole))
    # The pole hits sky 4 times: road 32 of 36, sky 28 of 32.
    assert found == {"blind": pytest.approx((32 / 36 + 28 / 32) / 2), "oracle": pytest.approx((32 / 36 + 28 / 32) / 2)}
    assert list(comparison.reference_scores(labels(above, above[:4]), labels(above))) == ["oracle"]


def test_a_scoreboard_stands_between_the_blind_guess_and_the_oracle(monkeypatch):
    rows = [("none", 0, 0.2), ("none", 1, 0.3), ("kd", 0, 0.4), ("kd", 1, 0.5), ("cwd", 0, 0.1), ("cwd", 1, 0.1)]
    table = pd.DataFrame(rows, columns=["method", "seed", "miou"]).assign(kind="student", protocol="full")
    monkeypatch.setattr(comparison, "load_references", lambda batch: {"blind": 0.1, "oracle": 0.9})
    monkeypatch.setattr(tables, "students", lambda table: table)
    monkeypatch.setattr(tables, "label_variants", lambda table: table)
    monkeypatch.setattr(tables, "teachers", lambda table: pd.DataFrame({"miou": [0.65]}))
    board = comparison.scoreboard(tables.Batch("x", table, table), "kd")
    assert list(board.index) == ["blind", "none", "kd", "teacher", "oracle"]
    assert list(board["mIoU in %"]) == pytest.approx([10, 25, 45, 65, 90])
    assert board.loc["kd", ["±", "gap closed in %"]].tolist() == pytest.approx([7.071, 50], abs=1e-3)
    assert list(comparison.scoreboard(tables.Batch("x", table, table)).index)[1:4] == ["cwd", "none", "kd"]
