"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import json
import os
import re
import shlex
import shutil
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import completed, figures, harmless, refused, rows_of, tree
from PIL import Image
from timm.models.efficientnet import _gen_mobilenet_v1 as timm_mobilenet_v1

import backbone.weights
from backbone import InputError
from backbone.accelerator import best_precision
from backbone.download import digest_of
from data import imagenet
from data.classification import ClassificationDataModule
from tasks.classification import load
from tasks.classification.__main__ import main

pytestmark = pytest.mark.slow  # whole commands

QUICK = ["--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"]
SMALL = ["--model.width_mult", "0.25", *QUICK]
SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
EXACT = ["--trainer.precision", "32-true"]
run = partial(completed, main)


@pytest.fixture(scope="module")
def trained(classes_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(classes_root), "--trainer.default_root_dir", str(folder), *SMALL, *SHORT]
    assert main(["fit", *given]) == 0
    return (folder / "classification" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """A thousand-way classifier as timm saves it, with its model: random, but no two outputs alike."""
    torch.manual_seed(0)
    model = timm_mobilenet_v1("mobilenetv1_100", 0.25)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.5)
            torch.nn.init.normal_(module.bias, 0.3, 0.3)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv1.pth"
    torch.save(model.state_dict(), path)
    return path, model.eval()


@pytest.fixture(scope="module")
def breeds_root(classes_root, tmp_path_factory):
    """The images of signs under names of ImageNet."""
    root = tmp_path_factory.mktemp("data") / "breeds"
    shutil.copytree(classes_root, root)
    for split in ("train", "val", "test"):
        for old, new in (("bar", "beagle"), ("cross", "Siberian_husky"), ("disc", "toy_poodle")):
            (root / split / old).rename(root / split / new)
    return root


def commands_in(printed):
    """The command lines that come next, without `python -m tasks.classification`."""
    lines = printed[printed.index("\nnext: ") + 7 :].splitlines()
    words = [shlex.split(line) for line in lines if not line.startswith(("run: ", "experiment: "))]
    assert [line[:3] for line in words] == [["python", "-m", "tasks.classification"]] * len(words)
    return {line[3]: line[3:] for line in words}


def test_a_log_has_a_line_an_epoch_what_the_machine_is_and_what_comes_next(classes_root, tmp_path, capsys):
    elsewhere = tmp_path / "my runs"
    given = ["--data.root", str(classes_root), *SMALL, "--trainer.default_root_dir", str(elsewhere)]
    assert main(["fit", *given, "--trainer.max_epochs", "2", "--trainer.logger", "tensorboard"]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert not re.search(r"[\r\x1b]", printed)
    assert re.findall(r"(?m)^epoch (\d/2)  loss [\d.]+  val/top1 [\d.]+  [\d.]+ s", printed) == ["1/2", "2/2"]
    machine = rf"device cpu \({torch.get_num_threads()} threads?\), precision {best_precision('cpu')}"
    machine += ", 0 loading processes"
    assert len(re.findall(rf"(?m)^{machine}, batch 4, 12 training and 6 validation images$", printed)) == 1
    folder = Path(printed.splitlines()[-1].removeprefix("run: "))
    text = (folder / "config.yaml").read_text()
    assert len(re.findall(rf"(?m)^# ran on: {machine}$", text)) == 1
    config = yaml.safe_load(text)["trainer"]
    assert (config["precision"], config["accelerator"]) == (best_precision("cpu"), "auto")
    assert (folder / "pictures" / "curves.png").is_file()
    assert f"tensorboard --logdir {folder / 'tensorboard'}\n" in printed
    commands = commands_in(printed)
    assert list(commands) == ["test", "predict", "fit", "export"]
    assert commands["fit"] == ["fit", "--resume", str(folder), "--epochs", "4"]
    assert main(commands["test"]) == 0
    tested = capsys.readouterr().out
    assert list(commands_in(tested)) == ["predict", "export"]
    assert commands["export"] == ["export", "--weights", str(folder)]
    assert commands_in(tested)["export"] == ["export", "--weights", str(folder.relative_to(tmp_path))]  # from here


def test_the_commands_in_short_options_are_understood(trained, classes_root, tmp_path, capsys):
    shutil.copytree(trained, folder := tmp_path / "a run")
    shutil.copy(next(Path(classes_root).glob("*/*/*.png")), "photo.jpg")
    assert main(["fit", "--resume", str(folder), "--epochs", "3", *SHORT[2:]]) == 0
    commands = commands_in(capsys.readouterr().out)
    assert main(commands["fit"]) == 0
    assert re.findall(r"(?m)^epoch (\d/6)", capsys.readouterr().out) == []  # as of the run that it goes on with
    assert main(commands["predict"]) == 0


def test_precision_auto_is_what_is_best_and_a_resumed_run_keeps_its_own(classes_root, capsys):
    given = ["--data.root", str(classes_root), *SMALL, *SHORT]
    _, folder = run(capsys, "fit", *given, *EXACT)
    printed, resumed = run(capsys, "fit", "--ckpt_path", str(folder), "--trainer.max_epochs", "3")
    assert "epoch" not in printed.partition("next: ")[0]  # enable_progress_bar is false
    assert yaml.safe_load((resumed / "config.yaml").read_text())["trainer"]["precision"] == "32-true"
    _, folder = run(capsys, "validate", "--ckpt_path", str(folder), "--trainer.precision", "auto")
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["precision"] == best_precision("cpu")


@pytest.mark.usefixtures("offline")
def test_fit_needs_nothing_but_the_data_root_and_reaches_no_network(classes_root, capsys):
    before = tree(classes_root)
    quick = ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    printed, folder = run(capsys, "fit", "--data.root", str(classes_root), *quick)
    assert tree(classes_root) == before
    assert folder.parent == Path("runs/classification")
    assert "\ntop-1 " in printed


def test_a_run_leaves_what_the_readme_promises(trained):
    files = {"config.yaml", "checkpoints", "metrics.csv", "metrics.json", "predictions.csv", "per_class.csv"}
    assert {path.name for path in trained.iterdir()} == files | {"confused_pairs.csv", "pictures"}
    pictures = {"curves.png", "confusion_matrix.png", "calibration.png", "worst_errors.png", "most_confused.png"}
    assert {path.name for path in (trained / "pictures").iterdir()} == pictures
    highest = max(float(row["val/top1"]) for row in rows_of(trained / "metrics.csv") if row["val/top1"])
    assert figures(trained)["val/top1"] == pytest.approx(highest)


def test_resume_goes_on_with_the_same_run_and_the_command_line_wins(trained, capsys):
    given = ["--trainer.max_epochs", "3", "--model.lr", "1e-5"]
    printed, folder = run(capsys, "fit", "--ckpt_path", str(trained), *given)  # its last.ckpt
    assert "note: " not in printed
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"]["width_mult"], config["model"]["lr"], config["trainer"]["max_epochs"]) == (0.25, 1e-5, 3)


def test_a_run_whose_width_was_found_in_the_weights_resumes_and_tests(best, classes_root, capsys):
    """The config of such a run says the width that was found; a second run must not take the default instead."""
    _, folder = run(capsys, "fit", "--data.root", str(classes_root), "--model.weights", best, *QUICK, *SHORT)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["width_mult"] == 0.25
    assert config["model"]["numerics"]["padding"] == "same"
    last = str(folder / "checkpoints" / "last.ckpt")
    assert main(["fit", "--ckpt_path", last, "--trainer.max_epochs", "3"]) == 0
    assert main(["test", "--ckpt_path", last]) == 0
    assert main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", last]) == 0


def test_the_shape_of_a_checkpoints_network_is_its_own_whatever_a_config_says(best, classes_root, capsys):
    config = Path("wider.yaml")
    config.write_text(f"model: {{width_mult: 1.0, head: imagenet, dropout: 0.3}}\ndata: {{root: {classes_root}}}\n")
    printed, folder = run(capsys, "test", "--config", str(config), "--ckpt_path", best)
    assert "the checkpoint was trained at" not in printed
    notes = [line for line in printed.splitlines() if line.startswith("note: ")]
    assert [re.findall(r"--model\.\w+ \S+|is \S+$", note) for note in notes] == [
        ["--model.width_mult 1.0", "is 0.25"],
        ["--model.head imagenet", "is new"],
    ]
    used = yaml.safe_load((folder / "config.yaml").read_text())
    assert (used["model"]["width_mult"], used["model"]["head"], used["model"]["dropout"]) == (0.25, "new", 0.3)
    assert used["data"]["image_size"] == 32  # of the checkpoint, as neither the command nor the config says one
    assert used["ckpt_path"] == best


def test_a_longer_run_from_the_link_to_the_latest_does_not_send_the_trunk_back_to_wait(classes_root, capsys):
    given = ["--data.root", str(classes_root), *SMALL, "--model.head_steps", "100", "--model.warmup_steps", "0"]
    assert main(["fit", *given, "--trainer.max_epochs", "4"]) == 0  # 12 steps, 2 of them the head's alone
    last = Path("runs/classification/latest/checkpoints/last.ckpt")  # which soon is another run's
    assert torch.load(last, weights_only=True)["head_steps"] == 2
    longer = ["--trainer.max_epochs", "30", "--trainer.max_steps", "15"]
    _, folder = run(capsys, "fit", "--ckpt_path", str(last), *longer)
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["head_steps"] == 2
    assert (folder / "checkpoints" / "best.ckpt").is_file()


def test_weights_are_of_imagenet_only_where_somebody_learnt_from_it(best, imagenet_file, classes_root, capsys):
    """From scratch, from our own checkpoint, and from a file of ImageNet's through a checkpoint of ours."""
    given = ["fit", "--data.root", str(classes_root), *QUICK, "--trainer.max_steps", "1"]
    for weights, pretrained in ((best, 0.0), (str(imagenet_file[0]), 1.0)):
        _, folder = run(capsys, *given, "--model.weights", weights)
        assert figures(folder)["val/imagenet_pretrained"] == pretrained
        assert figures(folder)["val/imagenet_overlap"] == 0.0
    _, folder = run(capsys, *given, "--model.weights", str(folder / "checkpoints" / "best.ckpt"))
    _, folder = run(capsys, "test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"))
    assert figures(folder)["test/imagenet_pretrained"] == 1.0


@pytest.fixture
def named_weights(imagenet_file, monkeypatch, tmp_path):
    """The same classifier under the name `mine`, on a server of one's own, which comes along to be stopped."""
    monkeypatch.setenv("MOBILENET_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=imagenet_file[0].parent)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/{imagenet_file[0].name}"
        row = backbone.weights.Row("mine", "P", 0.25, 224, "imagenet", 50.0, "L", address, None, None, None)
        monkeypatch.setattr(backbone.weights, "table", lambda: [row])
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


def test_weights_by_name_are_fetched_once_and_known_by_their_digest(
    named_weights, imagenet_file, classes_root, tmp_path, monkeypatch, capsys
):
    digest = digest_of(imagenet_file[0])
    _, folder = run(capsys, "fit", "--data.root", str(classes_root), *SMALL, *SHORT, "--model.weights", "imagenet")
    text = (folder / "config.yaml").read_text()
    assert yaml.safe_load(text)["model"]["weights"] == "mine"  # what was the best may change; this will not
    assert digest in text
    best, last = (folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    kept = torch.load(best, weights_only=True)["trunk"]["provenance"]
    assert kept == {"name": "mine", "revision": None, "sha256": digest}

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    named_weights.shutdown()
    monkeypatch.setattr(socket, "create_connection", refuse)
    source = ["--source", str(classes_root / "test" / "disc")]
    assert main(["predict", "--model.weights", "mine", *source]) == 0
    assert load("mine").head.names == load(imagenet_file[0]).head.names
    assert main(["fit", "--config", str(folder / "config.yaml"), "--trainer.max_steps", "1"]) == 0
    shutil.rmtree(tmp_path / "cache")
    _, folder = run(capsys, "fit", "--ckpt_path", str(last), "--trainer.max_epochs", "3", "--model.weights", "imagenet")
    again = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["trunk"]["provenance"]
    assert again == kept
    assert main(["test", "--ckpt_path", str(best)]) == 0
    assert not (tmp_path / "cache").exists()


def test_names_that_are_not_utf8_reach_the_end_of_fit_and_predict(classes_root, tmp_path, capsys):
    root = Path(shutil.copytree(classes_root, tmp_path / "odd"))
    for split in ("train", "val", "test"):
        [first, *_] = sorted((root / split / "disc").iterdir())
        first.rename(root / split / "disc" / os.fsdecode(b"\xff\xfe.png"))
    (root / "train" / "bar" / "train_00.png").write_bytes(b"")
    _, folder = run(capsys, "fit", "--data.root", str(root), *SMALL, *SHORT, "--data.max_bad_fraction", "0.5")
    assert "\\udcff\\udcfe.png" in (folder / "predictions.csv").read_text("utf-8")
    given = ["--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), "--source", str(root / "test" / "disc")]
    _, folder = run(capsys, "predict", *given)
    lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["file"] for line in lines} == {str(path) for path in (root / "test" / "disc").iterdir()}


def test_a_jpeg_that_lacks_its_last_bytes_is_used_and_told_of_beside_those_left_out(classes_root, tmp_path, capsys):
    """In a worker process, as most are opened; a bad image of few stops nothing."""
    root = Path(shutil.copytree(classes_root, tmp_path / "cut"))
    cut, empty = root / "train" / "bar" / "cut.jpg", root / "train" / "disc" / "train_00.png"
    Image.effect_noise((64, 640), 60).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:-2])
    empty.write_bytes(b"")
    given = ["--data.root", str(root), *SMALL, *SHORT, "--data.num_workers", "1"]
    said, folder = run(capsys, "fit", *given)
    assert f"1 image left out: {folder / 'bad_images.txt'}" in said
    assert f"1 image lacks its last bytes and was used as far as it goes: {folder / 'bad_images.txt'}" in said
    listed = [line.split("\t") for line in (folder / "bad_images.txt").read_text("utf-8").splitlines()]
    assert listed == [
        [str(empty), "it is empty (0 bytes)"],
        [str(cut), "used as far as it goes: it lacks its last bytes"],
    ]
    given = ["--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), "--source", str(cut)]
    said, folder = run(capsys, "predict", *given)
    assert f"note: 1 image lacks its last bytes and was used as far as it goes; the first is {cut}" in said
    assert len((folder / "predictions.jsonl").read_text("utf-8").splitlines()) == 1


def test_an_imagenet_classifier_is_tested_as_it_is_at_the_size_of_its_training(imagenet_file, breeds_root, capsys):
    path, model = imagenet_file
    given = ["--model.weights", str(path), "--data.root", str(breeds_root), "--data.num_workers", "0"]
    _, folder = run(capsys, "test", *given, *EXACT)
    assert "image_size: 224" in (folder / "config.yaml").read_text()
    data = ClassificationDataModule(root=str(breeds_root), image_size=224, num_workers=0)
    data.setup("test")
    [batch] = data.test_dataloader()
    with torch.no_grad():
        logits = model(batch["images"].float() / 127.5 - 1)
    truth = torch.tensor([250, 162, 265])[batch["labels"]]  # Siberian husky, beagle, toy poodle: capitals sort first
    found = figures(folder)
    assert found["test/top1"] == pytest.approx((logits.argmax(1) == truth).float().mean().item())
    assert found["test/top5"] == pytest.approx((logits.topk(5).indices == truth[:, None]).any(1).float().mean().item())
    assert found["test/imagenet_pretrained"] == 1.0
    assert found["test/temperature"] is found["test/ece_calibrated"] is None
    by_file = {row["file"]: row for row in rows_of(folder / "predictions.csv")}
    for position, label in zip(batch["positions"].tolist(), logits.argmax(1).tolist(), strict=True):
        assert imagenet.class_names()[label] in by_file[data.file("test", position)].values()


def test_folders_of_some_ids_alone_are_scored_by_an_imagenet_classifier(imagenet_file, breeds_root, tmp_path, capsys):
    ids = {"n02099712": 208, "n01440764": 0, "n03888257": 701}
    source = sorted(folder for folder in (breeds_root / "test").iterdir() if folder.is_dir())
    for folder, name in zip(source, ids, strict=True):
        shutil.copytree(folder, tmp_path / "ids" / "val" / name)
    given = ["--model.weights", str(imagenet_file[0]), "--data.root", str(tmp_path / "ids"), "--data.num_workers", "0"]
    _, folder = run(capsys, "validate", *given, *EXACT)
    names = imagenet.class_names()
    truths = {(Path(row["file"]).parts[1], row["truth"]) for row in rows_of(folder / "predictions.csv")}
    assert truths == {(name, names[label]) for name, label in ids.items()}
    assert figures(folder)["val/imagenet_overlap"] == 1.0


def test_an_imagenet_classifier_needs_classes_of_imagenet(imagenet_file, classes_root, capsys):
    given = ["test", "--model.weights", str(imagenet_file[0]), "--data.root", str(classes_root)]
    refused(main, given, r"the class 'bar' of the data is none of ImageNet's 1,000", capsys)


def test_a_checkpoint_is_no_imagenet_classifier(best, breeds_root, capsys):
    given = ["test", "--model.weights", best, "--data.root", str(breeds_root)]
    refused(main, given, r"has no ImageNet classifier; .* A checkpoint goes in with --ckpt_path", capsys)


def test_an_imagenet_head_can_be_trained_further_and_tested_from_its_checkpoint(imagenet_file, breeds_root, capsys):
    given = ["--model.weights", str(imagenet_file[0]), "--model.head", "imagenet", "--data.root", str(breeds_root)]
    _, folder = run(capsys, "fit", *given, *QUICK, "--trainer.max_epochs", "1")
    best = folder / "checkpoints" / "best.ckpt"
    assert main(["test", "--ckpt_path", str(best)]) == 0
    assert len(load(best).head.names) == 1000


def test_predict_writes_json_lines_and_a_sheet_and_names_what_it_cannot_read(best, classes_root, capsys):
    source = Path("photos")
    source.mkdir()
    for name in ("bar", "disc"):
        shutil.copy(classes_root / "test" / name / "test_00.png", source / f"{name}.png")
    for name in ("broken.jpg", "cut.jpg"):
        (source / name).write_bytes(b"<html>")
    (source / "notes.txt").write_text("not an image")
    assert main(["predict", "--ckpt_path", best, "--source", str(source), "--top", "2"]) == 0
    printed = capsys.readouterr()
    score = next(float(row["val/top1"]) for row in rows_of(Path(best).parents[1] / "metrics.csv") if row["val/top1"])
    assert printed.out.startswith(f"checkpoint: {best} (val/top1 {score:.3f})\n")
    assert "\n2 images, 2 could not be read: " in printed.out
    assert "broken.jpg: it is a web page" in printed.err
    folder = Path(printed.out.strip().splitlines()[-1].removeprefix("run: "))
    found = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["file"] for row in found] == ["photos/bar.png", "photos/disc.png"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["ckpt_path"], config["source"], config["top"]) == (best, ["photos"], 2)
    classify = load(best)
    for row in found:
        result = classify(row["file"], top=2)
        assert [one["name"] for one in row["classes"]] == result.names
        assert [one["probability"] for one in row["classes"]] == pytest.approx(result.probabilities.tolist())
    assert Image.open(folder / "pictures" / "predictions_001.png").size[0] >= 640


def test_predict_takes_an_imagenet_classifier(imagenet_file, classes_root, capsys):
    path, model = imagenet_file
    image = classes_root / "test" / "bar" / "test_00.png"
    assert main(["predict", "--model.weights", str(path), "--source", str(image)]) == 0
    run_folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("run: "))
    row = json.loads((run_folder / "predictions.jsonl").read_text())
    assert len(row["classes"]) == 5
    result = load(path)(image)  # at the 224 px of its training
    pixels = np.asarray(Image.open(image))[3:45, 11:53]  # the middle 42 px of 48 x 64
    import cv2

    resized = torch.from_numpy(cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)[None]
    with torch.no_grad():
        probabilities = model(resized.float() / 127.5 - 1).softmax(1)[0]
    assert result.names == [imagenet.class_names()[i] for i in probabilities.topk(5).indices]
    assert result.probabilities == pytest.approx(probabilities.topk(5).values.numpy(), rel=1e-3)
    assert [one["name"] for one in row["classes"]] == result.names


def test_load_classifies_a_path_an_array_and_an_image_alike_at_the_checkpoints_temperature(trained, classes_root):
    classify = load(trained)
    path = classes_root / "test" / "disc" / "test_01.png"
    by_path = classify(path)
    assert len(by_path.names) == 3  # there are no more classes
    assert set(by_path.names) == {"bar", "cross", "disc"}
    assert by_path.probabilities.sum() == pytest.approx(1.0)
    assert (np.diff(by_path.probabilities) <= 0).all()
    for other in (classify(Image.open(path)), classify(np.asarray(Image.open(path)))):
        assert other.names == by_path.names
        assert np.array_equal(other.probabilities, by_path.probabilities)
    assert classify.head.temperature != 1.0
    classify.head.temperature *= 2
    flatter = classify(path)
    ratio = np.log(by_path.probabilities[0] / by_path.probabilities[1])
    assert np.log(flatter.probabilities[0] / flatter.probabilities[1]) == pytest.approx(ratio / 2, abs=1e-6)
    for image, message in (
        ("nowhere.jpg", "there is no such file"),
        (np.zeros((0, 5, 3), np.uint8), "shape is"),
        (123, "is of type int"),
    ):
        with pytest.raises(InputError, match=message):
            classify(image)
    with pytest.raises(InputError, match="top is 0"):
        classify(path, top=0)


def test_predictions_of_a_test_are_what_load_says(best, classes_root, capsys):
    _, folder = run(capsys, "test", "--ckpt_path", best, *EXACT)
    classify, found = load(best), rows_of(folder / "predictions.csv")
    assert len(found) == 6
    for row in found:
        assert [row[f"class_{k}"] for k in (1, 2, 3)] == classify(classes_root / row["file"]).names


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "--data nowhere does not exist"),
        (["--data.root", "."], "<class>/"),  # where nothing is
        (["--data.crop", "bbox"], "--data.crop is bbox, but .* has no boxes"),
        (["--data.crop", "middle"], "crop"),
        (["--data.without_near_duplicates_of", "nowhere"], "--data.without_near_duplicates_of nowhere does not exist"),
        (["--model.dropout", "1"], "--model.dropout is 1.0; it must be from 0 to below 1"),
        (["--model.layer_decay", "0"], "--model.layer_decay is 0.0"),
        (["--model.label_smoothing", "-0.1"], "--model.label_smoothing is -0.1"),
        (["--model.mixup_alpha", "-1"], "--model.mixup_alpha is -1.0"),
        (["--model.head", "imagenet"], "--model.head imagenet takes the classifier of --weights"),
        (["--model.weights", "none.pth"], "none.pth"),
        (["--trainer.accumulate_grad_batches", "0"], "--trainer.accumulate_grad_batches is 0; it must be 1 or more"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs is 0"),
        (["--trainer.default_root_dir", __file__], "--out .* cannot be written"),
        (["--model.layer_deacy", "0.5"], "Did you mean --model.layer_decay"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_no_run(args, message, classes_root, capsys):
    root = [] if "--data.root" in args else ["--data.root", str(classes_root)]
    refused(main, ["fit", *root, *args], message, capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source", "nowhere"], "--source nowhere: there is no such file or folder"),
        (["--source", "."], "no image "),
        (["--source", ".", "--top", "0"], "--top 0: give 1 or more"),
        (["--source", "photo.png", "--runs", "photo.png"], "--runs photo.png cannot be written"),
        ([], "name images with --source"),
    ],
)
def test_what_predict_cannot_use_is_one_sentence(args, message, best, classes_root, capsys):
    if "." not in args:  # where an image would be one that is found
        shutil.copy(classes_root / "test" / "bar" / "test_00.png", "photo.png")
    refused(main, ["predict", "--ckpt_path", best, *args], message, capsys)


def test_classes_of_checkpoint_and_data_that_differ_are_both_named(best, classes_root, tmp_path, capsys):
    root = Path(shutil.copytree(classes_root, tmp_path / "others"))
    for split in ("train", "val", "test"):
        (root / split / "disc").rename(root / split / "ring")
    args = ["test", "--ckpt_path", best, "--data.root", str(root)]
    refused(main, args, r"has \d images of 'ring', and .* 3 classes \(bar, cross, disc\)", capsys)


def test_a_checkpoint_of_another_task_is_refused_by_name(best, capsys):
    other = Path("others") / "checkpoints" / "last.ckpt"  # a run folder, whose config is of another task too
    other.parent.mkdir(parents=True)
    torch.save({**torch.load(best, weights_only=True), "task": "detection"}, other)
    Path("others/config.yaml").write_text("model: {head: ssd}")
    for command in ("test", "fit"):
        refused(main, [command, "--ckpt_path", str(other)], "is a checkpoint of the task 'detection'", capsys)


def test_the_sample_is_learnt_from_nothing(capsys):
    """By chance 5 of 8 are in the top five of 96 images, give or take 0.05; this schedule reaches 0.93 to 0.99."""
    quick = ["--trainer.max_epochs", "14", "--data.image_size", "64", "--trainer.enable_progress_bar", "false"]
    config = Path(__file__).parents[3] / "configs" / "classification" / "sample.yaml"
    assert main(["fit", "--config", str(config), *quick]) == 0
    _, folder = run(capsys, "test", "--trainer.enable_progress_bar", "false")
    assert figures(folder)["test/images"] == 96
    assert figures(folder)["test/top5"] > 0.8


def test_a_student_learns_from_a_cache_and_is_compared_with_its_teacher(best, classes_root, tmp_path, capsys):
    teacher, cache = shutil.copy(best, tmp_path / "teacher.ckpt"), tmp_path / "cache"
    given = ["--data.root", str(classes_root), *SMALL, *SHORT, "--model.teacher", str(teacher)]
    before = tree(classes_root)
    caching = ["--data.views", "2", "--model.cache", str(cache), "--trainer.log_every_n_steps", "1"]
    _, folder = run(capsys, "fit", *given, *caching)
    assert tree(classes_root) == before
    assert (cache / "manifest.json").is_file()
    logged = [row for row in rows_of(folder / "metrics.csv") if row["train/loss"]]
    assert len(logged) == 6
    assert all(row["train/loss"] == row["train/loss_teacher"] for row in logged)
    alone = ["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), *EXACT]
    student = [*alone, "--model.teacher", str(teacher)]
    compared = figures(run(capsys, *student)[1])
    of_teacher = figures(run(capsys, "test", "--ckpt_path", str(teacher), *EXACT)[1])
    assert compared["test/teacher_top1"] == of_teacher["test/top1"]
    assert 0 <= compared["test/teacher_agreement"] <= 1
    assert compared["test/teacher_kl"] >= 0
    assert "test/teacher_top1" not in of_teacher
    teacher.unlink()
    for command in (student, alone):  # a teacher that is gone, and one that the checkpoint alone names
        printed, folder = run(capsys, *command)
        assert str(teacher) in printed
        assert figures(folder) == {name: value for name, value in compared.items() if "teacher" not in name}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.teacher", "nowhere.ckpt"], "the teacher nowhere.ckpt does not exist"),
        (["--model.teacher", "torchvision:resnet18"], "torchvision:resnet18"),
        (["--model.teacher", "math:sqrt"], "the teacher math:sqrt cannot take uint8 images"),
        (["--model.teacher", "[{source: gone.ckpt, share: abc}]"], "'share': 'abc'}, which cannot be read"),
        (["--model.temperature", "0"], "--model.temperature is 0.0; it must be above 0"),
        (["--model.cache", "c"], "--model.cache is c"),
        (["--data.views", "-1"], "--data.views is -1"),
    ],
)
def test_a_teacher_that_cannot_be_is_one_sentence_and_no_run(args, message, classes_root, capsys):
    refused(main, ["fit", "--data.root", str(classes_root), *SMALL, *args], message, capsys)


def test_a_teacher_of_other_classes_is_one_sentence_and_no_run(best, breeds_root, capsys):
    teacher = ["--model.teacher", best]
    message = r"the student's class 'Siberian_husky' .* bar, cross, disc"
    refused(main, ["fit", "--data.root", str(breeds_root), *SMALL, *teacher], message, capsys)


def test_class_folders_and_files_with_hostile_names_train_and_test_without_harm(classes_root, tmp_path, capfdbinary):
    names = [
        b"n" * 200,
        b"two\nlines",
        b"\x1b[31mred\x07",
        b"\xff\xfe",
        b"=cmd|' C'!A0",
        b"$x_{$",
        "\x9b31m\u202e".encode(),
    ]
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        for k, name in enumerate(names):
            folder = root / split / os.fsdecode(name)
            shutil.copytree(classes_root / split / ("bar", "cross", "disc")[k % 3], folder)
            for file in folder.iterdir():
                file.write_bytes(file.read_bytes() + name)  # no two files alike
                file.rename(folder / f"{os.fsdecode(name)}{file.name}")
    before = tree(root)

    def command(*args):
        assert main([*args]) == 0
        out, error = capfdbinary.readouterr()
        printed = (out + error).decode()
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\udc80-\udcff]", printed)
        return Path(out.decode().strip().splitlines()[-1].removeprefix("run: "))

    once = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    trained = command("fit", "--data.root", str(root), *SMALL, *once)
    tested = command("test", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt"))
    assert tree(root) == before
    for folder in (trained, tested):
        harmless(folder / "pictures")
        assert len(list((folder / "pictures").glob("*.png"))) == (5 if folder == trained else 4)  # of a fit its curves
        for file in folder.glob("*_*.csv"):
            rows = rows_of(file)
            assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "@", "\x1b"))]
    exact = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["hyper_parameters"]["categories"]
    assert set(exact.values()) == {name.decode(errors="replace") for name in names}
    rows = rows_of(tested / "predictions.csv")
    assert len(rows) == 2 * len(names)
    assert {row["truth"] for row in rows} >= {"'=cmd|' C'!A0", r"two\nlines", r"\x1b[31mred\x07", "$x_{$"}
