"""Guards: any timm pyramid gives what distillation needs, and what cannot serve is named with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transkd_lite.distill import create_method
from transkd_lite.models import SegModel, create_model, load_model, save_model

SIZE = (64, 128)
BACKBONES = {
    "convnextv2_atto": ["stem_1", "stages_1.downsample", "stages_2.downsample", "stages_3.downsample"],
    "swin_tiny_patch4_window7_224": [
        "patch_embed",
        "layers_1.downsample",
        "layers_2.downsample",
        "layers_3.downsample",
    ],
    "twins_pcpvt_small": [f"model.patch_embeds.{i}" for i in range(4)],
    "efficientvit_b0": [f"stages_{i}.blocks.0" for i in range(4)],
    "resnet18": ["maxpool", "layer2.0", "layer3.0", "layer4.0"],
}


@pytest.fixture(scope="module")
def swin() -> SegModel:
    return create_model("timm:swin_tiny_patch4_window7_224", 5, img_size=SIZE).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_embeddings_come_from_the_layer_that_lowers_the_resolution(name: str, swin: SegModel) -> None:
    sources = BACKBONES[name]
    model = swin if "swin" in name else create_model(f"timm:{name}", 5).eval()
    assert model.sources == sources
    with torch.no_grad():
        output = model(torch.rand(1, 3, *SIZE))
    assert output.logits.shape == (1, 5, 16, 32)
    for feature, embedding, channels, stride in zip(
        output.features, output.embeddings, model.spec.channels, model.spec.strides, strict=True
    ):
        assert feature.shape == (1, channels, SIZE[0] // stride, SIZE[1] // stride)
        assert embedding.shape == (1, feature[0, 0].numel(), channels)


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
            "timm:vit_tiny_patch16_224",
            r"features at strides \[16, 16, 16\], but a pyramid needs \[4, 8, 16, 32\]",
        ),
        (
            "timm:convnextv2_nano_typo",
            "timm has no backbone 'convnextv2_nano_typo'; it has for instance convnext",
        ),
    ],
)
def test_what_cannot_serve_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, 5)


def test_a_fixed_image_size_is_named(swin: SegModel) -> None:
    with pytest.raises(ValueError, match=r"built for images of \(64, 128\), got \(64, 96\): give img_size"):
        swin(torch.rand(1, 3, 64, 96))


@pytest.mark.slow
def test_without_an_image_size_swin_is_built_for_its_own() -> None:
    model = create_model("timm:swin_tiny_patch4_window7_224", 5)
    with pytest.raises(ValueError, match=r"built for images of \(224, 224\), got \(64, 128\): give img_size"):
        model(torch.rand(1, 3, *SIZE))
