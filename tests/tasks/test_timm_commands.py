"""timm's trunks through the real commands: each kind trained, tested and loaded, with both kinds of head."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

import tasks.classification
import tasks.detection
import tasks.face_attributes
from tasks.classification.__main__ import main as classification
from tasks.classification.module import ClassificationModule
from tasks.detection.__main__ import main as detection
from tasks.detection.module import DetectionModule
from tasks.face_attributes.__main__ import main as face_attributes
from tasks.face_attributes.module import FaceAttributesModule
from tasks.face_embeddings.__main__ import main as face_embeddings
from tasks.geolocalization.__main__ import main as geolocalization
from tasks.geolocalization.module import GeolocalizationModule
from tasks.run_folders import run_order

pytestmark = pytest.mark.slow  # whole commands

# One of each kind: V1, V2 and EfficientNet-Lite are blocks alike, RepViT is reparameterised as MobileOne is; V3 and V4
# have layers between pooling and classifier. Each with one head;
# tests/backbone/test_timm_trunk.py has them all.
KINDS = [
    ("detection", "mobilenetv2_100"),
    ("detection", "mobilenetv3_large_100"),
    ("classification", "mobilenetv4_conv_small"),
    ("classification", "repvit_m0_9"),
]
GIVEN = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true"]
SIX_STEPS = ["--trainer.max_steps", "6", "--trainer.max_epochs", "-1", "--data.batch_size", "2"]
SIX_STEPS += ["--trainer.check_val_every_n_epoch", "100"]


def newest(task):
    return max((path for path in Path("runs", task).iterdir() if not path.is_symlink()), key=run_order)


@pytest.mark.parametrize(("task", "name"), KINDS)
def test_a_kind_is_trained_tested_and_loaded(task, name, coco_root, classes_root):
    main, root = (detection, coco_root) if task == "detection" else (classification, classes_root)
    load, image = getattr(tasks, task).load, next((coco_root / "test").glob("*.png"))
    more = ["--model.head", "ssdlite"] if task == "detection" and name == "mobilenetv2_100" else []
    given = ["--data.root", str(root), "--data.image_size", "64", *GIVEN]
    assert main(["fit", "--model.trunk", f"timm:{name}", *given, *SIX_STEPS, *more]) == 0
    checkpoint = newest(task) / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 6, saved["global_step"]
    assert saved["trunk"]["trunk"] == f"timm:{name}"
    assert saved["trunk"]["numerics"]["preprocessing"]["crop_fraction"] > 0.8
    assert main(["test", *GIVEN]) == 0
    figures = json.loads((newest(task) / "metrics.json").read_text())
    assert 0 <= figures["test/map" if task == "detection" else "test/top1"] <= 1
    result = load(checkpoint)(image)  # in its form for inference
    assert len(result.names) == len(result.scores if task == "detection" else result.probabilities)
    if name == "mobilenetv3_large_100":  # a fit from that checkpoint finds the trunk by itself
        assert main(["fit", "--model.weights", str(checkpoint), *given, "--trainer.max_steps", "1"]) == 0
        config = (newest(task) / "config.yaml").read_text()
        assert f"trunk: timm:{name}" in config


def test_a_classifier_of_timms_is_scored_and_predicts_as_it_is(write_classes, tmp_path):
    root = write_classes(tmp_path / "data", {"train": 2, "test": 2})
    for split in ("train", "test"):
        for folder, name in zip(sorted((root / split).iterdir()), ("beagle", "tabby", "goldfish"), strict=False):
            folder.rename(folder.with_name(name))
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050").eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = ["--model.trunk", "timm:mobilenetv3_small_050", "--model.weights", str(tmp_path / "w.safetensors")]
    assert classification(["test", *weights, "--data.root", str(root), *GIVEN]) == 0
    assert "test/top1" in json.loads((newest("classification") / "metrics.json").read_text())
    assert classification(["predict", *weights, "--source", str(root / "test" / "beagle")]) == 0
    lines = (newest("classification") / "predictions.jsonl").read_text().splitlines()
    classify = tasks.classification.load(tmp_path / "w.safetensors", trunk="timm:mobilenetv3_small_050")
    for line in map(json.loads, lines):
        result = classify(line["file"])
        assert [row["name"] for row in line["classes"]] == result.names
        pixels = classify.pixels(classify.open(line["file"])).float() / 255
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        with torch.no_grad():
            expected = network((pixels - mean[:, None, None]) / std[:, None, None]).softmax(1).max()
        assert result.probabilities[0] == pytest.approx(expected.item(), abs=1e-4)


def test_a_classifier_of_timms_can_be_trained_further_and_tested_from_its_checkpoint(write_classes, tmp_path):
    root = write_classes(tmp_path / "data", {"train": 2, "val": 1, "test": 1})
    for split in ("train", "val", "test"):
        for folder, name in zip(sorted((root / split).iterdir()), ("beagle", "tabby", "goldfish"), strict=False):
            folder.rename(folder.with_name(name))
    save_file(timm.create_model("mobilenetv2_035").state_dict(), tmp_path / "w.safetensors")
    weights = ["--model.trunk", "timm:mobilenetv2_035", "--model.weights", str(tmp_path / "w.safetensors")]
    given = ["--data.root", str(root), "--data.image_size", "64", "--trainer.max_epochs", "1", *GIVEN]
    assert classification(["fit", *weights, "--model.head", "imagenet", *given]) == 0
    checkpoint = newest("classification") / "checkpoints" / "best.ckpt"
    assert classification(["test", *GIVEN]) == 0
    classify = tasks.classification.load(checkpoint)
    assert len(classify.head.names) == 1000
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(classify.head.layers.whole.classifier.weight, state["head.layers.whole.classifier.weight"])


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ClassificationModule, {"image_size": 224, "central_fraction": 0.95, "interpolation": "bicubic"}),
        (GeolocalizationModule, {"image_size": 224, "central_fraction": 0.95, "interpolation": "bicubic"}),
        (FaceAttributesModule, {"interpolation": "bicubic"}),
        (DetectionModule, {}),
    ],
)
def test_images_are_seen_as_weights_of_timms_were_trained_where_nothing_else_is_given(module, expected, tmp_path):
    save_file(timm.create_model("repvit_m0_9").state_dict(), tmp_path / "w.safetensors")
    options = {"trunk": "timm:repvit_m0_9", "weights": str(tmp_path / "w.safetensors")}
    data = {}
    module.resolve("fit", {**options}, data, tmp_path)
    assert data == expected
    data = dict.fromkeys(expected, "given")
    module.resolve("fit", {**options}, data, tmp_path)
    assert data == dict.fromkeys(expected, "given")
    without = {"trunk": "timm:repvit_m0_9"}
    module.resolve("fit", without, data := {}, tmp_path)
    assert data == {}  # what is trained from the start is trained as the data are seen by default
    assert without["numerics"]["preprocessing"]["crop_fraction"] == 0.95


def test_a_student_on_timms_trunk_learns_from_a_teacher_on_timms_trunk(faces_root):
    given = ["--data.root", str(faces_root), "--data.image_size", "64", *GIVEN, "--trainer.max_epochs", "1"]
    small = ["--model.trunk", "timm:mobilenetv3_small_050"]
    assert face_attributes(["fit", *small, *given]) == 0
    teacher = str(newest("face_attributes") / "checkpoints" / "best.ckpt")
    assert face_attributes(["fit", *small, *given, "--model.teacher", teacher, "--model.layer_decay", "0.8"]) == 0
    assert face_attributes(["test", *GIVEN]) == 0
    config = {"teacher": teacher, "students": [{"width_mult": 0.25, "image_size": 32}], "steps": 1}
    config |= {"arms": ["distilled"], "data": {"root": str(faces_root), "num_workers": 0}}
    Path("e.yaml").write_text(yaml.safe_dump(config))
    assert face_attributes(["experiment", "--config", "e.yaml"]) == 0
    models = [line.split(",")[0] for line in Path("runs/face_attributes/e/table.csv").read_text().splitlines()]
    assert models == ["model", "timm:mobilenetv3_small_050-64", "0.25 MobileNet-32"]
    students = ["--model.trunk", "timm:mobilenetv3_small_050", "--model.embedding_size", "8"]
    images = ["--data.root", str(faces_root / "img_align_celeba"), "--data.image_size", "64", *GIVEN]
    assert face_embeddings(["fit", *students, *images, "--model.teacher", teacher, "--trainer.max_epochs", "1"]) == 0
    assert face_embeddings(["test", *GIVEN]) == 0


def test_places_are_learned_on_timms_trunk_with_its_norms_as_they_are_and_the_card_names_it(places_root, tmp_path):
    network = timm.create_model("mobilenetv3_small_050")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = ["--model.trunk", "timm:mobilenetv3_small_050", "--model.weights", str(tmp_path / "w.safetensors")]
    more = ["--model.freeze_norms", "true", "--model.head_steps", "1", "--model.min_images", "1"]
    given = ["--data.root", str(places_root), "--data.image_size", "64", "--trainer.max_epochs", "2", *GIVEN]
    assert geolocalization(["fit", *weights, *more, *given]) == 0
    saved = torch.load(newest("geolocalization") / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["interpolation"] == "bicubic"
    ours, theirs = saved["state_dict"], network.state_dict()
    assert torch.equal(ours["trunk.network.bn1.running_mean"], theirs["bn1.running_mean"])
    assert not torch.equal(ours["trunk.network.conv_stem.weight"], theirs["conv_stem.weight"])
    assert geolocalization(["test", *GIVEN]) == 0
    assert "timm:mobilenetv3_small_050" in (newest("geolocalization") / "model_card.md").read_text()
