"""`export` through the real command: the file gives what the checkpoint gives, and a bad one is not called good."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import busy, data_module, one_sentence, save_checkpoint, tree
from torch import nn
from torchvision.ops import nms

from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from tasks.classification.__main__ import main as classification
from tasks.classification.module import ClassificationModule
from tasks.classification.predict import load
from tasks.deployment import command
from tasks.deployment.artifact import open_artifact
from tasks.deployment.onnx_file import write_onnx
from tasks.deployment.suppression import onnx_suppress, suppress
from tasks.detection.__main__ import main as detection
from tasks.detection.module import DetectionModule
from tasks.detection.predict import load as load_detector
from tasks.run import Model

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
SIDE, CLASSES = 64, ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def net():
    """A classifier of random weights that tells apart patterns of noise."""
    torch.manual_seed(0)
    module = ClassificationModule(dict(enumerate(CLASSES)), (SIDE, SIDE), width_mult=0.25).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        linear = module.head.layers.linear
        linear.weight.normal_(0, 1, generator=generator)
        images = [noise(i) for i in range(60)]
        logits = module(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        linear.bias -= logits.mean(0)
        linear.weight /= logits.std(0).mean()
        linear.bias /= logits.std(0).mean()
    return module


def noise(i):
    generator = np.random.default_rng(i)
    small = generator.integers(0, 256, (8, 8, 3)) * generator.random(3)
    return np.kron(small, np.ones((SIDE // 8, SIDE // 8, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(net, tmp_path_factory):
    """A checkpoint, and images whose labels are what the net says of them: its top-1 accuracy is 1."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("export")
    with torch.no_grad():
        labels = net(torch.from_numpy(np.stack([noise(i) for i in range(60)])).permute(0, 3, 1, 2)).argmax(1).tolist()
    assert len(set(labels)) == 3
    for i, label in enumerate(labels):
        path = folder / "data" / ("train" if i < 20 else "val") / CLASSES[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i)).save(path)
    data = data_module(ClassificationDataModule, folder / "data", image_size=SIDE, central_fraction=1.0)
    return save_checkpoint(folder / "net.ckpt", net, data)


def export(main, *args):
    return main(["export", *map(str, args)])


@pytest.mark.slow
def test_the_file_gives_what_the_checkpoint_gives(trained, capsys):
    before = tree(trained.parent)
    for name in ("net.onnx.rejected", "net.onnx.rejected.json"):
        Path(name).write_text("of an export before")
    assert export(classification, "--ckpt_path", trained, "--out", "net.onnx") == 0
    printed = capsys.readouterr().out
    assert "1.0000 in PyTorch, 1.0000 in the file (40 images)" in printed
    assert printed.splitlines()[-2:] == [
        "next: python -m tasks.classification benchmark net.onnx",
        "      python -m tasks.run net.onnx photo.jpg",
    ]
    assert sorted(path.name for path in Path().iterdir()) == ["net.onnx", "net.onnx.json"]
    assert tree(trained.parent) == before
    model = onnx.load("net.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    [images] = model.graph.input
    batch, *rest = images.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [side.dim_value for side in rest] == [SIDE, SIDE, 3]
    artifact, predictor = open_artifact(Path("net.onnx")), load(trained)
    facts = json.loads(Path("net.onnx.json").read_text())
    assert artifact.metadata == facts
    assert (facts["task"], facts["precision"], facts["image_size"]) == ("classification", "float32", [SIDE, SIDE])
    assert (facts["names"], facts["outputs"]) == (list(CLASSES), ["probabilities"])
    assert facts["resize"]["crop"] == 1
    assert facts["resize"]["draft_at_least"] == [round(2.6 * SIDE)] * 2
    assert facts["normalisation"]["mean"] == [0.5, 0.5, 0.5]
    assert facts["metrics"] == {"metric": "top1", "split": "val", "images": 40, "pytorch": 1, "file": 1}
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert facts["source"] == {"file": "net.ckpt", "sha256": command.digest_of(trained)}
    pixels = np.stack([noise(i) for i in range(60, 63)])
    for image, row in zip(pixels, artifact.run(pixels)["probabilities"], strict=True):
        result = predictor(image, top=3)
        assert np.allclose([row[CLASSES.index(name)] for name in result.names], result.probabilities, atol=1e-5)


@pytest.mark.slow
def test_int8_keeps_the_better_calibration(trained, capsys):
    assert export(classification, "--ckpt_path", trained, "--int8", "--max_loss", 0.1) == 0
    facts = json.loads(Path("classification_int8.onnx.json").read_text())
    assert facts["precision"] == "int8"
    assert facts["calibration"]["images"] == 20
    printed = capsys.readouterr().out
    figures = [float(line.split("PyTorch, ")[1].split()[0]) for line in printed.splitlines() if " by " in line]
    assert len(figures) == 2
    assert facts["metrics"]["file"] == pytest.approx(max(figures), abs=1e-4)
    model = onnx.load("classification_int8.onnx")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert sum(types.get(name) == onnx.TensorProto.INT8 for name in weights) == 28  # 27 convolutions, one linear layer


@pytest.mark.slow
def test_a_broken_calibration_is_rejected(trained, monkeypatch, capsys):
    shutil.copy(trained, "classification_int8.onnx")  # what is there stays
    before = Path("classification_int8.onnx").read_bytes()
    real = command.evaluation_images

    def black(data, split, most):
        for images in real(data, split, most):
            yield torch.zeros_like(images) if split == "train" else images

    monkeypatch.setattr(command, "evaluation_images", black)
    assert export(classification, "--ckpt_path", trained, "--int8") == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1.0000 in PyTorch" in error
    assert Path("classification_int8.onnx").read_bytes() == before
    facts = json.loads(Path("classification_int8.onnx.rejected.json").read_text())
    assert facts["metrics"]["pytorch"] == 1
    assert facts["metrics"]["file"] < 0.9
    assert Path("classification_int8.onnx.rejected").stat().st_size > 100_000
    assert not Path("classification_int8.onnx.json").exists()


@pytest.mark.slow
def test_int8_is_not_called_good_where_the_network_itself_finds_nothing(trained, tmp_path, monkeypatch, capsys):
    """Every label is wrong, so that the file cannot lose anything, whatever is wrong with it."""
    for split, count in (("train", 2), ("val", 40)):
        for place in range(3):
            (tmp_path / "wrong" / split / CLASSES[(place + 1) % 3]).mkdir(parents=True)
            for file in sorted((trained.parent / "data" / split / CLASSES[place]).iterdir())[:count]:
                shutil.copy(file, tmp_path / "wrong" / split / CLASSES[(place + 1) % 3])
    monkeypatch.setattr(command.onnx_file, "quantize_onnx", lambda source, path, *_: shutil.copy(source, path))
    assert export(classification, "--ckpt_path", trained, "--data.root", tmp_path / "wrong", "--int8") == 3
    assert "0.0000 in PyTorch, 0.0000 in the file" in capsys.readouterr().err
    assert not Path("classification_int8.onnx").exists()


def test_data_of_other_classes_are_told_by_both_lists(trained, write_classes, tmp_path, capsys):
    others = write_classes(tmp_path / "others", {"train": 1, "val": 1})
    assert export(classification, "--ckpt_path", trained, "--data.root", others) == 2
    error = capsys.readouterr().err
    assert "ant" in error
    assert "cross" in error


def test_a_full_disk_is_told_where_onnx_says_something_else(tmp_path, monkeypatch):
    def stumble(*args, **options):
        raise ValueError("Wire format was corrupt")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", stumble)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="corrupt"):
        command.onnx_file.quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", [], "minmax")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5))
    with pytest.raises(OSError, match="No space left"):
        command.onnx_file.quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", [], "minmax")


@pytest.mark.slow
def test_a_float_file_of_other_weights_is_rejected(trained, monkeypatch):
    def other(network, path):
        with torch.no_grad():
            network.head.layers.linear.bias += torch.tensor([1e-3, 0, 0])
            write_onnx(network, path)
            network.head.layers.linear.bias -= torch.tensor([1e-3, 0, 0])

    monkeypatch.setattr(command.onnx_file, "write_onnx", other)
    assert export(classification, "--ckpt_path", trained, "--max_loss", 1) == 3
    assert not Path("classification.onnx").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "nowhere/net.onnx"], "nowhere/net.onnx"),
        (["--out", "net.tflite"], r"\.onnx"),
        (["--format", "executorch", "--out", "net.onnx"], r"\.pte"),
        (["--qat", "2"], "--int8"),
        (["--max_loss", "nan"], "--max_loss"),
        (["--data.rot", "x"], r"--data\.root"),
        (["--ckpt_path", "no.ckpt"], r"no\.ckpt"),
        ([], r"classification fit"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(args, message, capsys):
    assert export(classification, *args) == 2
    assert message.replace("\\", "") in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_without_onnx_a_sentence_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with one_sentence(r"onnxscript.*\.\[onnx\]"):
        command.onnx_file.check_installed()


class _Suppression(nn.Module):
    def forward(self, boxes, scores):
        return suppress(boxes, scores, 0.5, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3])
def test_suppression_in_the_file_is_torchvision_s(images):
    """Boxes that overlap, many of equal scores; of the third image none is good enough."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(images, 400, 2, generator=generator) * 64
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(images, 400, 2, generator=generator)], 2)
    scores = (torch.rand(images, 400, generator=generator) * 50).round() / 50
    scores = scores.sort(dim=1, descending=True).values
    scores[2:] = 0.3
    batch, table = torch.export.Dim("batch", min=1, max=64), {torch.ops.mobilenet_tasks.suppress.default: onnx_suppress}
    shapes = {"boxes": {0: batch}, "scores": {0: batch}}
    example = torch.zeros(2, 400, 4), torch.zeros(2, 400)
    program = torch.export.export(_Suppression(), example, dynamic_shapes=shapes)
    torch.onnx.export(program, example, dynamo=True, opset_version=20, custom_translation_table=table).save("nms.onnx")
    session = onnxruntime.InferenceSession("nms.onnx")
    inputs = {one.name: array.numpy() for one, array in zip(session.get_inputs(), (boxes, scores), strict=True)}
    [keep] = session.run(None, inputs)
    assert keep.shape == (images, 400)
    for i in range(images):
        good = int((scores[i] > 0.3).sum())
        expected = nms(boxes[i, :good], scores[i, :good], 0.5)
        assert np.flatnonzero(keep[i]).tolist() == expected.sort().values.tolist()
        assert (len(expected) > 20) == (i < 2)


@pytest.mark.slow
def test_a_detector_s_file_finds_what_the_checkpoint_finds(coco_root, capsys):
    torch.manual_seed(0)
    data = data_module(DetectionDataModule, coco_root, image_size=96)
    module = busy(DetectionModule(data.categories, (96, 96), width_mult=0.25, class_agnostic=True))
    checkpoint = save_checkpoint(Path("net.ckpt"), module, data)
    assert export(detection, "--ckpt_path", checkpoint) == 0
    assert "in PyTorch" in capsys.readouterr().out
    artifact, predictor = open_artifact(Path("detection.onnx")), load_detector(checkpoint)
    assert artifact.metadata["ids"] == list(data.categories)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    answer = artifact.run(pixels)
    for i, image in enumerate(pixels):
        found, count = predictor(image, conf=0.01), int(answer["count"][i])
        assert count == len(found.scores) > 10
        assert np.allclose(answer["scores"][i, :count], found.scores, atol=1e-5)
        assert np.allclose(answer["boxes_xyxy"][i, :count] * 96, found.boxes_xyxy, atol=0.05)
        assert [artifact.metadata["names"][k] for k in answer["labels"][i, :count]] == found.names
    runner = Model("detection.onnx", conf=0.01)
    for file in sorted(coco_root.glob("val/*.png")):  # 128 x 96 px, resized by other code
        found, objects = predictor(file, conf=0.01), runner(file)["objects"]
        assert [one["name"] for one in objects] == found.names
        assert np.allclose([one["score"] for one in objects], found.scores, atol=1e-5)
        assert np.allclose([one["box_xyxy"] for one in objects], found.boxes_xyxy, atol=0.05)
    assert export(detection, "--ckpt_path", checkpoint, "--nms", "none", "--out", "raw.onnx") == 0
    raw = open_artifact(Path("raw.onnx"))
    assert raw.metadata["nms"] == "none"
    assert {name: array.shape for name, array in raw.run(pixels).items()} == {
        "boxes_xyxy": (3, 204, 4),  # 3 * 36 + 6 * (9 + 4 + 1 + 1 + 1)
        "scores": (3, 204, 2),
    }
    assert raw.metadata["metrics"]["file"] == artifact.metadata["metrics"]["file"]


def test_boxes_of_whole_weights_are_scored_by_the_data_s_names():
    module = DetectionModule({7: "Cat", 9: "tvmonitor"}, (SIDE, SIDE), width_mult=0.25)
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]])
    answer = {"boxes_xyxy": boxes, "scores": torch.tensor([[0.9, 0.8, 0.7, 0]]), "count": torch.tensor([3])}
    answer["labels"] = torch.tensor([[2, 0, 1, -1]])
    batch = {"positions": torch.tensor([5]), "sizes": torch.tensor([[100, 200]])}
    module.head.update_from(answer, batch, ["dog", "cat", "tv"])
    positions, [found, scores, labels], counts = module.head.predictions.take()
    assert (positions.tolist(), counts.tolist()) == ([5], [2])
    assert labels.tolist() == [1, 0]  # the dog is none of the data's
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.tolist() == [[0, 0, 100, 50], [0, 0, 200, 100]]
