"""Tables found by name, and rows of one method told apart."""

import json

import pandas as pd
import pytest

from transkd_lite.data.whole import DamagedRunError, seal, write_json
from transkd_lite.results import comparison, tables


def rows(*settings):
    """One run for each mapping, on top of a common budget."""
    common = {"dataset": "streets", "protocol": "full", "teacher": "run:t", "student": "segformer_b0"}
    common |= {"options": "{}", "train_images": 128, "seed": 0, "steps": 300, "batch_size": 8, "lr": 0.002}
    common |= {"augment": "flip", "height": 64, "width": 128, "precision": "fp32", "device": "cpu"}
    common |= {"torch": "2.15.0", "commit": "0123456789abcdef", "miou": 0.3}
    return pd.DataFrame([{**common, "run": f"student-{k}", **own} for k, own in enumerate(settings)])


def labels(*settings):
    return tables.label_variants(rows(*settings))["method"].tolist()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "DATA", tmp_path)
    folder = tmp_path / "results"
    folder.mkdir()
    table = rows({"method": "none"}, {"method": "kd"}, {"method": "kd", "seed": 1, "commit": "fedcba98765"})
    table.to_csv(folder / "mine.csv", index=False)
    pd.DataFrame({"step": [1], "method": ["none"]}).to_csv(folder / "mine_history.csv", index=False)
    pd.DataFrame({"image_s": [1.0]}).to_csv(folder / "timings.csv", index=False)
    return folder


def test_a_table_is_read_by_its_name_with_or_without_curves(shipped):
    batch = tables.load_batch("mine")
    assert batch.root is None
    assert batch.table["method"].tolist() == ["none", "kd", "kd"]
    assert batch.history["method"].tolist() == ["none"]
    (shipped / "mine_history.csv").unlink()
    assert tables.load_batch("mine").history.empty


def test_an_unknown_table_lists_those_that_exist(shipped):
    with pytest.raises(FileNotFoundError, match=r"no shipped table 'camvid'.*name one of mine"):
        tables.load_batch("camvid")


def test_a_path_is_no_name(shipped, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished training run"):
        tables.load_batch(tmp_path / "runs" / "mine")


def test_tables_are_listed_a_line_each_and_other_files_are_not(shipped):
    (line,) = tables.shipped_tables().to_dict("records")
    assert line == {
        **{"table": "mine", "dataset": "streets", "methods": 2, "seeds": 2, "runs": 3},
        **{"commit": "01234567, fedcba98", "torch": "2.15.0", "device": "cpu"},
    }


def test_rows_say_where_they_come_from(shipped):
    origin = tables.origin(tables.load_batch("mine").table)
    assert origin["runs"].tolist() == [2, 1]
    assert origin.loc[0, ["commit", "torch", "device", "precision"]].tolist() == ["01234567", "2.15.0", "cpu", "fp32"]


def test_options_are_named_where_they_are_given():
    plain, abf = {"method": "transkd-base"}, {"method": "transkd-base", "options": '{"fusion": "abf"}'}
    assert labels({"method": "none"}, plain, abf) == ["none", "transkd-base", "transkd-base (fusion abf)"]
    assert labels(abf) == ["transkd-base"]
    assert labels(plain, abf, {**abf, "seed": 1})[0] == "transkd-base"  # not given is usual, however rare
    stages = {"method": "pea", "options": '{"embedding_stages": [3, 4], "beta": 0.50}'}
    assert labels({"method": "pea"}, stages)[1] == "pea (embedding_stages [3, 4], beta 0.5)"


def test_a_parameter_is_named_where_it_is_not_the_usual_one():
    seen = labels({"method": "none"}, {"method": "none", "lr": 0.004}, {"method": "kd"}, {"method": "cwd", "lr": 0.008})
    assert seen == ["none", "none (lr 0.004)", "kd", "cwd"]


def test_a_rate_that_follows_another_parameter_is_not_named():
    own = {"method": "kd", "settings": '{"pretrained": "b0.safetensors"}', "lr": 0.004}
    rest = [{"method": "kd"}, {"method": "none"}, {"method": "none", "seed": 1}]
    assert labels(own, *rest)[:2] == ["kd (pretrained b0)", "kd"]
    seen = labels(own, {**own, "lr": 0.001}, *rest)
    assert seen[:3] == ["kd (lr 0.004, pretrained b0)", "kd (lr 0.001, pretrained b0)", "kd"]


def test_the_usual_rate_is_that_of_the_method():
    slow, fast = {"method": "none", "lr": 0.001}, {"method": "none", "lr": 0.002}
    rest = [{"method": "kd", "lr": 0.002, "seed": seed} for seed in range(5)]
    assert labels(slow, {**slow, "seed": 1}, fast, *rest)[:3] == ["none", "none", "none (lr 0.002)"]


def test_every_budget_of_a_method_is_named_however_common():
    short, long = {"method": "kd"}, {"method": "kd", "steps": 900}
    assert labels({"method": "none"}, short, {**short, "seed": 1}, long)[1:] == [
        *["kd (steps 300)"] * 2,
        "kd (steps 900)",
    ]


def test_teachers_are_named_by_their_file():
    other = {"method": "kd", "teacher": "data/weights/streets-segformer_b2.safetensors"}
    assert labels({"method": "kd"}, other) == ["kd", "kd (teacher streets-segformer_b2)"]
    assert labels(other, {"method": "kd"})[1] == "kd"  # the batch's own, though it comes second
    again, trained = {"method": "kd", "seed": 1}, {"method": "kd", "teacher": "run:teacher-none-s1-0a"}
    assert labels({"method": "kd"}, again, trained)[2] == "kd (teacher teacher-none-s1-0a)"


def test_variants_make_rows_unique_and_pairs_possible():
    table = rows(
        *({"method": m, "seed": s, "miou": 0.1 * s + v} for m, v in (("none", 0.0), ("kd", 0.1)) for s in (0, 1)),
        *({"method": "kd", "options": '{"beta": 1.0}', "seed": s, "miou": 0.1 * s + 0.2} for s in (0, 1)),
    )
    with pytest.raises(ValueError, match="a method has one run of a seed"):
        comparison.paired_differences(table)
    found = comparison.paired_differences(tables.label_variants(table)).set_index("method")["mean"]
    assert found.to_dict() == pytest.approx({"kd": 0.1, "kd (beta 1)": 0.2})


def test_parameters_without_a_column_are_kept_and_named(tmp_path):
    for k, start in enumerate((None, "data/weights/b0.safetensors")):
        parameters = {"method": "none", "seed": 0, "dataset": "streets", "pretrained": start, "val_images": 4}
        folder = tmp_path / f"student-none-s0-{k}"
        write_json(folder / "run.json", {"parameters": parameters})
        write_json(folder / "metrics.json", {"full": {"miou": 0.1, "pixel_accuracy": 0.2, "iou": {}}})
    table = tables.results_table(tmp_path)
    assert [json.loads(text) for text in table["settings"]] == [
        {"pretrained": None},
        {"pretrained": "data/weights/b0.safetensors"},
    ]
    assert tables.label_variants(table)["method"].tolist() == ["none", "none (pretrained b0)"]


def test_a_damaged_record_makes_no_other_table(tmp_path):
    for method in ("none", "transkd-base"):
        folder = tmp_path / f"student-{method}-s0-0a"
        write_json(folder / "run.json", {"parameters": {"method": method, "seed": 0, "dataset": "streets"}})
        (folder / "history.csv").write_text("step,loss,ce\n1,2.0,1.0\n")
        seal(folder, {"full": {"miou": 0.1, "pixel_accuracy": 0.2, "iou": {}}})
    assert tables.load_batch(tmp_path).table["method"].tolist() == ["none", "transkd-base"]
    for name, message in (
        ("run.json", r"run\.json is not what its run left"),
        ("metrics.json", r"metrics\.json is not what was written"),
        ("history.csv", r"history\.csv is not what its run left"),
    ):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"2", b"3").replace(b"transkd-base", b"none"))
        with pytest.raises(DamagedRunError, match=rf"transkd-base-s0-0a.{message}.*: delete the run folder"):
            tables.load_batch(tmp_path)
        write_json(tmp_path / "batch.json", {"runs": ["student-none-s0-0a"]})  # which does not read the other
        assert tables.load_batch(tmp_path).table["method"].tolist() == ["none"]
        batch = (tmp_path / "batch.json").read_bytes()
        (tmp_path / "batch.json").write_bytes(batch.replace(b"-s0-", b"-s1-"))
        with pytest.raises(DamagedRunError, match=r"batch\.json is not what was written .*: delete it and give"):
            tables.load_batch(tmp_path)
        (tmp_path / "batch.json").unlink()
        (folder / name).write_bytes(content)


def test_budgets_split_a_table_only_where_a_method_had_several():
    table = rows({"method": "none", "steps": 100}, {"method": "kd"}, {"method": "kd", "seed": 1})
    assert list(tables.cells(table)) == ["one budget"]
    several = rows(
        {"method": "none"}, {"method": "none", "steps": 900}, {"method": "none", "steps": 900, "train_images": 512},
        {"method": "kd", "steps": 900},
    )  # fmt: skip
    found = tables.cells(several)
    assert {label: len(part) for label, part in found.items()} == {
        "train_images 128, steps 900": 2,
        "train_images 128, steps 300": 1,
        "train_images 512, steps 900": 1,
    }
    assert next(iter(found)) == "train_images 128, steps 900"


def test_curves_follow_their_runs_labels():
    table = tables.label_variants(rows({"method": "kd"}, {"method": "kd", "lr": 0.1}, {"method": "none"}))
    curves = pd.DataFrame({"step": 1, "method": "kd", "run": ["student-0", "student-1", "another"]})
    assert tables.label_history(curves, table)["method"].tolist() == ["kd", "kd (lr 0.1)"]
    assert tables.label_history(curves[:0], table).empty


def test_a_table_in_words_has_numbers_of_so_many_decimals_and_nothing_for_none():
    shown = tables.in_words(pd.DataFrame({"mean": [1.25, None], "a_b": [2, 3.06]}), 1, a_b="second")
    assert shown.to_dict("list") == {"difference, points": ["1.2", ""], "second": ["2.0", "3.1"]}
    assert tables.in_words(pd.DataFrame({"a_b": [2.55]})).to_dict("list") == {"a b": [2.55]}
