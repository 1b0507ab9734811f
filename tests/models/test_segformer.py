"""Guards: shapes, options and execution modes of the networks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import create_model, list_models, save_model
from transkd_lite.profiling import count_parameters


@pytest.fixture(scope="module")
def b0() -> SegModel:
    torch.manual_seed(0)
    return create_model("segformer_b0", 7).eval()


def run(model: SegModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).logits


def assert_same_logits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to the rounding of other kernels, which is that of the largest logits also where they are near 0."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0", "lvt"])
@pytest.mark.parametrize("size", [(64, 96), (72, 136), (33, 47)])
def test_shapes_follow_the_spec_for_any_size(name: str, size: tuple[int, int]) -> None:
    model = create_model(name, 5).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size))
    grids = [tuple(-(-side // stride) for side in size) for stride in model.spec.strides]
    assert output.logits.shape == (1, 5, *grids[0])
    for feature, embedding, channels, (h, w) in zip(
        output.features, output.embeddings, model.spec.channels, grids, strict=True
    ):
        assert feature.shape == (1, channels, h, w)
        assert embedding.shape == (1, h * w, channels)


def test_every_listed_network_can_be_built() -> None:
    with torch.device("meta"):
        for name in list_models():
            assert create_model(name, 3).spec.name == name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("segformer_b9", 19), "unknown network 'segformer_b9'; choose one of segformer_b0"),
        (lambda: create_model("segformer_b0", 0), "num_classes must be at least 1, got 0"),
        (lambda: create_model("lvt", 19, colour="red"), "lvt has no option colour; its options are drop_path"),
    ],
)
def test_a_wrong_call_says_what_is_right(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_images_of_another_shape_are_refused(b0: SegModel) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(N, 3, H, W\).*got \(1, 1, 64, 64\)"):
        b0(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"at least 32, got \(1, 3, 16, 64\)"):
        b0(torch.rand(1, 3, 16, 64))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_of_drop_path_that_leaves_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1; got"):
        create_model("segformer_b0", 3, drop_path=rate)


def test_drop_path_acts_in_training_alone() -> None:
    torch.manual_seed(1)
    model = create_model("segformer_b0", 3, drop_path=0.9, head_dropout=0.0)
    images = torch.rand(2, 3, 64, 64)
    assert not torch.equal(model.train()(images).features[3], model(images).features[3])
    assert torch.equal(model.eval()(images).features[3], model(images).features[3])


def recomputed(model: SegModel) -> SegModel:
    """Its blocks store nothing and run again in the backward pass."""
    apply_activation_checkpointing(model, check_fn=lambda module: hasattr(module, "norm1"))
    return model


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0", "lvt"])
def test_activation_checkpointing_changes_no_gradient_and_no_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    plain = create_model(name, 3, drop_path=0.0, head_dropout=0.0)
    again = recomputed(copy.deepcopy(plain))
    for model in (plain, again):
        model(torch.ones(1, 3, 64, 64)).logits.square().mean().backward()
    for parameter, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    files = [save_model(model, tmp_path / f"{i}.safetensors") for i, model in enumerate((plain, again))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_activation_checkpointing_stores_less() -> None:
    def stored(model: SegModel) -> int:
        sizes: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.rand(1, 3, 64, 64))
        return sum(sizes)

    model = create_model("segformer_b0", 3, drop_path=0.0)
    assert stored(recomputed(copy.deepcopy(model))) < 0.7 * stored(model)


def test_compiles_without_a_graph_break(b0: SegModel) -> None:
    images = torch.rand(1, 3, 64, 64)
    compiled = torch.compile(copy.deepcopy(b0), fullgraph=True, backend="eager")
    assert_same_logits(run(compiled, images), run(b0, images))


def test_exports(b0: SegModel) -> None:
    images = torch.rand(2, 3, 64, 96)
    program = torch.export.export(b0, (torch.rand(1, 3, 64, 64),))
    assert_same_logits(program.module()(images[:1, :, :, :64]).logits, run(b0, images[:1, :, :, :64]))


@pytest.mark.slow
def test_exports_for_any_batch_and_size(b0: SegModel) -> None:
    shallow = copy.deepcopy(b0)
    for stage in shallow.stages:
        stage.blocks = stage.blocks[:1]
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(shallow, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(dynamic,))
    images = torch.rand(3, 3, 72, 136)
    assert_same_logits(program.module()(images).logits, run(shallow, images))


def test_channels_last_gives_the_same(b0: SegModel) -> None:
    images = torch.rand(2, 3, 64, 96)
    last = copy.deepcopy(b0).to(memory_format=torch.channels_last)
    assert_same_logits(run(last, images.to(memory_format=torch.channels_last)), run(b0, images))


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0", "lvt"])
def test_bf16_autocast_agrees_within_two_percent(name: str) -> None:
    torch.manual_seed(3)
    model = create_model(name, 19).eval()
    images = torch.rand(1, 3, 64, 96)
    exact = run(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(model, images)
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()


def test_parameters_of_two_modules_are_counted_once() -> None:
    layer = torch.nn.Linear(3, 2)
    assert count_parameters(layer, torch.nn.Sequential(layer)) == 8
