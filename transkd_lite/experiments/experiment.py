"""One training run as one flat record: what is trained, on what, by which method, for how long.

The fields of `Experiment` are the parameters of notebook `08_train_transkd`, of `transkd train` and of a
batch profile; the hash of those that decide the result names the run folder. `run_experiment` trains, scores
by both protocols and writes `metrics.json` last, so that a folder that has it is finished. Nothing heavy is
imported before it is used: a finished batch is recognised without torch.
"""

import ast
import contextlib
import difflib
import hashlib
import json
import re
import time
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transkd_lite.data.files import atomic_write
from transkd_lite.training.folder import (
    HISTORY_FILE,
    METRICS_FILE,
    RUN_FILE,
    STUDENT_FILE,
    hash_parameters,
    is_finished,
    lock_run,
    provenance,
    read_json,
    run_name,
    write_json,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from transkd_lite.data.labels import LabelSpace
    from transkd_lite.distill.distiller import Distiller
    from transkd_lite.models.output import SegModel
    from transkd_lite.training.config import TrainConfig

__all__ = [
    "Experiment",
    "ParameterError",
    "Signature",
    "check_name",
    "check_parameters",
    "content_name",
    "evaluate_run",
    "find_file",
    "read_signature",
    "run_experiment",
    "save_half",
    "score_pretrained",
    "training_parameters",
    "weights_file",
]

# --- Strict parameters: names and types are checked before anything runs.
#
# Papermill only warns about a parameter that a notebook does not have, and YAML reads `6e-5` as text. Here both
# are errors that say what is wrong, where, and what to write instead. The parameters of a notebook are read
# from its cell tagged `parameters`, which by the course's rule holds one annotated literal a line.

_TYPES: dict[str, Any] = {t.__name__: t for t in (bool, dict, float, int, list, str, tuple)} | {"Any": Any}


class ParameterError(ValueError):
    """A name, type or value that a profile, a notebook or a command line should not have; nothing has run yet."""


@dataclass(frozen=True)
class Signature:
    """What a parameters cell declares: types and defaults by name, in the cell's order."""

    source: str
    hints: dict[str, Any]
    defaults: dict[str, Any]


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Return `name` if it is one of `valid`, else raise a `ParameterError` that names the nearest valid ones.

    >>> check_name("demo", ["demo", "smoke"], "profile")
    'demo'
    """
    names = sorted(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ParameterError(f"unknown {what} {name!r}: {hint}Valid: {', '.join(names) or '(none)'}")


def check_parameters(given: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Check that every given parameter exists and has the declared type.

    Args:
        given: parameter values by name.
        hints: declared types by name, as `typing.get_type_hints` gives them.
        where: what the parameters belong to, for the message.

    Raises:
        ParameterError: a name that `hints` lacks, or a value of another type.

    >>> check_parameters({"lr": 1, "steps": 3}, {"lr": float, "steps": int}, "08_train_transkd")
    """
    from pydantic import TypeAdapter, ValidationError

    for name, value in given.items():
        check_name(name, hints, f"parameter of {where}")
        try:  # as JSON, where a list is a tuple and a whole number a float, but True is no number and "1" neither
            TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            hint = hints[name] if get_args(hints[name]) else hints[name].__name__
            message = f"{name} = {value!r} in {where} is {type(value).__name__}, but must be {hint}"
            if isinstance(value, str) and (number := re.fullmatch(r"([-+.\d]+)(?:[eE]([-+]?\d+))?", value)):
                mantissa, exponent = number.groups()
                as_float = f"{mantissa}.0e{exponent}" if exponent and "." not in mantissa else ""
                message += (
                    f". YAML reads {value} as text: write {as_float}" if as_float else f". Write {value} without quotes"
                )
            raise ParameterError(message) from error


def read_signature(notebook: Path) -> Signature:
    """Read types and defaults from a notebook's cell tagged `parameters` (none: no parameters).

    Raises:
        ParameterError: the notebook is missing or unreadable, or a line of the cell is not an annotated
            literal.
    """
    if not notebook.is_file():
        near = (path.name for path in notebook.parent.glob("*.ipynb"))
        raise ParameterError(f"no notebook {notebook}; that folder has {', '.join(sorted(near)) or 'no notebook'}")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = (c["source"] for c in cells if "parameters" in c.get("metadata", {}).get("tags", []))
        lines = ast.parse("".join(next(tagged, []))).body
    except (ValueError, KeyError, SyntaxError) as error:
        raise ParameterError(f"{notebook} is not a readable notebook: {error}") from error
    signature = Signature(notebook.name, {}, {})
    for line in lines:
        try:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
                raise ValueError("every line is one annotated literal, such as `steps: int = 100`")
            signature.hints[line.target.id] = _type(line.annotation)
            signature.defaults[line.target.id] = ast.literal_eval(line.value)
        except (ValueError, KeyError) as error:
            raise ParameterError(
                f"{notebook.name}: the parameters cell holds `{ast.unparse(line)}` ({error}); write a literal and "
                f"derive the rest in the next cell, with types of {', '.join(sorted(_TYPES))} and None"
            ) from error
    return signature


def _type(annotation: ast.expr) -> Any:
    """The type that an annotation such as `list[int] | None` names. Raises KeyError for another name."""
    if isinstance(annotation, ast.BinOp):
        return _type(annotation.left) | _type(annotation.right)
    if isinstance(annotation, ast.Subscript):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return _type(annotation.value)[tuple(map(_type, items))]
    return None if ast.unparse(annotation) == "None" else _TYPES[ast.unparse(annotation)]


def find_file(source: str) -> str:
    """A file as given, or under the repository's root; other sources ("timm", "hub:...") come back unchanged.

    Raises:
        ParameterError: there is no such file.
    """
    if source == "timm" or source.startswith("hub:"):
        return source
    for path in (Path(source), Path(__file__).resolve().parents[2] / source):
        if path.is_file():
            return str(path)
    raise ParameterError(f"no file of weights {source}: check the path, or train it (see `transkd train --help`)")


def weights_file(source: Path) -> Path:
    """The file of weights that a run folder holds, or that the source is.

    Raises:
        ParameterError: there is no such file.
    """
    file = source / STUDENT_FILE if source.is_dir() else source
    if not file.is_file():
        raise ParameterError(f"no weights at {file}: pass a finished run folder or a .safetensors file")
    return file


def content_name(source: str | None) -> str | None:
    """The digest of a file's content, so that retrained weights make another run; other names as they are."""
    if source is None or source == "timm" or source.startswith(("hub:", "run:")):
        return source
    return "sha256:" + hashlib.sha256(Path(find_file(source)).read_bytes()).hexdigest()[:16]


# --- One training run as one flat record: what is trained, on what, by which method, for how long.

# Where a run reads and writes, how often it saves, and how many processes decode images, does not change its
# result.
_NOT_IDENTITY = ("data_root", "out_dir", "num_workers", "checkpoint_every", "eval_every")
_AT_LEAST = {"steps": 0, "train_images": 1, "val_images": 1, "height": 32, "width": 32, "num_workers": 0}


@dataclass(frozen=True)
class Experiment:
    """Every parameter of one training run (flat, JSON-like).

    `height` and `width` resize every image (both or neither); `train_images` and `val_images` take the first
    so many (None: all). `pretrained` starts the trained network from a file, "timm" or "hub:<repo id>".
    `teacher` is a file saved by `save_model`, or `run:<folder name>`, a run beside `out_dir`. `steps=0`
    trains nothing: the pretrained network is scored and saved as it is. For the training fields see
    `TrainConfig`.

    Raises:
        ParameterError: a value that makes no sense, with its name.

    >>> Experiment(method="none", seed=1).folder_name()[:16]
    'student-none-s1-'
    """

    dataset: str = "streets"
    data_root: str | None = None
    train_images: int | None = 128
    val_images: int | None = 64
    data_seed: int = 0
    data_options: dict[str, Any] = field(default_factory=dict)
    height: int | None = 64
    width: int | None = 128
    network: str = "segformer_b0"
    pretrained: str | None = None
    teacher: str | None = None
    method: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int | None = 100
    epochs: float | None = None
    batch_size: int = 4
    lr: float = 1.0e-3
    weight_decay: float = 0.01
    schedule: str = "poly"
    schedule_horizon: float = 1.0
    schedule_unit: str = "step"
    warmup_steps: int = 0
    augment: str = "standard"
    crop: tuple[int, int] | None = None
    normalize: bool = True
    class_weights: str | list[float] | None = None
    supervise: str = "full"
    precision: str = "auto"
    compile: bool = False
    deterministic: bool = False
    device: str = "auto"
    num_workers: int = 0
    checkpoint_every: int | None = 200
    eval_every: int | None = None
    out_dir: str | None = None

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ParameterError(f"{name} = {value}: it must be at least {least}")
        if (self.height is None) != (self.width is None):
            raise ParameterError(f"height = {self.height}, width = {self.width}: give both, or neither")
        if self.steps == 0 and self.pretrained is None:
            raise ParameterError("steps = 0 trains nothing, so it needs pretrained=<file of weights>")
        if self.method != "none" and self.teacher is None:
            raise ParameterError(f"method {self.method!r} needs a teacher: pass teacher=<file or run:folder>")
        if isinstance(self.class_weights, str):
            check_name(self.class_weights, ["paper"], "class_weights (a list of factors is the other way)")
        if self.steps != 0:
            self._config(None)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "Experiment":
        """Build from a flat mapping; an unknown or mistyped parameter raises `ParameterError`."""
        check_parameters(parameters, cls.hints(), "the experiment")
        values = dict(parameters)
        if values.get("crop") is not None:
            values["crop"] = tuple(values["crop"])
        return cls(**values)

    @classmethod
    def hints(cls) -> dict[str, Any]:
        """Names and types of all parameters, in order."""
        return typing.get_type_hints(cls)

    def parameters(self) -> dict[str, Any]:
        """All parameters as a JSON-like mapping."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the result; files of weights count by their content."""
        values = self.record()
        if self.method == "none":
            values |= {"teacher": None, "options": {}}
        return values | {name: content_name(values[name]) for name in ("pretrained", "teacher")}

    def record(self) -> dict[str, Any]:
        """What run.json keeps: the parameters without those that only say where to read, write and save."""
        return {name: value for name, value in self.parameters().items() if name not in _NOT_IDENTITY}

    @property
    def run_id(self) -> str:
        """Eight hexadecimal digits of the identity."""
        return hash_parameters(self.identity())

    def folder_name(self, kind: str = "student") -> str:
        """`<kind>-<method>-s<seed>-<hash>`, the name of this run's folder."""
        return run_name(kind, self.method, self.seed, self.identity())

    def check_names(self, teacher_network: str | None = None) -> None:
        """Check network, method and the method's options against what the library has (imports torch).

        Args:
            teacher_network: the teacher's network; without it the options stay unchecked.

        Raises:
            ParameterError: a name that does not exist, with the nearest ones.
        """
        from transkd_lite.distill.methods import create_method, list_methods
        from transkd_lite.models.weights import create_model, list_models

        if not self.network.startswith("timm:"):
            check_name(self.network, list_models(), "network")
        for part in self.method.split("+"):
            check_name(part, ["none", *list_methods()], "method")
        if self.method == "none" or teacher_network is None:
            return
        try:
            student, teacher = (create_model(name, 2).spec for name in (self.network, teacher_network))
            create_method(self.method, student, teacher, **self.options)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"options of method {self.method}: {error}") from error

    def check_data(self) -> None:
        """Open both splits, which looks into every file once; the runs need not do so again.

        Raises:
            ParameterError: unknown dataset, missing folder or file, with what to do.
        """
        if self.data_root is None and self.dataset in ("cityscapes", "acdc", "nyuv2", "voc2012", "camvid", "folder"):
            raise ParameterError(f"dataset {self.dataset} needs its files: pass --data-root DIR (data_root=...)")
        try:
            for split in ("train", "val"):
                self.open_split(split, 1)
        except (OSError, ValueError) as error:
            raise ParameterError(f"dataset {self.dataset}: {error}") from error

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every image, or None for the images as they are."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def config(self) -> "TrainConfig":
        """The training settings; a value that makes no sense raises `ParameterError` with its name.

        `class_weights="paper"` stands for the authors' nineteen factors of Cityscapes.
        """
        if self.class_weights is None:
            return self._config(None)
        if isinstance(self.class_weights, list):
            return self._config(tuple(self.class_weights))
        from transkd_lite.data.labels import CITYSCAPES_CLASS_WEIGHTS

        return self._config(CITYSCAPES_CLASS_WEIGHTS)

    def _config(self, class_weights: tuple[float, ...] | None) -> "TrainConfig":
        from transkd_lite.training.config import TrainConfig

        shared = {f.name for f in fields(TrainConfig)} & {f.name for f in fields(self)}
        values = {name: getattr(self, name) for name in shared}
        try:
            return TrainConfig(**values | {"workers": self.num_workers, "class_weights": class_weights})
        except ValueError as error:
            raise ParameterError(str(error)) from error

    def open_data(self) -> "tuple[Dataset, Dataset]":
        """The training and the validation images."""
        return self.open_split("train", self.train_images), self.open_split("val", self.val_images)

    def open_split(self, split: str, num: int | None, **options: Any) -> "Dataset":
        """The first `num` images of a split (None: all)."""
        from transkd_lite.data.datasets import open_dataset

        options |= self.data_options
        if "label_map" in options:  # JSON and papermill turn the keys into text
            options["label_map"] = {int(value): train_id for value, train_id in options["label_map"].items()}
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

        from transkd_lite.models.weights import create_model

        torch.manual_seed(self.seed)
        pretrained = find_file(self.pretrained) if self.pretrained else None
        reset: Any = "if-needed" if self.steps != 0 else False
        return create_model(self.network, num_classes, pretrained=pretrained, reset_head=reset)

    def build(
        self, num_classes: int, space: "LabelSpace | None" = None
    ) -> "tuple[SegModel, SegModel | None, Distiller | None]":
        """Student, teacher and method, new weights from the seed; teacher and method are None for "none".

        Raises `ParameterError` for a teacher with another number of classes, or other names than `space` has.
        """
        from transkd_lite.distill.methods import create_method
        from transkd_lite.models.weights import load_model

        student = self.build_student(num_classes)
        if self.method == "none":
            return student, None, None
        teacher = load_model(self.teacher_file())
        if teacher.spec.num_classes != num_classes:
            raise ParameterError(
                f"teacher {self.teacher} has {teacher.spec.num_classes} classes, but {self.dataset} has "
                f"{num_classes}: train a teacher on {self.dataset}"
            )
        if space and teacher.label_space and (difference := teacher.label_space.difference(space)):
            raise ParameterError(
                f"teacher {self.teacher} and {self.dataset} must have the same classes in the same order; "
                f"{difference}: train a teacher on {self.dataset}"
            )
        return student, teacher, create_method(self.method, student, teacher, **self.options)

    def teacher_file(self) -> Path:
        """The file of the teacher's weights."""
        if self.teacher is None:
            raise ParameterError("teacher is None: pass teacher=<file or run:folder>")
        if not self.teacher.startswith("run:"):
            return Path(find_file(self.teacher))
        if self.out_dir is None:
            raise ParameterError(f"teacher {self.teacher!r} is a run beside out_dir, but out_dir is None")
        return Path(self.out_dir).parent / self.teacher.removeprefix("run:") / STUDENT_FILE


def run_experiment(
    experiment: Experiment, out_dir: str | Path | None = None, *, resume: bool = True, progress: str = "auto"
) -> dict[str, Any]:
    """Train, score by both protocols, and leave a finished run folder.

    Args:
        experiment: what to run. out_dir: the run folder; None takes `experiment.out_dir`, and where that is
        None too nothing is stored. resume: go on from the folder's last checkpoint; in a finished folder only
        read the metrics. progress: "auto", "bar", "lines" or "none".

    Returns: the metrics, {"full": {"miou", "pixel_accuracy", "iou"}, "paper": ..., "wall_s", ...}.

    Raises: ParameterError, and what `fit` raises.
    """
    from transkd_lite.data.labels import label_space
    from transkd_lite.training.loop import fit

    folder = out_dir or experiment.out_dir
    if folder is not None:
        experiment = replace(experiment, out_dir=str(folder))
    train_data, val_data = experiment.open_data()
    space = label_space(train_data)
    if experiment.steps == 0:
        return score_pretrained(experiment, space.num_classes, val_data, folder)
    student, teacher, method = experiment.build(space.num_classes, space)
    result = fit(
        student, train_data, config=experiment.config(), teacher=teacher, method=method, val_data=val_data,
        out_dir=folder, resume=resume, parameters=experiment.record(), progress=progress,
    )  # fmt: skip
    return result.metrics


# --- Networks that are not trained here: scored as they are, scored again, or saved for shipping.


def score_pretrained(
    experiment: Experiment, num_classes: int, val_data: Any, folder: str | Path | None
) -> dict[str, Any]:
    """Score a network that is not trained; its folder looks like that of a training of zero steps."""
    import torch

    from transkd_lite.metrics import PROTOCOLS, evaluate
    from transkd_lite.models.weights import load_model, save_model

    if folder is not None and is_finished(folder):
        return read_json(Path(folder) / METRICS_FILE)
    start = time.perf_counter()
    device = "cuda" if experiment.device == "auto" and torch.cuda.is_available() else "cpu"
    model = experiment.build_student(num_classes).to(device).eval()
    with contextlib.suppress(ValueError, OSError):  # of another library: nothing is said of its classes
        model.label_space = load_model(find_file(str(experiment.pretrained))).label_space
    scores = {p: evaluate(model, val_data, protocol=p, normalize=experiment.normalize) for p in PROTOCOLS}
    metrics: dict[str, Any] = {protocol: score.to_dict() for protocol, score in scores.items()}
    metrics |= {"steps": 0, "wall_s": time.perf_counter() - start}
    if folder is not None:
        with lock_run(folder):
            record = experiment.record()
            save_model(model, Path(folder) / STUDENT_FILE, provenance={"parameters": record})
            info = {"parameters": record, "seed": experiment.seed, "num_steps": 0, "precision": "fp32"}
            write_json(Path(folder) / RUN_FILE, {"state": "finished", **info, "device": device, **provenance()})
            atomic_write(Path(folder) / HISTORY_FILE, "step,epoch,lr,loss,ce,images_per_s\n")
            write_json(Path(folder) / METRICS_FILE, metrics)
    return metrics


def save_half(folder: str | Path, target: str | Path, *, profile: str) -> Path:
    """Save a finished run's network in half precision for shipping, with how it was made in its metadata."""
    import torch

    from transkd_lite.models.weights import load_model, save_model

    info, metrics = read_json(Path(folder) / RUN_FILE), read_json(Path(folder) / METRICS_FILE)
    kept = ("parameters", "versions", "device", "precision", "commit", "dirty", "started", "wall_s")
    made = {"command": f"transkd train {profile}", **{name: info.get(name) for name in kept}}
    made["miou"] = {name: metrics[name]["miou"] for name in ("full", "paper") if name in metrics}
    return save_model(load_model(Path(folder) / STUDENT_FILE), target, dtype=torch.float16, provenance=made)


def training_parameters(source: Path, weights: Path) -> dict[str, Any]:
    """The parameters of the training, as far as the run folder or the file of weights tells them."""
    from transkd_lite.models.weights import read_metadata

    recorded = read_json(source / RUN_FILE)
    if weights.suffix == ".safetensors" and "parameters" not in recorded:
        recorded = read_metadata(weights).get("provenance", {})
    return dict(recorded.get("parameters") or {})


def evaluate_run(source: str | Path, settings: Mapping[str, Any], split: str = "val") -> dict[str, Any]:
    """Score a run folder's network, or a file of weights, by both protocols.

    Args:
        source: a run folder or a file saved by `save_model`; what it says of its training is the data and their size.
        settings: parameters that replace those; with another data set, all of its images are taken.
        split: which images.

    Returns:
        A dictionary of scores for each protocol, and beside them "data": dataset, split, number of images, size in
        pixels of the first of them, normalize.

    Raises:
        ParameterError: nothing says which data, they cannot be opened, or the network was not made for them.
    """
    from transkd_lite.data.transforms import to_tensors
    from transkd_lite.metrics import PROTOCOLS, evaluate, require_scorable
    from transkd_lite.models.weights import load_model

    source = Path(source)
    file = weights_file(source)
    recorded, kept = training_parameters(source, file), ["height", "width", "normalize"]
    if settings.get("dataset", recorded.get("dataset")) == recorded.get("dataset"):
        kept += ["dataset", "data_seed", "data_options", "val_images"]
    known = {name: recorded[name] for name in kept if name in recorded} | dict(settings)
    missing = [name for name in ("dataset", "height", "width") if name not in known]
    if missing:
        raise ParameterError(
            f"{source} does not say on which images it was trained: pass "
            f"{' '.join(f'--set {name}=…' for name in missing)} (and --data-root, where the data set has files)"
        )
    experiment = Experiment.from_parameters({"val_images": None, **known})
    model = load_model(file)
    try:
        data = experiment.open_split(split, experiment.val_images)
        require_scorable(model, data)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{source} on {experiment.dataset}, split {split}: {error}") from error
    scores = {p: evaluate(model, data, protocol=p, normalize=experiment.normalize) for p in PROTOCOLS}
    size = to_tensors(data[0])[1].shape
    shown = {"dataset": experiment.dataset, "split": split, "images": len(data), "size": list(size)}
    shown["normalize"] = experiment.normalize
    return {"data": shown, **{protocol: score.to_dict() for protocol, score in scores.items()}}
