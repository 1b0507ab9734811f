"""One training run as one flat record: what is trained, on what, by which method, for how long.

The fields of `Experiment` are the parameters of notebook `08_train_transkd`, of `transkd train` and of a
batch profile; the hash of those that decide the result names the run folder. Nothing heavy is imported before it is
used: a finished batch is recognised without torch.
"""

import ast
import contextlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Self, Union

from annotated_types import Ge

from transkd_lite.data.datasets import LAYOUTS, open_dataset
from transkd_lite.data.labels import CITYSCAPES, CITYSCAPES_CLASS_WEIGHTS, LabelSpace, label_space
from transkd_lite.data.whole import RUN_FILE, STUDENT_FILE, digest, find_path, fingerprint, read_json, verified
from transkd_lite.training import config as kinds
from transkd_lite.training import folder as runs
from transkd_lite.training.config import ParameterError, TrainConfig, check_injected, check_name, check_plain

if TYPE_CHECKING:
    from datasets import Dataset

    from transkd_lite.distill.distiller import Distiller
    from transkd_lite.models.output import SegModel

__all__ = ["Experiment", "evaluate_run", "find_file", "read_signature", "read_weights", "run_experiment", "save_half"]

# The types that an annotation in a parameters cell may name.
_TYPES: dict[str, Any] = {t.__name__: t for t in (bool, dict, float, int, list, str, tuple)}
_TYPES |= {"Any": Any, "Optional": Optional, "Union": Union}  # papermill's own help reads these, but not `int | None`


def read_signature(notebook: Path) -> dict[str, Any]:
    """Types by name, from a notebook's cell tagged `parameters` (none: no parameters).

    By the course's rule the cell holds one annotated literal a line. Raises `ParameterError` where a line is
    something else, or the notebook is missing or unreadable.
    """
    if not notebook.is_file():
        near = ", ".join(sorted(path.name for path in notebook.parent.glob("*.ipynb")))
        raise ParameterError(f"no notebook {notebook}; that folder has {near or 'no notebook'}")
    hints: dict[str, Any] = {}
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = (c["source"] for c in cells if "parameters" in c.get("metadata", {}).get("tags", []))
        for line in ast.parse("".join(next(tagged, []))).body:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
                raise ValueError(f"`{ast.unparse(line)}`")
            ast.literal_eval(line.value)
            hints[line.target.id] = _type(line.annotation)
    except (ValueError, KeyError, SyntaxError) as error:
        rule = "is not a readable notebook whose parameters cell holds one annotated literal a line"
        found = f"after {list(hints)} comes {type(error).__name__}: {error}"
        advice = "write a literal and derive the rest in the next cell, such as `steps: int = 100`, with types of"
        raise ParameterError(f"{notebook} {rule}; {found}: {advice} {', '.join(_TYPES)} and None") from error
    return hints


def _type(annotation: ast.expr) -> Any:
    """The type that an annotation such as `list[int] | None` names. Raises `KeyError` for another name."""
    if isinstance(annotation, ast.BinOp):
        return _type(annotation.left) | _type(annotation.right)
    if isinstance(annotation, ast.Subscript):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return _type(annotation.value)[tuple(map(_type, items)) if len(items) > 1 else _type(items[0])]
    return None if ast.unparse(annotation) == "None" else _TYPES[ast.unparse(annotation)]


def find_file(source: str) -> str:
    """A file or folder as given, or one of the course (data/weights/…); "timm", "hub:…" and "run:…" stay as they are.

    Raises `ParameterError` where there is none.
    """
    if source == "timm" or source.startswith(("hub:", "run:")):
        return source
    if (path := find_path(source)).exists():
        return str(path)
    advice = "check the path, or train it (see `transkd train --help`)"
    raise ParameterError(f"no file of weights {source} and no such folder: {advice}")


# --- The record.

# What a run writes, how often it saves, and how many processes decode images, does not change its result.
_NOT_IDENTITY = ("out_dir", "workers", "checkpoint_every", "eval_every", "log_every", "cache_mb")
# Parameters of the optimiser and the images that run folders of the first version did not have.
_IF_UNUSUAL = ("betas", "eps", "grad_clip", "schedule_power", "pad", "teacher_cache", "method_file")
_Side = Annotated[int, Ge(32)]
# What the street scenes get where nothing is given; all other data are taken whole and as they are.
_STREETS = {"train_images": 128, "val_images": 64, "height": 64, "width": 128}
_BY_DATASET: Any = object()


@dataclass(frozen=True)
class Experiment(TrainConfig):
    """Every parameter of one training run (flat, JSON-like): those of `TrainConfig`, and what is trained on what.

    `height` and `width` resize every image (both or neither); `train_images` and `val_images` take the first
    so many. None, the default, takes all images as they are; of `streets` it is 128 and 64 images of 64 x 128.
    `pretrained` starts the trained network from what `create_model` takes: a file, a folder, "timm" or "hub:<repo id>".
    `teacher` is a file or folder too, "hub:<repo id>", or `run:<folder name>`, a run beside `out_dir`. `steps=0`
    trains nothing: the pretrained network is scored and saved as it is. `method_file` is a file of one's own that
    registers methods (`tk.register`). `class_weights="paper"` stands for the authors' nineteen factors of Cityscapes.

    Raises `ParameterError`: a value that makes no sense, with its name.

    >>> Experiment(method="none", seed=1).folder_name()
    'student-none-s1-dc79ce81'
    """

    dataset: str = "streets"
    data_root: str | None = None
    train_images: kinds.Count | None = _BY_DATASET
    val_images: kinds.Count | None = _BY_DATASET
    data_seed: int = 0
    data_options: dict[str, Any] = field(default_factory=dict)
    height: _Side | None = _BY_DATASET
    width: _Side | None = _BY_DATASET
    network: str = "segformer_b0"
    pretrained: str | None = None
    teacher: str | None = None
    method: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    method_file: str | None = None
    steps: kinds.Whole | None = 100
    lr: kinds.Positive = 1.0e-3
    augment: kinds.Augmentation = "standard"
    class_weights: Literal["paper"] | tuple[kinds.NotNegative, ...] | None = None  # type: ignore[assignment]
    out_dir: str | None = None

    def __post_init__(self) -> None:
        for name, few in _STREETS.items():
            if getattr(self, name) is _BY_DATASET:
                object.__setattr__(self, name, few if self.dataset == "streets" else None)
        super().__post_init__()
        if isinstance(ids := self.data_options.get("label_map"), dict):  # its keys are text in JSON, so always
            options = {**self.data_options, "label_map": {str(value): train_id for value, train_id in ids.items()}}
            object.__setattr__(self, "data_options", options)
        if (self.height is None) != (self.width is None):
            raise ParameterError(f"height = {self.height}, width = {self.width}: give both, or neither")
        if self.steps == 0 and self.pretrained is None:
            raise ParameterError("steps = 0 trains nothing, so it needs pretrained=<file of weights>")
        if self.method != "none" and self.teacher is None:
            raise ParameterError(f"method {self.method!r} needs a teacher: pass teacher=<file or run:folder>")

    @classmethod
    def from_notebook(cls, names: Mapping[str, Any], **fixed: Any) -> Self:
        """The record of a notebook's parameters: `from_notebook(globals(), method="none")`; `fixed` go before.

        Raises `ParameterError`, also for a parameter that papermill was given and the notebook does not declare.
        """
        if "__annotations__" in names:
            check_injected(names)
        return cls.from_dict({name: names[name] for name in cls.hints() if name in names} | fixed)

    def record(self) -> dict[str, Any]:
        """What run.json keeps: the parameters without those that only say where to write and how often to save."""
        usual = [name for name in _IF_UNUSUAL if getattr(self, name) == getattr(Experiment, name)]
        found = {"data_root": str(Path(self.data_root).resolve())} if self.data_root else {}
        left_out = {*_NOT_IDENTITY, *usual, "data_root"}
        return {name: value for name, value in self.to_dict().items() if name not in left_out} | found

    def identity(self) -> dict[str, Any]:
        """Everything that decides the result; files of weights count by their content."""
        unread: dict[str, Any] = {"teacher": None, "options": {}, "method_file": None}
        values = replace(self, data_root=None, **(unread if self.method == "none" else {})).record()
        for name in ("pretrained", "teacher", "method_file"):
            source = values.get(name)
            if source is not None and source != "timm" and not source.startswith(("hub:", "run:")):
                path = Path(find_file(source))
                files = sorted(file for end in ("*.safetensors", "*.bin", "config.json") for file in path.glob(end))
                content = "".join(fingerprint(file)["sha256"] for file in files).encode()
                values[name] = f"sha256:{digest(path.read_bytes() if path.is_file() else content)}"
        return values

    def folder_name(self, kind: str = "student") -> str:
        """`<kind>-<method>-s<seed>-<hash>`, the name of this run's folder."""
        return runs.run_name(kind, self.method, self.seed, self.identity())

    def check_names(self) -> None:
        """Run `method_file`, and check the names of network and method (imports torch).

        Raises `ParameterError`: a name that does not exist, with the nearest ones; a file that raises.
        """
        from transkd_lite.distill.methods import list_methods
        from transkd_lite.models.weights import list_models

        if self.method_file and self.method != "none":
            own = importlib.util.spec_from_file_location("method_file", find_file(self.method_file))
            try:
                own.loader.exec_module(importlib.util.module_from_spec(own))  # type: ignore[union-attr, arg-type]
            except Exception as error:
                raise ParameterError(f"method_file {self.method_file}: {type(error).__name__}: {error}") from error
        if not self.network.startswith("timm:"):
            check_name(self.network, list_models(), "network")
        for part in self.method.split("+"):
            check_name(part, ["none", *list_methods()], "method")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every image, or None for the images as they are."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def config(self) -> TrainConfig:
        """The training settings alone."""
        weights = CITYSCAPES_CLASS_WEIGHTS if self.class_weights == "paper" else self.class_weights
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)} | {"class_weights": weights})

    def open_data(self) -> "tuple[Dataset, Dataset]":
        """The training and the validation images; looks into every file once, and a later call need not do so again.

        Raises `ParameterError`: unknown dataset, missing folder or file, with what to do.
        """
        try:
            return self.open_split("train", self.train_images), self.open_split("val", self.val_images)
        except (OSError, TypeError, ValueError) as error:
            raise ParameterError(f"dataset {self.dataset}: {error}") from error

    def open_split(self, split: str, num: int | None) -> "Dataset":
        """The first `num` images of a split (None: all)."""
        options = dict(self.data_options)
        if self.dataset == "streets":
            options |= {"seed": self.data_seed} | ({} if num is None else {"num": num})
            return open_dataset("streets", split, size=self.size, **options)
        images = open_dataset(self.dataset, split, root=self.data_root, size=self.size, **options)
        return images if num is None else images.select(range(min(num, len(images))))

    def build_student(self, num_classes: int) -> "SegModel":
        """The network to train; new weights come from the seed alone.

        Pretrained weights of other classes get a new classifier where there is training to fill it.
        """
        import torch

        from transkd_lite.models.output import restore
        from transkd_lite.models.weights import create_model, files_of, read_metadata

        torch.manual_seed(self.seed)
        reset: Any = "if-needed" if self.steps != 0 else False
        student = create_model(self.network, num_classes, pretrained=self.pretrained, reset_head=reset)
        if self.steps == 0:
            with contextlib.suppress(ValueError, OSError):  # of another library: nothing is said of its classes
                (file,) = files_of(str(self.pretrained))
                student.label_space = restore(read_metadata(file), file)[1]
        return student

    def build(
        self, num_classes: int, space: "LabelSpace | None" = None, teacher: "SegModel | None" = None
    ) -> "tuple[SegModel, SegModel | None, Distiller | None]":
        """Student, teacher and method, new weights from the seed; teacher and method are None for "none".

        teacher: a network instead of the one that `teacher` names.
        Raises `ParameterError` for a teacher that cannot be read or compared: one with another number of classes, or
        other names than `space` has, where the method compares logits.
        """
        from transkd_lite.distill.methods import create_method
        from transkd_lite.models import weights

        self.check_names()
        student = self.build_student(num_classes)
        if self.method == "none":
            return student, None, None
        source = self.teacher_file() if teacher is None else Path()
        try:
            if teacher is None and weights.read_metadata(weights.files_of(source)[0]):
                teacher = weights.load_model(source)
            elif teacher is None:  # of another library: its tensors tell
                name, own_classes, _ = weights.infer_network(weights.read_tensors(source), weights.SIGNS)
                teacher = weights.create_model(name, own_classes, pretrained=source).eval()
            method = create_method(self.method, student, teacher, **self.options)
            difference = space and teacher.label_space and teacher.label_space.difference(space)
            if difference and "logits" in method.reads:
                raise ValueError(f"both must have the same classes in the same order to compare logits; {difference}")
        except (OSError, TypeError, ValueError) as error:
            raise ParameterError(f"method {self.method} with teacher {self.teacher}: {error}") from error
        return student, teacher, method

    def teacher_file(self) -> Path:
        """The file of the teacher's weights. Raises `ParameterError`; `DamagedRunError` for that of a damaged run."""
        if self.teacher is None:
            raise ParameterError("teacher is None: pass teacher=<file or run:folder>")
        if not self.teacher.startswith("run:"):
            return Path(find_file(self.teacher))
        if self.out_dir is None:
            raise ParameterError(f"teacher {self.teacher!r} is a run beside out_dir, but out_dir is None")
        return verified(Path(self.out_dir).parent / check_plain(self.teacher[4:], "teacher") / STUDENT_FILE)


def run_experiment(
    experiment: Experiment, out_dir: str | Path | None = None, *, resume: bool = True, progress: str = "auto"
) -> dict[str, Any]:
    """Train, score by both protocols, and leave a finished run folder, which has `metrics.json`, written last.

    out_dir: the run folder; None takes `experiment.out_dir`, and where that is None too nothing is stored.
    resume: go on from the folder's last checkpoint; in a finished folder only read the metrics.
    progress: "auto", "bar", "lines" or "none".
    Returns the metrics, {"full": {"miou", "pixel_accuracy", "iou"}, "paper": ..., "wall_s", ...}.
    Raises `ParameterError`, and what `fit` raises.
    """
    from transkd_lite.training.loop import fit

    if out_dir is not None:
        experiment = replace(experiment, out_dir=str(out_dir))
    train_data = experiment.open_split("train", 1 if experiment.steps == 0 else experiment.train_images)
    val_data = experiment.open_split("val", experiment.val_images)
    space = label_space(train_data)
    student, teacher, method = experiment.build(space.num_classes, space)
    result = fit(
        student, train_data, config=experiment.config(), teacher=teacher, method=method, val_data=val_data,
        out_dir=experiment.out_dir, resume=resume, parameters=experiment.record(), progress=progress,
    )  # fmt: skip
    return result.metrics


# --- Trained networks: scored again, or saved for shipping.


def save_half(folder: str | Path, target: str | Path, *, profile: str) -> Path:
    """Save a finished run's network in half precision for shipping, with how it was made in its metadata."""
    import torch

    from transkd_lite.metrics import PROTOCOLS
    from transkd_lite.models.weights import load_model, save_model

    run = runs.read_run(folder)
    kept = ("parameters", "versions", "device", "precision", "commit", "dirty", "started", "wall_s")
    made = {"command": f"transkd train {profile}", **{name: run.info.get(name) for name in kept}}
    given = run.info.get("parameters") or {}
    made["parameters"] = {name: value for name, value in given.items() if not Path(str(value)).is_absolute()}
    made["miou"] = {name: run.metrics[name]["miou"] for name in PROTOCOLS if name in run.metrics}
    return save_model(load_model(Path(folder) / STUDENT_FILE), target, dtype=torch.float16, provenance=made)


def read_weights(source: str | Path) -> "tuple[SegModel, dict[str, Any]]":
    """The network of a finished run folder, a file of weights or an ONNX file, and its training's parameters.

    Those are as far as they are known; a network whose file does not name its classes gets the names of the data set of
    its training, where that has fixed ones.
    Raises `ParameterError`: there is no such file. Raises `DamagedRunError`: one is not as its finished run left it.
    """
    from transkd_lite.models.weights import load_model, read_metadata

    source = find_path(source)
    file = verified(source / STUDENT_FILE if source.is_dir() else source)
    if not file.is_file():
        raise ParameterError(f"no weights at {file}: pass a finished run folder, a .safetensors or an .onnx file")
    model = load_model(file)
    made = read_json(verified(source / RUN_FILE)) or read_metadata(file).get("provenance")
    match made or getattr(model, "metadata", None):  # that of an ONNX file
        case {"parameters": dict(parameters)}:
            dataset = str(parameters.get("dataset"))
            space = CITYSCAPES if dataset == "streets" else getattr(LAYOUTS.get(dataset), "space", None)
            if space and space.num_classes == model.spec.num_classes:
                model.label_space = model.label_space or space
            return model, parameters
    return model, {}


def evaluate_run(source: str | Path, settings: Mapping[str, Any], split: str = "val") -> dict[str, Any]:
    """Score a run folder's network, or a file of weights, by both protocols.

    source: a run folder or a file saved by `save_model`; what it says of its training is the data and their size.
    settings: parameters that replace those; with another data set, all of its images are taken.
    Returns a dictionary of scores for each protocol, and beside them "data": dataset, split, number of images, size
    in pixels of the first of them, normalize.
    Raises `ParameterError`: nothing says which data, they cannot be opened, or the network was not made for them.
    """
    from transkd_lite.data.transforms import to_tensors
    from transkd_lite.metrics import PROTOCOLS, evaluate, require_scorable

    model, recorded = read_weights(source)
    kept = ["height", "width", "normalize"]
    if settings.get("dataset", recorded.get("dataset")) == recorded.get("dataset"):
        kept += ["dataset", "data_seed", "data_options", "val_images", *["data_root"] * Path(source).is_dir()]
    known = {name: recorded[name] for name in kept if name in recorded} | dict(settings)
    if missing := [f"--set {name}=…" for name in ("dataset", "height", "width") if name not in known]:
        advice = f"pass {' '.join(missing)} (and --data-root, where the data set has files)"
        raise ParameterError(f"{source} does not say on which images it was trained: {advice}")
    experiment = Experiment.from_dict({"val_images": None, **known})
    # A file, perhaps a stranger's, may not make us fetch or write anything.
    harmless = experiment.data_options.keys() <= {"conditions", "fold", "label_ids", "label_map"}
    local = harmless and experiment.dataset in ("streets", *LAYOUTS)
    if not (local or Path(source).is_dir() or {"dataset", "data_options"} <= settings.keys()):
        found = f"dataset={experiment.dataset} and data_options={experiment.data_options}"
        raise ParameterError(f"{source} may not choose {found} itself: pass both by --set where you trust them")
    try:
        data = experiment.open_split(split, experiment.val_images)
        require_scorable(model, data)
    except (OSError, TypeError, ValueError) as error:
        raise ParameterError(f"{source} on {experiment.dataset}, split {split}: {error}") from error
    scores = {p: evaluate(model, data, protocol=p, normalize=experiment.normalize) for p in PROTOCOLS}
    shown = {"dataset": experiment.dataset, "split": split, "images": len(data), "normalize": experiment.normalize}
    shown["size"] = list(to_tensors(data[0])[1].shape)
    return {"data": shown, **{protocol: score.to_dict() for protocol, score in scores.items()}}
