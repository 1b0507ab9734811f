"""Guards: any timm pyramid gives what distillation needs, and what cannot serve is named with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transkd_lite.distill.methods import create_method
from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import create_model, load_model, save_model

SIZE = (64, 128)
Channels = tuple[int, int, int, int]
# The widths, the modules that give the embeddings, and what both sides of an image must be divisible by.
BACKBONES: dict[str, tuple[Channels, list[str], int]] = {
    "convnextv2_atto": (
        (40, 80, 160, 320),
        ["stem_1", "stages_1.downsample", "stages_2.downsample", "stages_3.downsample"],
        1,
    ),
    "inception_next_atto": (
        (40, 80, 160, 320),
        ["stem_1", "stages_1.downsample", "stages_2.downsample", "stages_3.downsample"],
        1,
    ),
    "mambaout_femto": (
        (48, 96, 192, 288),
        ["stem", "stages_1.downsample", "stages_2.downsample", "stages_3.downsample"],
        1,
    ),
    "twins_pcpvt_small": ((64, 128, 320, 512), [f"model.patch_embeds.{i}" for i in range(4)], 1),
    # The keys and values of its stage 3 have the grid and the width of stage 4.
    "twins_svt_small": ((64, 128, 256, 512), [f"model.patch_embeds.{i}" for i in range(4)], 1),
    "efficientvit_b0": ((16, 32, 64, 128), [f"stages_{i}.blocks.0" for i in range(4)], 1),
    "resnet18": ((64, 128, 256, 512), ["maxpool", "layer2.0", "layer3.0", "layer4.0"], 1),
    "regnetx_002": ((24, 56, 152, 368), ["s1.b1.conv2", "s2.b1.conv2", "s3.b1", "s4.b1"], 1),
    "efficientnet_lite0": ((24, 40, 112, 320), ["blocks.1.0", "blocks.2.0", "blocks.4.0", "blocks.6.0.conv_pwl"], 1),
    # At 64x128 a map (16, 32, 64) of its stem looks like (H, W, C) of stage 1.
    "hgnetv2_b0": (
        (64, 256, 512, 1024),
        [f"stages_{i}.blocks.0{'' if i == 2 else '.aggregation.1.conv'}" for i in range(4)],
        1,
    ),
    "mobilevit_xxs": ((24, 48, 64, 320), ["stages_1.0", "stages_2.0", "stages_3.0", "final_conv.conv"], 1),
    "mobilevitv2_050": ((64, 128, 192, 256), [f"stages_{i}.0" for i in range(1, 5)], 64),
    # Six levels, the first of stride 1, and five, the first without a module.
    "dla34": ((64, 128, 256, 512), ["level2.project", "level3.tree1", "level4.tree1", "level5.project"], 32),
    "tresnet_m": ((64, 128, 1024, 2048), ["body_conv1", "body_layer2.0", "body_layer3.0", "body_layer4.0"], 32),
    "sam2_hiera_tiny": (
        (96, 192, 384, 768),
        ["model.patch_embed", "model.blocks.1", "model.blocks.3", "model.blocks.10"],
        32,
    ),
}


@pytest.fixture(scope="module")
def swin() -> SegModel:
    return create_model("timm:swin_tiny_patch4_window7_224", 5, img_size=SIZE).eval()


def check_output(model: SegModel, size: tuple[int, int]) -> None:
    with torch.no_grad():
        output = model(torch.rand(2, 3, *size))
    for feature, embedding, channels, stride in zip(
        output.features, output.embeddings, model.spec.channels, model.spec.strides, strict=True
    ):
        h, w = feature.shape[2:]
        assert h in (size[0] // stride, -(-size[0] // stride))
        assert w in (size[1] // stride, -(-size[1] // stride))
        assert feature.shape[:2] == (2, channels)
        assert embedding.shape == (2, h * w, channels)
    assert output.logits.shape == (2, 5, *output.features[0].shape[2:])


@pytest.mark.parametrize("name", BACKBONES)
def test_widths_strides_and_embeddings_are_those_of_the_backbone(name: str) -> None:
    channels, sources, multiple = BACKBONES[name]
    model = create_model(f"timm:{name}", 5).eval()
    assert model.spec.channels == channels
    assert list(model.sources) == sources
    for size in ((97, 131), (161, 95)) if multiple == 1 else ((64, 192), SIZE):
        check_output(model, size)
    if multiple > 1:
        with pytest.raises(
            ValueError, match=rf"images of \(97, 128\) \(it takes sides divisible by {multiple}\): give"
        ):
            model(torch.rand(1, 3, 97, 128))


def test_swin_is_built_for_the_size_that_is_given(swin: SegModel) -> None:
    assert list(swin.sources) == ["patch_embed", *(f"layers_{i}.downsample" for i in (1, 2, 3))]
    check_output(swin, SIZE)


def test_a_map_with_as_many_rows_and_columns_as_channels_is_not_turned() -> None:
    model = create_model("timm:mambaout_femto", 5).eval()
    images = torch.rand(1, 3, 4 * 48, 4 * 48)
    with torch.no_grad():
        output, maps = model(images), model.backbone(images)
        stem = model.backbone.stem(images)
    assert maps[0].shape == (1, 48, 48, 48)
    torch.testing.assert_close(output.features[0], maps[0].permute(0, 3, 1, 2))
    torch.testing.assert_close(output.embeddings[0], stem.flatten(1, 2))


@pytest.mark.parametrize("name", ["mobilevit_xxs", "twins_svt_small", "hgnetv2_b0"])
def test_a_stage_depends_on_its_embedding_and_no_earlier_stage_does(name: str) -> None:
    model = create_model(f"timm:{name}", 5).eval()
    given = []
    for source in model.sources:
        model.backbone.get_submodule(source).register_forward_hook(lambda m, args, out: given.append(out))
    features = model(torch.rand(1, 3, 96, 160)).features
    for i, output in enumerate(given):
        x = output[0] if isinstance(output, tuple) else output
        gradients = [torch.autograd.grad(f.sum(), x, allow_unused=True, retain_graph=True) for f in features]
        assert [gradient[0] is not None for gradient in gradients] == [j >= i for j in range(4)]


def test_transkd_works_between_a_convolutional_and_a_windowed_pyramid(swin: SegModel) -> None:
    student = create_model("timm:convnextv2_atto", 5)
    distiller = create_method("transkd-base", student, swin)
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        target = swin(images)
    loss = distiller.combine(distiller(images, student(images), target, None))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for n, p in student.named_parameters() if "downsample" in n)


def test_a_saved_pyramid_comes_back(tmp_path: Path) -> None:
    model = create_model("timm:convnextv2_atto", 5, decoder_channels=16).eval()
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert loaded.spec == model.spec
    images = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch16_224",
            r"features at strides \(4, 8, 16, 32\) with its own options .*it has strides \[16\].*choose a hier",
        ),
        ("hrnet_w18_small", "no module that gives a patch embedding of stage 2: choose a hier"),
        ("densenet121", "no module that gives a patch embedding of stage 1"),
        ("inception_v3", r"a map \(192, 71, 71\) of images of \(299, 299\) at stride 4: choose"),
        ("convnextv2_nano_typo", "Unknown model .convnextv2_nano_typo.*choose a hierarchical backbone of timm"),
    ],
)
def test_what_cannot_serve_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create_model(f"timm:{name}", 5)
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize(
    ("img_size", "message"),
    [
        ((64, 128), r"cannot give features .* with {'img_size': \(64, 128\)} \(.*unexpected keyword"),
        (224, r"{'img_size': \(224, 224\)} \(.*: change or omit the options, or choose"),
    ],
)
def test_an_img_size_that_does_not_fit_is_named(img_size, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("timm:convnextv2_atto", 5, img_size=img_size)


def test_a_size_at_which_the_backbone_fails_is_named() -> None:
    model = create_model("timm:mvitv2_tiny", 5).eval()  # its table of relative positions ends at 224 pixels
    with pytest.raises(ValueError, match=r"mvitv2_tiny cannot take images of \(256, 64\) \(.*: give img_size"):
        model(torch.rand(1, 3, 256, 64))


def test_a_fixed_image_size_is_named(swin: SegModel) -> None:
    with pytest.raises(ValueError, match=r"images of \(64, 96\) \(it takes \(64, 128\)\): give img_size"):
        swin(torch.rand(1, 3, 64, 96))


@pytest.mark.slow
def test_without_an_image_size_swin_is_built_for_its_own() -> None:
    model = create_model("timm:swin_tiny_patch4_window7_224", 5)
    with pytest.raises(ValueError, match=r"images of \(64, 128\) \(it takes \(224, 224\)\): give img_size"):
        model(torch.rand(1, 3, *SIZE))
