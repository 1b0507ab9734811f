"""Protects: an ONNX file computes what its network computes, at any size, says what it is, and appears whole."""

import dataclasses
import json
import logging
import warnings

import onnx
import pytest
import torch

import transkd_lite as tk
from transkd_lite.data.labels import CAMVID, CITYSCAPES
from transkd_lite.models import onnx as export
from transkd_lite.models.onnx import OnnxModel, Parity, parity

SMALL = "segformer_b0"


def shallow(name, num_classes, **options):
    """A network with one block in each stage: all of its operators, for half of the exporter's time."""
    model = tk.create_model(name, num_classes, **options)
    for module in model.modules():
        if hasattr(module, "blocks"):
            module.blocks = module.blocks[:1]
    return model


@pytest.fixture(scope="module")
def student():
    """As after a training: its norm has seen images, its maps have biases."""
    torch.manual_seed(0)
    model = shallow(SMALL, 19, decoder_channels=32).train()
    model.head.norm.running_mean.normal_()
    for projection in model.head.projections:
        torch.nn.init.normal_(projection.bias)
    return model


@pytest.fixture(scope="module")
def file(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "new folder" / "student.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tk.export_onnx(student, path, (64, 64), space=CITYSCAPES)


@pytest.fixture(scope="module")
def scenes():
    return tk.open_dataset("streets", "val", num=2, size=(64, 128))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 64, 160), (2, 3, 97, 131), (1, 3, 32, 33)])
def test_any_size_gives_the_networks_logits(student, file, shape):
    found = parity(student, file, torch.randn(shape))
    assert found.holds, found
    assert found.num_positions == shape[0] * -(-shape[2] // 4) * -(-shape[3] // 4)


@pytest.mark.slow
def test_real_scenes_get_the_same_classes_and_scores(student, file, scenes):
    assert parity(student, file, tk.as_batch(scenes["image"])).same_class > 0.999
    ours, theirs = (tk.evaluate(m, scenes).confusion for m in (student, OnnxModel(file, threads=1)))
    # Pixels, not mIoU: where two classes are equal but for the last digit one pixel may be half of a class.
    assert (ours - theirs).abs().sum() < 0.002 * ours.sum()


@pytest.mark.slow
def test_the_network_comes_out_as_it_went_in(student, file):
    assert all(module.training for module in student.modules())
    assert all(p.requires_grad for p in student.parameters())
    assert not student.head.folded


@pytest.mark.slow
def test_the_file_says_what_it_is_and_nothing_about_this_machine(student, file):
    about = OnnxModel(file, threads=1).metadata
    assert about["spec"] == json.loads(json.dumps(dataclasses.asdict(student.spec)))
    assert about["label_space"]["names"][0] == "road"
    assert about["label_space"]["palette"][0] == [128, 64, 128]
    assert OnnxModel(file, threads=1).label_space == CITYSCAPES
    assert about["normalize"]["mean"] == [0.485, 0.456, 0.406]
    proto = onnx.load(file)
    assert [len(p.metadata_props) for p in proto.graph.node] == [0] * len(proto.graph.node)
    assert str(export.__file__).encode() not in file.read_bytes()
    (images,), (logits,) = proto.graph.input, proto.graph.output
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    assert (images.name, logits.name, proto.opset_import[0].version) == ("images", "logits", 20)


@pytest.mark.slow
def test_parity_sees_other_weights(file, scenes):
    other = shallow(SMALL, 19, decoder_channels=32)
    assert not parity(other, file, tk.as_batch(scenes["image"])).holds


@pytest.mark.slow
def test_a_distilled_student_exports_to_the_same_operators(file, tmp_path):
    """Training-only parts never reach the file: the graph after distillation is the graph before."""
    teacher = tk.create_model("segformer_b1", 19)
    kept = shallow(SMALL, 19, decoder_channels=32)
    method = tk.create_method("transkd-ea", kept, teacher)
    images = torch.randn(2, 3, 64, 64)
    method.combine(method(images, kept(images), teacher.eval()(images))).backward()
    distilled = tk.export_onnx(kept, tmp_path / "distilled.onnx", (64, 64))
    # Operators and what they give; weights that happen to be equal, as new ones are, share a name as inputs.
    alone, after = ([(n.op_type, list(n.output)) for n in onnx.load(path).graph.node] for path in (file, distilled))
    assert alone == after


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pvt_v2_b0", "lvt", "timm:convnextv2_atto"])
def test_every_family_can_be_exported(name, tmp_path):
    model = shallow(name, 5)
    path = tk.export_onnx(model, tmp_path / "model.onnx", (64, 96), opset=18 if name == "lvt" else 21)
    assert parity(model, path, torch.randn(1, 3, 128, 64)).holds
    assert onnx.load(path).opset_import[0].version == (18 if name == "lvt" else 21)


@pytest.mark.slow
def test_the_folded_head_is_the_same_function_for_less_work(student, file, tmp_path):
    plain = tk.export_onnx(student, tmp_path / "plain.onnx", (64, 64), dynamic=False, fold_head=False)
    images = torch.randn(2, 3, 64, 64)
    assert all(parity(student, path, images).holds for path in (file, plain))
    folded, whole = (OnnxModel(path, threads=1)(images).logits for path in (file, plain))
    torch.testing.assert_close(folded, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    for path, num in ((file, 0), (plain, 1)):
        fusing = [w for w in onnx.load(path).graph.initializer if list(w.dims) == [32, 4 * 32, 1, 1]]
        assert len(fusing) == num


@pytest.mark.slow
def test_a_head_with_norms_between_its_maps_is_left_alone(tmp_path):
    model = shallow(SMALL, 5, decoder_channels=32, normed_projections=True)
    path = tk.export_onnx(model, tmp_path / "a.onnx", (64, 64), dynamic=False)
    assert parity(model, path, torch.randn(1, 3, 64, 64)).holds


def test_an_opset_that_the_exporter_does_not_write_is_refused(student, tmp_path, monkeypatch):
    """It leaves a graph as it is where it cannot convert it."""
    left = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 18)])
    monkeypatch.setattr(export, "_traced", lambda *arguments: left)
    with pytest.raises(ValueError, match="opset must be one that the exporter writes, such as 18 to 23; 15 came as 18"):
        tk.export_onnx(student, tmp_path / "a.onnx", (64, 64), opset=15)
    assert not (tmp_path / "a.onnx").exists()
    path = tk.export_onnx(student, tmp_path / "a.onnx", (64, 64), opset=18, normalize=False, parameters={"height": 64})
    (kept,) = (json.loads(entry.value) for entry in onnx.load(path).metadata_props)
    assert kept["parameters"] == {"height": 64, "normalize": False}


@pytest.mark.parametrize("name", ["student.pt", "student", "onnx"])
def test_a_file_of_another_suffix_is_refused(student, tmp_path, name):
    with pytest.raises(ValueError, match=r"an ONNX file is named \*\.onnx, got .*write "):
        tk.export_onnx(student, tmp_path / name, (64, 64))


@pytest.mark.parametrize("size", [64, (64,), (64, 64, 3), (63, 64), (64.0, 64.0), "64", (0, 64)])
def test_a_size_that_is_no_pair_is_refused(student, tmp_path, size):
    with pytest.raises(ValueError, match="size must be two whole numbers"):
        tk.export_onnx(student, tmp_path / "a.onnx", size)


def test_names_of_more_classes_than_logits_are_refused(tmp_path):
    model = tk.create_model(SMALL, 5)
    with pytest.raises(ValueError, match="space names 11 classes, but segformer_b0 has 5"):
        tk.export_onnx(model, tmp_path / "a.onnx", (64, 64), space=CAMVID)


class Stubborn(tk.SegModel):
    """Looks at values, which no graph can."""

    def __init__(self):
        super().__init__()
        self.spec = tk.create_model(SMALL, 5).spec
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        if images.sum().item() > 0:
            images = images * 2
        return tk.SegOutput(images * self.weight, (), ())


def test_what_cannot_be_exported_says_so_and_leaves_nothing(tmp_path, capfd):
    path = tmp_path / "a.onnx"
    path.write_text("an older file")
    level = logging.root.manager.disable
    with pytest.raises(RuntimeError, match="segformer_b0 at 64x64 cannot be exported to ONNX"):
        tk.export_onnx(Stubborn(), path, (64, 64))
    assert path.read_text() == "an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    assert logging.root.manager.disable == level
    assert capfd.readouterr() == ("", "")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.onnx"):
        OnnxModel(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is not an ONNX file that can run"):
        OnnxModel(tmp_path / "a.onnx")


def test_a_foreign_onnx_file_is_refused(tmp_path):
    box = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("images", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["logits"])], "g", box[:1], box[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="carries no spec of this library"):
        OnnxModel(tmp_path / "a.onnx")


def test_parity_holds_up_to_a_thousandth_of_the_largest_logit():
    assert Parity(0.009, 10.0, 1.0, 4).holds
    assert not Parity(0.011, 10.0, 1.0, 4).holds
    assert "99.500% of 1,000 positions" in str(Parity(0.011, 10.0, 0.995, 1000))
