"""From a name or a file to a network, and back to a file: tensors, checkpoints of others, `create_model`, our own
files, and Hugging Face's naming. Heavy libraries are imported only where a network needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from transkd_lite.data.files import atomic_write
from transkd_lite.data.labels import LabelSpace
from transkd_lite.models import segformer
from transkd_lite.models.lvt import LVT
from transkd_lite.models.naming import (
    TO_HUGGINGFACE,
    Network,
    family_of,
    find_network,
    fit_shapes,
    plain_name,
    rename,
    to_own_names,
)
from transkd_lite.models.output import METADATA_KEY, SHOWN, ModelSpec, SegModel, bare_network, listed, printable
from transkd_lite.models.segformer import NORM_EPS, NUM_HEADS, SEGFORMERS, SegFormer

__all__ = [
    "create_model",
    "find_authors_network",
    "flatten",
    "infer_network",
    "list_models",
    "load_model",
    "load_tensors",
    "read_metadata",
    "read_tensors",
    "save_huggingface",
    "save_model",
    "write_tensors",
]

LONG = 160  # characters of a path or a reason in a message

# --- Reading tensors from files, and nothing but tensors; writing them whole or not at all.
#
# safetensors files hold no code by construction. Files of `torch.save` are pickles and are read by torch's
# restricted unpickler, which refuses everything that is not a tensor or a plain container before it could run.

HUB_FILES = ["config.json", "*.safetensors"]


def locate(source: str | Path) -> Path:
    """The file or folder that a source names; "hub:<repo id>" is fetched. Raises FileNotFoundError."""
    if str(source).startswith("hub:"):
        source = _download(str(source).removeprefix("hub:"))
    if not Path(source).exists():
        raise FileNotFoundError(f"no checkpoint at {printable(source, 400)}")
    return Path(source)


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, of a folder in Hugging Face layout, or of "hub:<repo id>" (see `flatten`).

    Raises FileNotFoundError where there is nothing, ValueError where the file is damaged or holds more than
    tensors.
    """
    path = locate(source)
    tensors: dict[str, Tensor] = {}
    for file in _files_of(path) if path.is_dir() else [path]:
        tensors |= flatten(_read_file(file), printable(file, LONG))
    return tensors


def flatten(content: Any, origin: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors of nested dicts, each by the keys that lead to it. Raises ValueError where there are none.

    >>> flatten({"epoch": 3, "state_dict": {"norm.weight": torch.ones(2)}}).keys()
    dict_keys(['state_dict/norm.weight'])
    """
    tensors, seen, waiting = {}, set(), [("", content)]
    for path, value in waiting:  # grows while it is read
        value = value.state_dict() if isinstance(value, nn.Module) else value
        if isinstance(value, Tensor) and path:
            tensors[path] = value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{path}/{key}" if path else str(key), inner) for key, inner in value.items()]
    if not tensors:
        raise ValueError(f"{origin} holds no state dict: expected tensors by name, got {type(content).__name__}")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises ValueError where it holds something else."""
    with _whole(path, "JSON object", ValueError, AttributeError, RecursionError):
        return dict(json.loads(path.read_text(encoding="utf-8")).items())


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_model` wrote beside the tensors, its "spec" among it; empty for files of others."""
    if Path(path).suffix != ".safetensors":
        return {}
    with (
        _whole(path, "safetensors file", SafetensorError, ValueError, RecursionError),
        safe_open(path, framework="pt") as file,
    ):
        metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    return metadata if isinstance(metadata, dict) and isinstance(metadata.get("spec"), dict) else {}


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    atomic_write(path, safetensors_bytes(copies, dict(metadata)))


def _read_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with _whole(path, "safetensors file", SafetensorError):
            return load_file(path)
    try:
        with _whole(path, "checkpoint", Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the protocol of pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported \w+:? [^\n]*?(?= was not|\n|$)", str(error)) or ["no tensors"]
        where = next(p for p in (str(path), path.name, "weights.pth") if len(repr(p)) <= 150)
        raise ValueError(
            f"{printable(path.name)} is refused: a checkpoint may hold tensors only, this one is damaged or holds "
            f"something that would be executed ({printable(reason[0], 60)}); where you trust it, turn it into "
            "safetensors:\n"
            f"import torch, transkd_lite.models.weights as files; path = {where!r}\n"
            "files.write_tensors(path + '.safetensors', "
            "files.flatten(torch.load(path, map_location='cpu', weights_only=False)), {})"
        ) from error


@contextlib.contextmanager
def _whole(path: str | Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """These errors as a ValueError that names the file. A refused pickle stays as it is."""
    try:
        yield
    except pickle.UnpicklingError:
        raise
    except errors as error:
        raise ValueError(
            f"{printable(path, LONG)} is not a whole {kind} ({printable(error, LONG)}): fetch or save it again"
        ) from error


def _files_of(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: safetensors before pickles, a variant only where it is
    alone.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        names = read_json(index).get("weight_map")  # a checkpoint in parts
        parts = set(map(str, names.values())) if isinstance(names, dict) else set()
        wrong = parts - {file.name for file in folder.iterdir()}
        if wrong or not parts:
            raise FileNotFoundError(
                f"{printable(index, LONG)} must list files that stand beside it, but lists "
                f"{listed(wrong) or 'nothing'}: fetch the folder again"
            )
        return [folder / part for part in sorted(parts)]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{printable(folder, LONG)} holds neither *.safetensors nor pytorch_model*.bin")
    if len(files) > 1:
        names = listed([file.name for file in files])
        raise ValueError(f"{printable(folder, LONG)} holds {names}: give the path of one")
    return files


def _download(repo_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo_id, allow_patterns=HUB_FILES)
        if not (Path(folder) / "model.safetensors").is_file():  # in parts, or pickles
            pickles = [] if list(Path(folder).glob("*.safetensors")) else ["pytorch_model*.bin"]
            folder = snapshot_download(repo_id, allow_patterns=["config.json", "*.index.json", *pickles])
    except Exception as error:
        raise FileNotFoundError(
            f"{printable(repo_id, 100)} could not be fetched from the Hugging Face hub ({printable(error, LONG)}): "
            "check the name and the connection, or give the path of a folder that holds config.json and "
            "model.safetensors"
        ) from error
    return folder


# --- Putting the checkpoints of others into our networks, and telling from one which network it belongs to.

CLASSIFIER = "head.classifier."
# The patch embedding of stage 1 is called differently in each of the authors' networks.
AUTHORS = {
    "backbone.0.0.proj.weight": "lvt",
    "backbone.patch_embed1.proj.weight": "pvt",
    "patch_embed1.proj.weight": "segformer",
}


def load_tensors(
    model: SegModel,
    tensors: Mapping[str, Tensor],
    *,
    origin: str = "the checkpoint",
    reset_head: bool | Literal["if-needed"] = False,
) -> None:
    """Put a checkpoint in any known naming into a network.

    A file without a head (ImageNet weights) leaves the head new. A classifier for another number of classes
    is left new only with `reset_head`, which True does to any classifier and "if-needed" to no other. Raises
    ValueError with both shapes where the architecture differs, and with the first names of the tensors that are
    missing or unexpected.
    """
    own, origin, name = model.state_dict(), printable(origin, 120), model.spec.name
    given = fit_shapes(to_own_names(tensors, family_of(name)), own)
    wrong = [n for n in own if n in given and given[n].shape != own[n].shape]
    left_new: tuple[str, ...] = ()
    if reset_head is True or (reset_head == "if-needed" and f"{CLASSIFIER}weight" in wrong):
        given = {n: tensor for n, tensor in given.items() if not n.startswith(CLASSIFIER)}
        wrong = [n for n in wrong if n in given]
        left_new = (CLASSIFIER,)
    if not any(n.startswith("head.") for n in given):
        left_new = ("head.",)
    if wrong:
        differ = "; ".join(
            f"{printable(n)} has {printable(tuple(given[n].shape), 30)} there, {tuple(own[n].shape)} here"
            for n in wrong[:SHOWN]
        )
        if all(n.startswith(CLASSIFIER) and given[n].shape[:1] != own[n].shape[:1] for n in wrong):
            raise ValueError(
                f"{origin} was trained on another number of classes: {differ}; pass reset_head=True to begin with a "
                "new classifier, or num_classes as in the file"
            )
        raise ValueError(f"{origin} is not a {name}: {len(wrong)} tensors differ: {differ}")
    missing = [n for n in own if n not in given and not n.startswith(left_new)]
    unexpected = [n for n in given if n not in own]
    if missing or unexpected:
        raise ValueError(
            f"{origin} does not fit {name}: missing {listed(missing) or 'nothing'}; "
            f"unexpected {listed(unexpected) or 'nothing'}"
        )
    model.load_state_dict({n: tensor.to(own[n].dtype) for n, tensor in given.items()}, strict=False)


def infer_network(tensors: Mapping[str, Tensor]) -> tuple[str, int, dict[str, Any]]:
    """Name, number of classes and options of the network that a checkpoint in the authors' naming belongs to.

    Raises ValueError where no network of this library has these shapes.
    """
    network = find_authors_network(tensors)
    family = AUTHORS[str(network.sign)]
    given = to_own_names(network.tensors, family)
    if f"{CLASSIFIER}weight" not in given:
        raise ValueError("the checkpoint holds no segmentation head: pass it to create_model(...)")
    num_classes = given[f"{CLASSIFIER}weight"].shape[0]
    if family == "lvt":
        return "lvt", num_classes, {}
    # PVTv2's sizes have the same widths and depths as SegFormer's.
    blocks = [re.search(r"stages\.(\d)\.blocks\.(\d+)\.norm1\.weight", name) for name in given]
    widths = [(int(found[1]), given[found.string].shape[0]) for found in blocks if found]
    depths = tuple(sum(stage == i for stage, _ in widths) for i in range(4))
    channels = tuple(dict(widths).get(i, 0) for i in range(4))
    name = next((n for n, v in SEGFORMERS.items() if (v.channels, v.depths) == (channels, depths)), None)
    if name is None:
        raise ValueError(f"no known network has widths {channels} and depths {depths}")
    name = name if family == "segformer" else name.replace("segformer", "pvt_v2")
    return name, num_classes, add_options(name, {}, head_options(name, given), "the checkpoint")


def head_options(name: str, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of a network's all-MLP head that its tensors, under this library's names, show."""
    fuse, family = own.get("head.fuse.weight"), family_of(name)
    if fuse is None or not fuse.ndim or family not in ("segformer", "timm"):
        return {}
    normed = {"normed_projections": "head.projection_norms.0.weight" in own} if family == "segformer" else {}
    return {"decoder_channels": fuse.shape[0], **normed}


def add_options(name: str, given: Mapping[str, Any], found: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The given options and those found in a checkpoint that are not usual; ValueError where they contradict."""
    variant = SEGFORMERS.get(name)
    usual = {
        "decoder_channels": variant.decoder_channels if variant else 256,
        "normed_projections": False,
        "num_heads": NUM_HEADS,
        "norm_eps": NORM_EPS,
    }
    options = dict(given)
    for key, value in found.items():
        asked = options.get(key)
        if asked is None and value != usual[key]:
            options[key] = value
        elif asked is not None and (tuple(asked) if isinstance(asked, list) else asked) != value:
            raise ValueError(
                f"{key}={asked!r} contradicts {printable(origin, LONG)}, which has {value!r}: leave the option out"
            )
    return options


def find_authors_network(tensors: Mapping[str, Tensor]) -> Network:
    """The network in a checkpoint of the authors. Raises ValueError where there is none."""
    network = find_network(tensors, AUTHORS)
    if network.sign is None:
        raise ValueError(
            f"not a checkpoint of the TransKD authors: it should hold one of {listed(AUTHORS)}, but has "
            f"{listed(tensors)}"
        )
    return network


# --- `create_model`: from a name to a network. Heavy libraries are imported only where a network needs them.

NO_OPTIONS = ("name", "num_classes", "timm_pretrained")
PVT_NAMES = tuple(f"pvt_v2_b{i}" for i in range(6))


def list_models() -> list[str]:
    """The names that `create_model` builds; besides them it takes "timm:<backbone>".

    >>> list_models()[:2]
    ['segformer_b0', 'segformer_b1']
    """
    return [*SEGFORMERS, *PVT_NAMES, "lvt"]


def create_model(
    name: str,
    num_classes: int,
    *,
    pretrained: str | Path | None = None,
    reset_head: bool | Literal["if-needed"] = False,
    **options: Any,
) -> SegModel:
    """Build a network for `num_classes` classes, with new weights unless `pretrained` says where to take
    them.

    - name: one of `list_models()`, or "timm:<backbone>".
    - pretrained: a file or folder in any known naming (ours, the TransKD authors', NVIDIA's, Hugging Face's,
      mmsegmentation's, timm's), "hub:<repo id>", or "timm" for timm's own ImageNet weights of the backbone.
      What its network is wrapped in (data-parallel training, torch.compile, Lightning, a distiller) is seen
      through: a student is taken before a teacher, a network before its moving average (EMA). Where it holds no
      segmentation head (ImageNet weights), the head is new.
    - reset_head: begin with a new classifier, for weights trained on other classes; "if-needed" does so only where
      their number differs.
    - options: the keyword options of the network's class, for instance drop_path=0.0; they are kept in
      `spec.options`. Those that the weights need (the head's width, the number of attention heads …) are read
      from `pretrained`.

    Raises ValueError for a name, class count or option that does not exist, for an option that contradicts the
    weights and for weights that do not fit, FileNotFoundError for weights that are not there.

    >>> create_model("segformer_b0", 19).spec.channels
    (32, 64, 160, 256)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if name in SEGFORMERS:
        network: Any = SegFormer
    elif name == "lvt":
        network = LVT
    elif name in PVT_NAMES:
        network = import_module("transkd_lite.models.pyramid").PVTv2
    elif name.startswith("timm:"):
        network = import_module("transkd_lite.models.pyramid").Pyramid
    else:
        raise ValueError(
            f"unknown network {printable(name)!r}; choose one of {', '.join(list_models())} or timm:<backbone>"
        )
    tensors: dict[str, Tensor] | None = None
    hidden = {"timm_pretrained": True} if pretrained == "timm" and name.startswith("timm:") else {}
    if pretrained is not None and not hidden:
        tensors, found = _read_pretrained(name, pretrained)
        options = add_options(name, options, found, str(pretrained))
    known = [p for p in inspect.signature(network).parameters if p not in NO_OPTIONS]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {listed(unknown)}; its options are {', '.join(known)}")
    model = network(name, num_classes, **options, **hidden)
    model.spec = dataclasses.replace(model.spec, options=options)
    if tensors is not None:
        load_tensors(model, tensors, origin=str(pretrained), reset_head=reset_head)
    return model


def _read_pretrained(name: str, pretrained: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, under this library's names, and the options that they need."""
    family = family_of(name)
    if pretrained == "timm":
        if family != "pvt":
            raise ValueError(f"timm has no weights for {name}: give a path or for instance hub:nvidia/mit-b0")
        return to_own_names(import_module("transkd_lite.models.pyramid").timm_weights(name), family), {}
    path = locate(pretrained)
    tensors = read_tensors(path)
    own = to_own_names(tensors, family)
    found = head_options(name, own)
    if family == "segformer" and any("patch_embeddings." in tensor for tensor in tensors):
        file = (path if path.is_dir() else path.parent) / "config.json"
        found |= read_options(name, read_json(file) if file.is_file() else {}, str(file))
    elif path.is_file() and (metadata := read_metadata(path)):
        options = ModelSpec.from_json(json.dumps(metadata["spec"])).options
        found |= {key: options[key] for key in ("num_heads", "norm_eps") if key in options}
    return own, found


# --- Our own files: one safetensors file a network, its spec in the metadata.


def save_model(
    model: nn.Module, path: str | Path, *, dtype: torch.dtype | None = None, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a network as one safetensors file that needs no other argument to be read.

    The metadata hold its spec and, where its `label_space` is known, names and colours of its classes.

    - model: a network of `create_model`, also compiled or wrapped for parallel training.
    - dtype: store floating-point tensors in this type (torch.float16 halves the file); None keeps theirs.
    - provenance: anything that JSON can hold, kept in the metadata beside the spec.

    The file appears whole or not at all. Returns its path.
    """
    model = bare_network(model)
    tensors = {
        plain_name(name): tensor.to(dtype or tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    metadata = {"spec": dataclasses.asdict(model.spec), "provenance": dict(provenance or {})}
    if model.label_space is not None:
        metadata |= json.loads(model.label_space.to_json())
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(metadata)})
    return Path(path)


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> SegModel:
    """Read what `save_model` wrote: a network in evaluation mode, its weights in float32, with its `label_space`.

    Raises FileNotFoundError, and ValueError where the file is not whole or carries no spec.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {printable(path, 400)}")
    metadata = read_metadata(path)
    if not metadata:
        raise ValueError(
            f"{printable(path, LONG)} carries no spec of this library: give it to create_model as pretrained"
        )
    spec = ModelSpec.from_json(json.dumps(metadata["spec"]))
    model = create_model(spec.name, spec.num_classes, **spec.options)
    load_tensors(model, read_tensors(path), origin=str(path))
    if "label_space" in metadata:
        model.label_space = LabelSpace.from_json(json.dumps(metadata))
    return model.to(device).eval()


# --- A SegFormer as a Hugging Face folder: config.json and model.safetensors in the classic naming.
#
# `transformers.SegformerForSemanticSegmentation.from_pretrained(folder)` opens what `save_huggingface` writes. Its
# LayerNorms use eps 1e-5 everywhere, so logits agree to about 1e-5 of their scale, not to the last bit.

# What no option changes here. Other keys name classes or concern training alone, such as rates of dropout.
_FIXED = [
    *("num_channels", "num_encoder_blocks", "depths", "hidden_sizes", "sr_ratios", "patch_sizes", "strides"),
    *("mlp_ratios", "hidden_act", "reshape_last_stage"),
]
TRANSFORMERS_EPS = 1e-5


def read_options(name: str, config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The options of the SegFormer `name` that weights in transformers' naming need.

    - config: what stands in config.json; empty where there is none.

    transformers computes all LayerNorms with eps 1e-5, whatever layer_norm_eps says, and so does a network read
    from files that it wrote. Raises ValueError, with the key, for a network that this library does not build.
    """
    channels, depths = SEGFORMERS[name].channels, SEGFORMERS[name].depths
    usual = _config(ModelSpec(name, channels, num_heads=NUM_HEADS, depths=depths), [])
    given = usual | dict(config)
    needed = {key: usual[key] for key in _FIXED if given[key] != usual[key]}
    if not segformer.heads_fit(given["num_attention_heads"], channels):
        needed["num_attention_heads"] = f"divisors of {list(channels)}"
    if given["layer_norm_eps"] not in (NORM_EPS, TRANSFORMERS_EPS):
        needed["layer_norm_eps"] = f"{NORM_EPS} or {TRANSFORMERS_EPS}"
    if needed:
        key, value = next(iter(needed.items()))
        raise ValueError(
            f"{printable(origin, LONG)} has {key} = {printable(json.dumps(given[key]), 80)}, but {name} needs {value}: "
            "choose the network that the file belongs to, or run this one in transformers"
        )
    theirs = not config or "transformers_version" in config
    eps = TRANSFORMERS_EPS if theirs else given["layer_norm_eps"]
    return {"num_heads": tuple(given["num_attention_heads"]), "norm_eps": eps}


def save_huggingface(model: nn.Module, folder: str | Path, *, class_names: Sequence[str] | None = None) -> Path:
    """Write config.json and model.safetensors into `folder`. Returns it.

    - class_names: one a class, in train-id order; "class_0" … where they are not given.

    Raises ValueError for networks that transformers has no SegFormer for and for a wrong number of names.
    """
    model = bare_network(model)
    spec = model.spec
    if not isinstance(model, SegFormer) or model.head.projection_norms is not None:
        raise ValueError(f"{spec.name} is no SegFormer with linear projections in its head, which transformers has")
    names = list(class_names or (f"class_{i}" for i in range(spec.num_classes)))
    if len(names) != spec.num_classes:
        raise ValueError(f"class_names must have {spec.num_classes} entries, got {len(names)}")
    tensors = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    for name in [name for name in tensors if ".attn.kv." in name]:  # two layers there
        keys, values = tensors.pop(name).chunk(2)
        tensors |= {name.replace(".kv.", ".k."): keys, name.replace(".kv.", ".v."): values}
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", rename(tensors, TO_HUGGINGFACE), {"format": "pt"})
    atomic_write(folder / "config.json", json.dumps(_config(spec, names), indent=2) + "\n")
    return folder


def _config(spec: ModelSpec, names: list[str]) -> dict[str, Any]:
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "num_channels": 3,
        "num_encoder_blocks": len(spec.depths),
        "depths": list(spec.depths),
        "hidden_sizes": list(spec.channels),
        "num_attention_heads": list(spec.num_heads),
        "sr_ratios": list(segformer.REDUCTIONS),
        "patch_sizes": list(segformer.PATCH_SIZES),
        "strides": list(segformer.PATCH_STRIDES),
        "mlp_ratios": [segformer.MLP_RATIO] * len(spec.depths),
        "decoder_hidden_size": spec.decoder_channels,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "drop_path_rate": 0.1,
        "layer_norm_eps": spec.options.get("norm_eps", NORM_EPS),
        "reshape_last_stage": True,
        "semantic_loss_ignore_index": 255,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
