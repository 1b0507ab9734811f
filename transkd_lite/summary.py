"""What runs have to say: which are finished, a line a run, scores by method and by class. No heavy import."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transkd_lite.planning import PlannedRun, with_variant
from transkd_lite.runs import METRICS_FILE, RUN_FILE, caveats, is_finished, read_json

__all__ = [
    "Outcome",
    "align",
    "class_table",
    "is_done",
    "number",
    "progress_line",
    "run_table",
    "score_line",
    "score_table",
]


@dataclass
class Outcome:
    """What a batch did: executed run folders, those found finished, and the errors by run folder (or "report")."""

    root: Path
    runs: list[PlannedRun]
    executed: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    report: Path | None = None
    report_rendered: bool = False


def is_done(root: Path, run: PlannedRun) -> bool:
    """Whether a run is finished: its metrics were written and its notebook reached the last cell."""
    folder = root / run.folder
    return is_finished(folder) and (folder / run.notebook.name).is_file()


def progress_line(number: int, total: int, root: Path, run: PlannedRun, error: str) -> str:
    """`[ 3/14] student-none-s0-1a2b3c4d finished, 61 s, mIoU 41.2 %`."""
    head = f"[{number:>{len(str(total))}}/{total}] {run.title}"
    if error:
        return f"{head} FAILED: {error}"
    miou, wall_s = _miou(root / run.folder), read_json(root / run.folder / METRICS_FILE).get("wall_s")
    parts = [f"{head} finished", *([] if wall_s is None else [f"{wall_s:.0f} s"])]
    return ", ".join([*parts, *([] if miou is None else [f"mIoU {100 * miou:.1f} %"])])


def _miou(folder: Path) -> float | None:
    """The mIoU at label resolution of a finished run."""
    return read_json(folder / METRICS_FILE).get("full", {}).get("miou")


def run_table(outcome: Outcome) -> str:
    """One line a run: folder, state, mIoU in percent, seconds."""
    rows = [("run", "state", "mIoU %", "seconds")]
    for run in outcome.runs:
        folder = outcome.root / run.folder
        state = (
            "FAILED"
            if run.folder in outcome.errors
            else "finished"
            if is_done(outcome.root, run)
            else "missing"
        )
        metrics = read_json(folder / METRICS_FILE)
        miou, wall = _miou(folder), metrics.get("wall_s")
        rows.append((run.title, state, number(miou, 100), number(wall)))
    return align(rows)


def score_table(outcome: Outcome) -> str:
    """One line a method or variant: runs, mean and deviation of the mIoU, mean difference to the student alone.

    The student alone of the same variant, where the batch has that.
    """
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for run in outcome.runs:
        miou = _miou(outcome.root / run.folder)
        if miou is not None and run.experiment is not None and run.folder not in outcome.errors:
            method = "teacher" if run.kind == "teacher" else run.experiment.method
            scores.setdefault((method, run.variant), {})[run.experiment.seed] = 100 * miou
    rows = [("method", "seeds", "mIoU %", "sd", "difference to none")]
    plain = scores.get(("none", ""), {})
    for (method, variant), by_seed in scores.items():
        values = list(by_seed.values())
        alone = plain if method == "none" else scores.get(("none", variant), plain)
        paired = [value - alone[seed] for seed, value in by_seed.items() if seed in alone]
        sd = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        compared = paired and (variant or method not in ("none", "teacher"))
        gain = f"{statistics.mean(paired):+.2f}" if compared else "-"
        name = with_variant(method, variant)
        rows.append((name, str(len(values)), f"{statistics.mean(values):.2f}", sd, gain))
    if len(rows) == 1:
        return ""
    finished = [outcome.root / run.folder for run in outcome.runs if is_done(outcome.root, run)]
    return "\n".join([align(rows), *caveats(read_json(folder / RUN_FILE) for folder in finished)])


def number(value: float | None, factor: float = 1.0) -> str:
    """A value for a table, "-" for none."""
    return "-" if value is None else f"{factor * value:.1f}"


def align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def score_line(metrics: dict[str, Any]) -> str:
    """`mIoU 41.2 (full), 43.0 (paper)` in percent."""
    parts = [f"{100 * metrics[name]['miou']:.2f} ({name})" for name in ("full", "paper") if name in metrics]
    return "mIoU " + ", ".join(parts)


def class_table(scores: dict[str, Any]) -> str:
    """What was scored (see `evaluate_run`), the IoU of every class, and the mIoU beside it."""
    data = scores["data"]
    protocols = {name: scores[name] for name in ("full", "paper") if name in scores}
    names = list(scores["full"]["iou"])
    width = max(map(len, names))
    lines = [
        f"{data['dataset']}, split {data['split']}: {data['images']} images, {data['size'][0]} x {data['size'][1]} "
        f"(height x width of the first), {'' if data['normalize'] else 'not '}normalized",
        f"{'class':<{width}}  " + "  ".join(f"{protocol:>6}" for protocol in protocols),
    ]
    for name in names:
        values = [score["iou"][name] for score in protocols.values()]
        cells = [" absent" if v is None else f"{100 * v:7.2f}" for v in values]
        lines.append(f"{name:<{width}} {' '.join(cells)}")
    return "\n".join([*lines, score_line(scores)])
