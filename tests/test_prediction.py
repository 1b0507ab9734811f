"""Prediction agrees with scoring, whatever the sizes of the pictures."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image
from typer.testing import CliRunner

import transkd_lite as tk
from transkd_lite.cli import app
from transkd_lite.data.labels import LabelSpace
from transkd_lite.models.output import describe


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tk.create_model("segformer_b0", 5)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("normalize", [True, False])
def test_predictions_are_what_evaluate_scores(model, normalize):
    images = [picture(64, 96, k) for k in range(3)]
    maps = tk.predict(model, images, normalize=normalize)
    data = [{"image": image, "label": label} for image, label in zip(images, maps, strict=True)]
    # One image at a time, as `predict` takes them: a mini-batch of three may differ in the last digits.
    assert tk.evaluate(model, data, normalize=normalize, batch_size=1).pixel_accuracy == 1.0
    assert len(np.unique(maps)) > 1
    assert tk.evaluate(model, data, normalize=not normalize, batch_size=1).pixel_accuracy < 0.99


def test_a_layer_that_is_frozen_stays_frozen(model):
    frozen = model.train().head.norm.eval()
    tk.predict(model, np.zeros((32, 64, 3), np.uint8))
    assert (model.training, model.head.training, frozen.training) == (True, True, False)


def test_sizes_may_differ_and_the_mode_is_kept(model):
    model.train()
    maps = tk.predict(model, [picture(64, 96), picture(40, 72)])
    assert [m.shape for m in maps] == [(64, 96), (40, 72)]
    assert maps[0].dtype == np.uint8
    assert model.training


def test_a_batch_has_one_size():
    with pytest.raises(ValueError, match=r"pictures of one size.*\(40, 72, 3\).*\(64, 96, 3\)"):
        tk.as_batch([picture(64, 96), picture(40, 72)])
    assert tk.as_batch([picture(64, 96)] * 2).shape == (2, 3, 64, 96)


def test_logits_that_are_no_numbers_give_no_map(model):
    broken = copy.deepcopy(model).train()
    broken.head.classifier.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="every logit must be finite; 128 of 640 are not"):
        tk.predict(broken, [picture(32, 64)])
    assert broken.training


def test_classes_that_a_map_of_8_bits_cannot_tell_from_void_are_refused():
    pictures = [picture(32, 32)]
    wide, most = (tk.create_model("segformer_b0", k, decoder_channels=8) for k in (256, 255))
    most.head.classifier.bias.data[254] = 1e3
    assert np.unique(tk.predict(most, pictures)).tolist() == [254]
    with pytest.raises(ValueError, match="predict takes up to 255 logits; got 256"):
        tk.predict(wide, pictures)


def test_pictures_of_any_kind_alone_or_many(model, tmp_path):
    rgb = picture(32, 64)
    wanted = tk.predict(model, [rgb])[0]
    file = tmp_path / "a.png"
    Image.fromarray(rgb).save(file)
    for one in (rgb, rgb / 255, torch.from_numpy(rgb).permute(2, 0, 1), Image.fromarray(rgb), file, str(file)):
        assert np.array_equal(tk.predict(model, one)[0], wanted)
    for many in (rgb[None], [file], torch.from_numpy(rgb[None]).permute(0, 3, 1, 2)):
        assert np.array_equal(tk.predict(model, many)[0], wanted)
    assert tk.predict(model, rgb[..., 0])[0].shape == (32, 64)
    with pytest.raises(ValueError, match="got uint16"):
        tk.predict(model, rgb.astype(np.uint16) * 256)
    sample = {"image": rgb / 255, "label": wanted}
    assert tk.evaluate(model, [sample]).pixel_accuracy == 1.0, "scored as they are predicted"


def test_the_network_may_see_another_size_than_the_map_has(model):
    """As scored on data that are resized: the same filter before the network, and the map at the picture's own size."""
    photograph = Image.fromarray(picture(60, 130))
    (label,) = tk.predict(model, photograph, size=(64, 96))
    assert label.shape == (60, 130)
    logits = model.eval()(tk.as_batch(photograph.resize((96, 64), Image.Resampling.BILINEAR))).logits
    wanted = torch.nn.functional.interpolate(logits, (60, 130), mode="bilinear").argmax(1)[0]
    assert (label == wanted.numpy()).all()
    assert (tk.predict(model, photograph, size=60)[0] == tk.predict(model, photograph)[0]).all()


# --- `transkd predict`. The network of these tests is an ONNX file that gives a pixel's red, green and blue as logits.

SPACE = LabelSpace(("cherry", "leaf", "a very long name of the bluest sea"), ((200, 0, 0), (0, 150, 0), (0, 0, 90)))
RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def colours_network(path, space=SPACE, shape=("n", 3, "h", "w"), num_classes=3, **more):
    spec = dataclasses.replace(tk.create_model("segformer_b0", 3).spec, num_classes=num_classes)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("images", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["logits"])], "g", *zip(ends))
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    for key, value in describe(spec, space, **({"normalize": None} | more)).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)
    return path


def halves(left, right, size=(64, 40)):
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def call(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def network(tmp_path):
    return colours_network(tmp_path / "colours.onnx")


def test_a_folder_becomes_label_maps_and_overlays_of_the_same_names(network, tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / ".hidden").mkdir()
    (photos / "a folder.png").mkdir()
    halves(RED, BLUE).save(photos / "a.png")
    halves(GREEN, GREEN).save(photos / "sub" / "a.png")
    halves(GREEN, GREEN).save(photos / ".hidden" / "b.png")
    (photos / "notes.txt").write_text("no picture")
    upright = halves(RED, GREEN)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(photos / "turned.jpg", exif=turned, quality=100, subsampling=0)
    done = call(network, photos, "--out", photos / "out")
    assert done.exit_code == 0, done.output
    assert "a.png: cherry 50%, a very long name of the bluest sea 50%\n" in done.output
    written = {path.relative_to(photos / "out").as_posix() for path in (photos / "out").rglob("*.png")}
    names = {"a.png", "sub/a.png", "turned.png"}
    assert written == {f"{kind}/{name}" for kind in ("labels", "overlays") for name in names}
    label = Image.open(photos / "out" / "labels" / "a.png")
    assert (label.mode, label.size) == ("P", (64, 40))
    assert [label.getpixel((x, 20)) for x in (0, 31, 32, 63)] == [0, 0, 2, 2]
    assert label.getpalette()[:9] + label.getpalette()[-3:] == [200, 0, 0, 0, 150, 0, 0, 0, 90, 0, 0, 0]
    turned = np.asarray(Image.open(photos / "out" / "labels" / "turned.png"))
    assert (turned.shape, turned[0, 0], turned[39, 63]) == ((40, 64), 0, 1)
    overlay = Image.open(photos / "out" / "overlays" / "sub" / "a.png")
    assert overlay.getpixel((63, 39)) == (0, 202, 0)  # half of green, half of the leaf's colour
    again = call(network, photos, "--out", photos / "out")
    assert again.exit_code == 2
    assert "a.png is there already: choose another --out, or add --overwrite" in again.output
    halves(BLUE, BLUE).save(photos / "a.png")
    assert call(network, photos, "--out", photos / "out", "--overwrite").exit_code == 0
    assert Image.open(photos / "out" / "labels" / "a.png").getpixel((0, 0)) == 2
    assert len([*(photos / "out").rglob("*.png")]) == 6, "what was written is not taken for pictures"


def test_pictures_that_differ_in_their_suffix_alone_keep_it_and_frames_have_numbers(network, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    halves(RED, RED).save(photos / "a.png")
    halves(GREEN, GREEN).save(photos / "A.bmp")
    halves(BLUE, BLUE).save(photos / "film.gif", save_all=True, append_images=[halves(RED, GREEN)])
    assert call(network, photos, "--out", tmp_path / "out").exit_code == 0
    labels = tmp_path / "out" / "labels"
    found = {path.relative_to(labels).as_posix(): Image.open(path).getpixel((0, 0)) for path in labels.rglob("*.png")}
    assert found == {"a.png.png": 0, "A.bmp.png": 1, "film.gif/00000.png": 2, "film.gif/00001.png": 0}
    again = call(network, photos / "film.gif", "--out", tmp_path / "out")
    assert (again.exit_code, "film.gif is there already" in again.output) == (2, True)


def test_the_size_is_that_of_the_training_or_another(tmp_path):
    """A file for one size alone: what the network was given is seen from what it refuses."""
    Image.new("RGB", (64, 40), GREEN).save(tmp_path / "a.png")
    trained = {"height": 32, "width": 48, "normalize": False}
    network = colours_network(tmp_path / "fixed.onnx", shape=("n", 3, 32, 48), parameters=trained)
    done = call(network, tmp_path / "a.png", "--out", tmp_path / "trained")
    assert "1 of 1 are in" in done.output, done.output
    assert "the network was given them at 32 x 48 (height x width)" in done.output
    assert Image.open(tmp_path / "trained" / "labels" / "a.png").size == (64, 40)
    other = call(network, tmp_path / "a.png", "--out", tmp_path / "other", "--size", 0, 0)
    assert other.exit_code == 1
    assert "have the shape ['n', 3, 32, 48], got [1, 3, 40, 64]: resize them" in other.output
    small = call(network, tmp_path / "a.png", "--out", tmp_path / "other", "--size", 8, 48)
    assert (small.exit_code, "height must be greater than or equal to 32" in small.output) == (2, True)
    assert not (tmp_path / "other").exists()


def test_classes_without_names_are_numbers_and_void_is_255(tmp_path):
    Image.new("RGB", (32, 32), BLUE).save(tmp_path / "a.png")
    nameless = colours_network(tmp_path / "nameless.onnx", space=None)
    assert "a.png: 2 100%" in call(nameless, tmp_path / "a.png", "--out", tmp_path / "numbers").output
    two = LabelSpace(SPACE.names[:2], SPACE.palette[:2])
    call(colours_network(tmp_path / "two.onnx", space=two), tmp_path / "a.png", "--out", tmp_path / "void")
    assert Image.open(tmp_path / "void" / "labels" / "a.png").getextrema() == (255, 255)
    assert Image.open(tmp_path / "void" / "overlays" / "a.png").getpixel((0, 0)) == BLUE


def test_what_cannot_be_segmented_is_named_and_the_rest_is_done(network, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 40), RED).save(photos / "b.png")
    Image.new("RGB", (16, 40), RED).save(photos / "a.jpg")
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    done = call(network, photos, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "a.jpg cannot be read" in done.stderr
    assert "1 of 2 are in" in done.stdout
    assert (tmp_path / "out" / "labels" / "b.png").exists()
    (tmp_path / "clip.mp4").write_bytes(b"film")
    film = call(network, tmp_path / "clip.mp4", "--out", tmp_path / "film")
    assert film.exit_code == 2
    assert "of a video make a folder of pictures: ffmpeg -i VIDEO FOLDER/%05d.png" in film.output
    assert call(network, tmp_path / "nothing", "--out", tmp_path / "film").exit_code == 2
    assert "no weights at" in call(tmp_path / "no.onnx", photos / "b.png", "--out", tmp_path / "film").output


def test_weights_say_how_they_are_used(tmp_path):
    """A file of weights without names: those of its training's data set, the size and the values of its training."""
    torch.manual_seed(0)
    made = {"dataset": "camvid", "height": 32, "width": 64, "normalize": False}
    network = tk.create_model("segformer_b0", 11, decoder_channels=8)
    weights = tk.save_model(network, tmp_path / "w.safetensors", provenance={"parameters": made})
    Image.fromarray(picture(50, 70)).save(tmp_path / "a.png")
    assert call(weights, tmp_path / "a.png", "--out", tmp_path / "out").exit_code == 0
    label = Image.open(tmp_path / "out" / "labels" / "a.png")
    (wanted,) = tk.predict(network, tmp_path / "a.png", normalize=False, size=(32, 64))
    assert (np.asarray(label) == wanted).all()
    assert label.getpalette()[:3] == [128, 128, 128], "the sky of CamVid"
