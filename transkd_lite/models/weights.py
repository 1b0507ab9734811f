"""From a name or a file to a network, and back to a file: tensors, checkpoints of others, `create_model`, our own
files, and Hugging Face's naming. Heavy libraries are imported only where a network needs them.
"""

import contextlib
import dataclasses
import inspect
import json
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any, Literal, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from transkd_lite.data.whole import METRICS_FILE, RUN_FILE, STUDENT_FILE, atomic_write, find_path, read_json, verified
from transkd_lite.models import segformer
from transkd_lite.models.lvt import LVT
from transkd_lite.models.naming import SCHEMES, family_of, find_network, plain_name, to_huggingface, to_own_names
from transkd_lite.models.output import SegModel, as_tuples, bare_network, describe, listed, printable, recorded, restore
from transkd_lite.models.segformer import EPS, NUM_HEADS, SEGFORMERS, SegFormer

__all__ = [
    "AUTHORS", "create_model", "flatten", "infer_network", "list_models", "load_model", "load_tensors", "read_metadata",
    "read_tensors", "save_huggingface", "save_model", "write_tensors",
]  # fmt: skip

# --- Reading tensors from files, and nothing but tensors; writing them whole or not at all.
#
# safetensors files hold no code by construction. Files of `torch.save` are pickles and are read by torch's
# restricted unpickler, which refuses everything that is not a tensor or a plain container before it could run.

# What is read of a folder: the first pattern that something matches. A checkpoint in parts has all of them in one.
PATTERNS = (
    "model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin",
    "*.safetensors", "pytorch_model*.bin",
)  # fmt: skip


def files_of(source: str | Path) -> list[Path]:
    """The files that hold a source's weights: a file, those of a folder, or those of "hub:<repo id>".

    A path that is not here may be one of the course's own, such as data/weights/streets128-segformer_b1.safetensors.

    Raises FileNotFoundError where there are none, ValueError where a folder holds several that may be meant.
    """
    path = find_path(source)
    if str(source).startswith("hub:"):
        from huggingface_hub import snapshot_download

        repo = str(source).removeprefix("hub:")
        path = Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors"]))
        if not list(path.glob("*.safetensors")):
            snapshot_download(repo, allow_patterns=["pytorch_model*.bin"])
    if path.is_file():
        return [path]
    for pattern in PATTERNS:
        files = sorted(path.glob(pattern))
        if len(files) > 1 and "-of-" not in pattern:
            raise ValueError(f"{printable(path)} holds {listed([f.name for f in files])}: give the path of one")
        if files:
            return files
    raise FileNotFoundError(f"no weights at {printable(path)}: give a file, or a folder with one of {PATTERNS}")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever a file cannot be read for as a ValueError that names it and says what to do."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about protocols of pickles
            yield
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported \w+:? [^\n]*?(?= was not|\n|$)", str(error)) or ["no tensors"]
        raise ValueError(
            f"{printable(path)} is refused: a checkpoint may hold tensors only, this one is damaged or holds something "
            f"that would be executed ({printable(reason[0])}); where you trust it, turn it into safetensors:\n"
            f"import torch, transkd_lite.models.weights as files; path = {str(path)!r}\n"
            "files.write_tensors(path + '.safetensors', "
            "files.flatten(torch.load(path, map_location='cpu', weights_only=False)), {})"
        ) from error
    except Exception as error:
        raise ValueError(f"{printable(path)} is not whole ({printable(error)}): fetch or save it again") from error


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, of a folder in Hugging Face layout, or of "hub:<repo id>" (see `flatten`).

    Raises FileNotFoundError where there is nothing, ValueError where the file is damaged, holds more than tensors, or
    is not as its finished run left it.
    """
    tensors: dict[str, Tensor] = {}
    for file in map(verified, files_of(source)):
        with _whole(file):
            safe = file.suffix == ".safetensors"
            content = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        tensors |= flatten(content, str(file))
    return tensors


def flatten(content: Any, origin: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors of nested dicts, each by the keys that lead to it. Raises ValueError where there are none.

    >>> flatten({"epoch": 3, "state_dict": {"norm.weight": torch.ones(2)}}).keys()
    dict_keys(['state_dict.norm.weight'])
    """
    tensors, seen, waiting = {}, set(), [("", content)]
    for path, value in waiting:  # grows while it is read
        value = value.state_dict() if isinstance(value, nn.Module) else value
        if isinstance(value, Tensor) and path:
            tensors[path] = value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    if not tensors:
        raise ValueError(f"{printable(origin)} holds no tensors by name, but {type(content).__name__}")
    return tensors


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_model` wrote beside the tensors, its "spec" among it; empty for files of others."""
    if Path(path).suffix != ".safetensors":
        return {}
    with _whole(Path(path)), safe_open(path, framework="pt") as file:
        return recorded(file.metadata())


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    atomic_write(path, safetensors_bytes(copies, dict(metadata)))


# --- Putting the checkpoints of others into our networks, and telling from one which network it belongs to.

CLASSIFIER = "head.classifier.weight"
Reset = bool | Literal["if-needed"]  # of a classifier
# The patch embedding of stage 1 is called differently in each of the authors' networks.
AUTHORS = {
    "backbone.0.0.proj.weight": "lvt",
    "backbone.patch_embed1.proj.weight": "pvt",
    "patch_embed1.proj.weight": "segformer",
}
SIGNS = dict.fromkeys(SCHEMES["segformer"], "segformer") | AUTHORS  # and of SegFormers elsewhere


def load_tensors(
    model: SegModel, tensors: Mapping[str, Tensor], *, origin: str = "the checkpoint", reset_head: Reset = False
) -> None:
    """Put a checkpoint in any known naming into a network.

    A file without a head (ImageNet weights) leaves the head new. A classifier for another number of classes
    is left new only with `reset_head`, which True does to any classifier and "if-needed" to no other. Raises
    ValueError with what `load_state_dict` says of tensors that differ, are missing, or have no place in the network.
    """
    own, given = model.state_dict(), to_own_names(tensors, family_of(model.spec.name))
    for name in own.keys() & given.keys():  # a linear layer (D, C) is a 1x1 convolution (D, C, 1, 1)
        if given[name].squeeze().shape == own[name].squeeze().shape:
            given[name] = given[name].reshape(own[name].shape)
    has_head = any(name.startswith("head.") for name in given)
    other = CLASSIFIER in given and given[CLASSIFIER].shape[:1] != own[CLASSIFIER].shape[:1]
    if not has_head or reset_head is True or (reset_head and other):
        left_new = "head.classifier." if has_head else "head."
        given |= {name: tensor for name, tensor in own.items() if name.startswith(left_new)}
    try:
        model.load_state_dict(given)
    except RuntimeError as error:
        advice = "for another number of classes pass reset_head=True, or num_classes as in the file: " if other else ""
        reason = printable(str(error).partition(":")[2], 320)
        raise ValueError(f"{printable(origin)} does not fit {model.spec.name}: {advice}{reason}") from error


def infer_network(tensors: Mapping[str, Tensor], signs: Mapping[str, str] = AUTHORS) -> tuple[str, int, dict[str, Any]]:
    """Name, number of classes and options of the network that a checkpoint in the authors' naming belongs to.

    signs: tensors by which a network is known, with its family; `SIGNS` has those of other libraries too.
    Raises ValueError where there is none, or no network of this library has these shapes.
    """
    network = find_network(tensors, signs)
    if not network.sign:
        raise ValueError(f"not a checkpoint of the TransKD authors: no {listed(signs)} among {listed(tensors)}")
    family = signs[network.sign]
    own = to_own_names(network.tensors, family)
    if CLASSIFIER not in own:
        raise ValueError("the checkpoint holds no segmentation head: pass it to create_model(...)")
    name = "lvt"
    if family != "lvt":  # PVTv2's sizes have the same widths and depths as SegFormer's
        norms = [rf".*stages\.{stage}\.blocks\.\d+\.norm1\.weight" for stage in range(4)]
        widths = [[len(tensor) for n, tensor in own.items() if re.fullmatch(norm, n)] for norm in norms]
        shape = tuple(max(w, default=0) for w in widths), tuple(map(len, widths))
        names = [n for n, variant in SEGFORMERS.items() if variant[:2] == shape]
        if not names:
            raise ValueError(f"no known network has widths {shape[0]} and depths {shape[1]}")
        name = names[0] if family == "segformer" else names[0].replace("segformer", "pvt_v2")
    return name, own[CLASSIFIER].shape[0], unusual(head_options(own), _class_of(name, ())[1])


def head_options(own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of an all-MLP head that a network's tensors, under this library's names, show."""
    fuse = own.get("head.fuse.weight")
    if fuse is None or not fuse.ndim:
        return {}
    return {"decoder_channels": fuse.shape[0], "normed_projections": "head.projection_norms.0.weight" in own}


def unusual(options: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a network's options whose value is not the usual one."""
    return {key: value for key, value in options.items() if value != usual.get(key, value)}


# --- `create_model`: from a name to a network. Heavy libraries are imported only where a network needs them.


def list_models() -> list[str]:
    """The names that `create_model` builds; besides them it takes "timm:<backbone>".

    >>> list_models()[:2]
    ['segformer_b0', 'segformer_b1']
    """
    return [*SEGFORMERS, *(f"pvt_v2_b{i}" for i in range(6)), "lvt"]


def _class_of(name: str, options: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """A network's class, and its options with their usual values. Raises ValueError for an unknown name or option."""
    if name not in list_models() and not name.startswith("timm:"):
        raise ValueError(f"unknown network {printable(name)!r}; choose one of {', '.join(list_models())}, timm:<name>")
    network: Any = {"segformer": SegFormer, "lvt": LVT}.get(family_of(name))
    if network is None:
        network = import_module("transkd_lite.models.pyramid").NETWORKS[family_of(name)]
    usual = {p.name: p.default for p in inspect.signature(network).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if name in SEGFORMERS:
        usual["decoder_channels"] = SEGFORMERS[name].decoder_channels
    if unknown := [key for key in options if key not in usual]:
        raise ValueError(f"{name} has no option {listed(unknown)}; its options are {', '.join(usual)}")
    return network, usual


def create_model(
    name: str, num_classes: int, *, pretrained: str | Path | None = None, reset_head: Reset = False, **options: Any
) -> SegModel:
    """Build a network for `num_classes` classes, with new weights unless `pretrained` says where to take them.

    name: one of `list_models()`, or "timm:<backbone>".
    pretrained: a file or folder in any known naming (ours, the TransKD authors', NVIDIA's, Hugging Face's,
        mmsegmentation's, timm's), "hub:<repo id>", or "timm" for timm's own ImageNet weights of the backbone.
        What its network is wrapped in (data-parallel training, torch.compile, Lightning, a distiller) is seen
        through: a student is taken before a teacher, a network before its moving average (EMA). Where it holds no
        segmentation head (ImageNet weights), the head is new.
    reset_head: begin with a new classifier, for weights trained on other classes; "if-needed" does so only where
        their number differs.
    options: the keyword options of the network's class, for instance drop_path=0.0; they are kept in
        `spec.options`. Those that the weights need (the head's width, the number of attention heads …) are read
        from `pretrained`.

    Raises ValueError for a name, class count or option that does not exist, for an option that contradicts the
    weights and for weights that do not fit, FileNotFoundError for weights that are not there.

    >>> create_model("segformer_b0", 19).spec.channels
    (32, 64, 160, 256)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    network, usual = _class_of(name, options)
    fetch = {"fetch": True} if pretrained == "timm" else {}
    if fetch and network in (SegFormer, LVT):
        raise ValueError(f"timm has no weights for {name}: give a path or for instance hub:nvidia/mit-b0")
    options = as_tuples(options)
    own, found = None, {}
    if pretrained is not None and not fetch:
        files = files_of(pretrained)
        tensors = {n: tensor for file in files for n, tensor in read_tensors(file).items()}
        own = to_own_names(tensors, family_of(name))
        found = head_options(own)  # shapes, config.json or our metadata tell of options
        if family_of(name) == "segformer" and any("patch_embeddings." in n for n in tensors):
            found |= read_config(name, files[0].with_name("config.json"))
        elif record := read_metadata(files[0]):
            kept = restore(record, files[0])[0].options
            found |= {key: kept[key] for key in ("num_heads", "norm_eps") if key in kept}
    for key, value in found.items():
        if (given := options.get(key)) not in (None, value):
            raise ValueError(f"{key}={given!r} contradicts {printable(pretrained)}, which has {value!r}: leave it out")
    options |= unusual(found, usual)
    types = get_type_hints(network.__init__)
    for key, value in options.items():
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}, {key}: {error.errors()[0]['msg']}, got {printable(repr(value))}") from error
    model = network(name, num_classes, **options, **fetch)
    model.spec = dataclasses.replace(model.spec, options=options)
    if own is not None:
        load_tensors(model, own, origin=str(pretrained), reset_head=reset_head)
    return model


# --- Our own files: one safetensors file a network, its spec in the metadata.


def save_model(
    model: nn.Module, path: str | Path, *, dtype: torch.dtype | None = None, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a network as one safetensors file that needs no other argument to be read.

    The metadata hold its spec and, where its `label_space` is known, names and colours of its classes.

    model: a network of `create_model`, also compiled or wrapped for parallel training.
    dtype: store floating-point tensors in this type (torch.float16 halves the file); None keeps theirs.
    provenance: anything that JSON can hold, kept in the metadata beside the spec.

    The file appears whole or not at all. Returns its path.
    """
    model = bare_network(model)
    named = model.state_dict().items()
    tensors = {plain_name(n): t.to(dtype) if dtype and t.is_floating_point() else t for n, t in named}
    write_tensors(path, tensors, describe(model.spec, model.label_space, provenance=dict(provenance or {})))
    return Path(path)


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> SegModel:
    """Read what `save_model` wrote: a network in evaluation mode, its weights in float32, with its `label_space`.

    path: the file, a run folder, or a file of `export_onnx`, whose network ONNX Runtime computes on the CPU.

    Raises FileNotFoundError, and ValueError where the file is not whole or carries no spec.
    """
    if Path(path).suffix == ".onnx":
        return import_module("transkd_lite.models.onnx").OnnxModel(path)
    (file,) = files_of(path)
    spec, space = restore(read_metadata(file), file)
    _class_of(spec.name, spec.options)  # a file chooses among the options of its network, and nothing else
    model = create_model(spec.name, spec.num_classes, pretrained=file, **spec.options)
    model.label_space = space
    return model.to(device).eval()


# --- A SegFormer as a Hugging Face folder: config.json and model.safetensors in the classic naming.
#
# `transformers.SegformerForSemanticSegmentation.from_pretrained(folder)` opens what `save_huggingface` writes. Its
# LayerNorms use eps 1e-5 everywhere, so logits agree to about 1e-5 of their scale, not to the last bit.


# What no option changes and no shape of a tensor shows.
FIXED = {"strides": list(segformer.PATCH_STRIDES), "hidden_act": "gelu", "reshape_last_stage": True}


def read_config(name: str, path: Path) -> dict[str, Any]:
    """The options that weights of the SegFormer `name` in transformers' naming need, by the config.json beside them.

    transformers computes all LayerNorms with eps 1e-5, whatever layer_norm_eps says, and so does a network read
    from files that it wrote. Raises ValueError, with the key, for a network that this library does not build.
    """
    with _whole(path):
        config = as_tuples(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    for key, value in as_tuples(FIXED).items():
        if config.get(key, value) != value:
            found = printable(config[key])
            raise ValueError(f"{printable(path)} has {key} = {found}, but {name} needs {value}: use transformers")
    eps = 1e-5 if not config or "transformers_version" in config else config.get("layer_norm_eps", EPS)
    return {"num_heads": config.get("num_attention_heads", NUM_HEADS), "norm_eps": eps}


def save_huggingface(
    model: nn.Module | str | Path, folder: str | Path, *, class_names: Sequence[str] | None = None
) -> Path:
    """Write config.json and model.safetensors into `folder`, and of a run also its model card. Returns the folder.

    model: a network, or the path of a finished run folder or of weights. Then README.md says what was distilled from
        what, on which data and with which scores; its licence is to be filled in, so one that is there already stays.
    class_names: one a class, in train-id order; where they are not given those of the network's `label_space`, or
        "class_0" …

    Raises ValueError for networks that transformers has no SegFormer for and for a wrong number of names, and what
    `load_model` raises.
    """
    source, model = model, model if isinstance(model, nn.Module) else load_model(model)
    model = bare_network(model)
    spec = model.spec
    if not isinstance(model, SegFormer) or model.head.projection_norms is not None:
        raise ValueError(f"{spec.name} is no SegFormer with linear projections in its head, which transformers has")
    known = model.label_space.names if model.label_space else ()
    names = list(class_names or [*known, *(f"class_{i}" for i in range(len(known), spec.num_classes))])
    if len(names) != spec.num_classes:
        raise ValueError(f"class_names must have {spec.num_classes} entries, got {len(names)}")
    config = FIXED | {
        "architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer", "num_channels": 3,
        "num_encoder_blocks": len(spec.depths), "depths": list(spec.depths), "hidden_sizes": list(spec.channels),
        "num_attention_heads": list(spec.num_heads), "sr_ratios": list(segformer.REDUCTIONS),
        "patch_sizes": list(spec.patch_sizes), "mlp_ratios": [segformer.MLP_RATIO] * len(spec.depths),
        "decoder_hidden_size": spec.decoder_channels, "layer_norm_eps": spec.options.get("norm_eps", EPS),
        "id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)},
    }  # fmt: skip
    write_tensors(Path(folder) / "model.safetensors", to_huggingface(model.state_dict()), {"format": "pt"})
    atomic_write(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")
    if not isinstance(source, nn.Module):
        _describe_run(find_path(source).resolve(), spec.name, Path(folder))
    return Path(folder)


def _describe_run(source: Path, network: str, folder: Path) -> None:
    """Write how pictures are prepared for a run's network, and its model card unless there is one already."""
    made = read_json(source / RUN_FILE) or read_metadata(source).get("provenance", {})
    told = made.get("parameters", {})
    size = {side: told.get(side) for side in ("height", "width")}
    prepared = {"do_resize": all(size.values()), "size": size, "do_normalize": told.get("normalize", True)}
    processor = {"image_processor_type": "SegformerImageProcessor", **prepared}
    atomic_write(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    scores = {told.get("seed"): [made.get("miou", {}).get(protocol) for protocol in ("full", "paper")]}
    for file in source.parent.glob(f"*/{METRICS_FILE}"):  # this run, and those beside it that differ in the seed alone
        other, found = read_json(file.with_name(RUN_FILE)).get("parameters", {}), read_json(file)
        if other | {"seed": 0} == told | {"seed": 0}:
            scores[other.get("seed")] = [found.get(protocol, {}).get("miou") for protocol in ("full", "paper")]
    rows = [f"| {seed} | {100 * a:.2f} | {100 * b:.2f} |" for seed, (a, b) in sorted(scores.items()) if a and b]
    teacher = str(told.get("teacher")).removeprefix("run:")
    files = [file for file in (source.parent / teacher / STUDENT_FILE, Path(teacher)) if file.is_file()]
    teacher += f" ({read_metadata(files[0])['spec']['name']})" if files else ""
    method, how = told.get("method"), f"distilled from {teacher} by {told.get('method')}"
    how = {"none": "trained alone", None: "trained"}.get(method, how)
    words = {name: told.get(name, "not recorded") for name in ("dataset", "seed")} | {"network": network, "how": how}
    words |= {"rows": "\n".join(rows), "parameters": json.dumps(told, indent=2)}
    card = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(words)
    if not (folder / "README.md").exists():
        atomic_write(folder / "README.md", card)
