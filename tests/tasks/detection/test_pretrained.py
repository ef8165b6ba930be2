"""A detector of TensorFlow's in our head, from a file that tests/tflite_writer.py wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Save, in_two_processes, refused, same, trainer
from tflite_writer import Writer

from backbone import InputError, MobileNetV1, read_pretrained
from backbone.folded import folded_norms
from data.coco_classes import COCO_CLASSES
from data.detection import DetectionDataModule
from tasks.detection import load
from tasks.detection.__main__ import main
from tasks.detection.head import DetectionHead
from tasks.detection.module import DetectionModule
from tasks.detection.postprocess import class_scores
from tasks.detection.pretrained import categories_of, load_detector

SIDE, BACKGROUND = 96, 3.0


@pytest.fixture(scope="module")
def original():
    """A trunk and a sigmoid head of COCO's 90 ids, with norms as if they had been trained."""
    torch.manual_seed(0)
    trunk = MobileNetV1(0.25).eval()
    head = DetectionHead(trunk.channels, {i: str(i) for i in range(1, 91)}, (SIDE, SIDE), loss="focal").eval()
    for module in (*trunk.modules(), *head.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 1.5)
    for predictor in head.class_heads:
        predictor[-1].weight.data.normal_(0, 0.2)
    return trunk, head


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    trunk, head = original
    writer = Writer(SIDE)
    writer.detector(writer.trunk(trunk), head, BACKGROUND)
    return writer.write(tmp_path_factory.mktemp("weights") / "detect.tflite")


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def outputs(trunk, head, images):
    with torch.no_grad():
        return head(trunk.features(images / 127.5 - 1))


def test_the_file_as_it_is_computes_what_it_was_written_from(original, file, images):
    detect = load(file)
    assert dict(zip(detect.head.categories, detect.head.categories.values(), strict=True)) == COCO_CLASSES
    with torch.no_grad():
        found = detect.module(images)
    expected = outputs(*original, images)
    ids = torch.tensor(list(COCO_CLASSES)) - 1
    torch.testing.assert_close(found.class_logits, expected.class_logits[..., ids], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.box_codes, expected.box_codes, atol=1e-4, rtol=0)
    result = detect(np.zeros((50, 80, 3), np.uint8), conf=0.0)
    assert {COCO_CLASSES[number] for number in result.category_ids.tolist()} == set(result.names)


def test_a_detector_whose_scores_are_a_softmax_keeps_its_background(original, images, tmp_path):
    trunk, head = original
    writer = Writer(SIDE)
    writer.detector(writer.trunk(trunk), head, BACKGROUND, scores="SOFTMAX")
    detect = load(writer.write(tmp_path / "softmax.tflite"))
    with torch.no_grad():
        scores = class_scores(detect.module(images).class_logits, 80)
    ids = torch.tensor(list(COCO_CLASSES)) - 1
    logits = outputs(*original, images).class_logits[..., ids]
    weights = torch.cat([torch.full_like(logits[..., :1], BACKGROUND), logits], -1).exp()
    torch.testing.assert_close(scores, (weights / weights.sum(-1, keepdim=True))[..., 1:], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("loss", ["focal", "multibox"])
def test_classes_that_the_data_share_by_name_are_taken_and_others_are_new(original, file, images, loss):
    names = {7: "Traffic_Light", 3: "helmet", 9: "aeroplane"}  # COCO's 10 and 5, whatever their ids are here
    module = DetectionModule(names, (SIDE, SIDE), loss=loss, weights=str(file)).eval()
    with torch.no_grad():
        found = module(images)
    expected = outputs(*original, images)
    columns = found.class_logits[..., -3:]
    torch.testing.assert_close(columns[..., [0, 2]], expected.class_logits[..., [9, 4]], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.box_codes, expected.box_codes, atol=1e-4, rtol=0)
    rows = module.head.class_heads[0][-1].weight.unflatten(0, (3, -1))[:, -3:]
    assert rows[:, 1].abs().max() <= 0.06 < rows[:, [0, 2]].abs().max()  # helmet's are as new
    if loss == "multibox":
        torch.testing.assert_close(found.class_logits[..., 0], torch.full_like(columns[..., 0], BACKGROUND))


def test_what_was_taken_is_said(original, file):
    trunk, _ = original
    head = DetectionHead(trunk.channels, {1: "person", 2: "helmet"}, (SIDE, SIDE))
    assert load_detector(head, read_pretrained(file)) == "taken: trunk, extras, boxes, classes person; new: helmet"
    before = [predictor[-1].weight.clone() for predictor in head.class_heads]
    head.categories = {1: "raccoon", 2: "helmet"}
    assert load_detector(head, read_pretrained(file)) == "taken: trunk, extras, boxes; new: raccoon, helmet"
    assert all(torch.equal(a, b[-1].weight) for a, b in zip(before, head.class_heads, strict=True))


def test_a_detector_as_it_is_never_finds_what_it_does_not_know(file, images):
    module = DetectionModule(
        {1: "person", 2: "helmet"}, (SIDE, SIDE), head="pretrained", loss="focal", weights=str(file)
    )
    with torch.no_grad():
        scores = class_scores(module.eval()(images).class_logits, 2)
    assert scores[..., 1].max() < 1e-8
    assert scores[..., 0].max() > 1e-3
    with pytest.raises(InputError, match="helmet"):
        DetectionModule({2: "helmet"}, (SIDE, SIDE), head="pretrained", loss="focal", weights=str(file))


def test_other_anchors_are_refused(original, tmp_path):
    trunk, head = original
    writer = Writer(SIDE)
    writer.detector(writer.trunk(trunk), head, BACKGROUND)
    writer.tensors[writer.operators[-1][1][2]]["data"][3, 2] += 0.02
    path = writer.write(tmp_path / "other.tflite")
    with pytest.raises(InputError, match="anchors"):
        load(path)


def test_a_detector_of_other_classes_has_numbers_for_names(original, tmp_path):
    trunk, _ = original
    head = DetectionHead(trunk.channels, {1: "a", 2: "b"}, (SIDE, SIDE), loss="focal")
    writer = Writer(SIDE)
    writer.detector(writer.trunk(trunk), head, BACKGROUND)
    detector = read_pretrained(writer.write(tmp_path / "two.tflite")).detector
    assert categories_of(detector) == {1: "class 1", 2: "class 2"}


def renamed(coco_root, folder):
    """The images of `coco_root`, with discs called by a name of COCO's."""
    (folder / "annotations").mkdir(parents=True)
    for path in coco_root.iterdir():
        if path.is_dir() and path.name != "annotations":
            (folder / path.name).symlink_to(path)
    for path in (coco_root / "annotations").iterdir():
        (folder / "annotations" / path.name).write_text(path.read_text().replace('"disc"', '"frisbee"'))
    return folder


def test_a_fit_begins_with_norms_unfolded_by_its_own_training_images(coco_root, file, images):
    buffers = []
    for _ in range(2):  # as two processes do it, each for itself
        torch.manual_seed(0)
        data = DetectionDataModule(root=str(coco_root), image_size=SIDE, num_workers=0)
        module = DetectionModule(data.categories, data.input_size, weights=str(file))
        assert len(folded_norms(module)) == 27 + 8
        before = module.eval()(images)
        module.train()
        data.setup("fit")
        module.prepare(data)
        assert module.training
        assert not folded_norms(module)
        after = module.eval()(images)
        torch.testing.assert_close(after.class_logits, before.class_logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(after.box_codes, before.box_codes, atol=1e-4, rtol=0)
        buffers.append(dict(module.named_buffers()))
    assert all(torch.equal(value, buffers[1][name]) for name, value in buffers[0].items())


GIVEN = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true"]


@pytest.mark.slow
def test_the_commands_take_a_detector_as_it_is(coco_root, file, tmp_path, capsys):
    root = renamed(coco_root, tmp_path / "data")
    assert main(["test", "--model.weights", str(file), "--data.root", str(root), *GIVEN]) == 0
    printed = capsys.readouterr().out
    assert "bar" in printed  # is not known to it
    folder = Path(printed.strip().splitlines()[-1].removeprefix("run: "))
    assert {row["category_id"] for row in json.loads((folder / "predictions.json").read_text())} == {2}
    for command in ("validate", "predict"):
        given = ["--source", str(root / "test")] if command == "predict" else ["--data.root", str(root), *GIVEN]
        assert main([command, "--model.weights", str(file), *given]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    results = json.loads((folder / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= set(COCO_CLASSES)


@pytest.mark.slow
def test_a_resumed_fit_from_a_detector_ends_as_the_whole_one(coco_root, file, tmp_path):
    def parts(weights=None):
        torch.manual_seed(0)
        data = DetectionDataModule(root=str(coco_root), image_size=SIDE, num_workers=0, batch_size=4)
        module = DetectionModule(data.categories, data.input_size, width_mult=0.25, weights=weights)
        data.setup("fit")
        module.prepare(data)
        return module, data

    path, (whole, data) = tmp_path / "half.ckpt", parts(str(file))
    trainer(tmp_path, max_epochs=2).fit(whole, data)
    module, data = parts(str(file))
    trainer(tmp_path, max_epochs=2, callbacks=[Save(path, epoch=0)]).fit(module, data)
    module, data = parts()
    trainer(tmp_path, max_epochs=2).fit(module, data, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), whole.state_dict())


@pytest.mark.slow
def test_a_fit_from_a_detector_in_two_processes_begins_as_in_one(coco_root, file):
    torch.manual_seed(0)
    data = DetectionDataModule(root=str(coco_root), image_size=SIDE, num_workers=0)
    module = DetectionModule(data.categories, data.input_size, weights=str(file))
    data.setup("fit")
    module.prepare(data)
    given = ["--data.root", str(coco_root), "--data.image_size", "96", "--data.batch_size", "4", *GIVEN]
    frozen = ["--model.weights", str(file), "--model.trunk_lr_mult", "0", "--trainer.max_epochs", "1"]
    folder = in_two_processes("detection", "fit", *given, *frozen)
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in module.trunk.state_dict().items():
        assert torch.equal(value, state[f"trunk.{name}"]), name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["test", "--data.root", "{root}"], "never|none of the data's classes"),
        (["fit", "--data.root", "{root}", "--model.head", "pretrained"], "--model.head"),
        (["fit", "--data.root", "{root}", "--model.width_mult", "0.5"], "width"),
    ],
    ids=["no class is known", "pretrained is not for a fit", "another width"],
)
def test_what_cannot_be_done_with_a_detector(coco_root, file, capsys, args, message):
    args = [arg.replace("{root}", str(coco_root)) for arg in args]
    refused(main, [*args, "--model.weights", str(file)], message, capsys)
