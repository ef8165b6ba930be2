"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused, tree
from PIL import Image

from backbone import InputError
from tasks.detection import load
from tasks.detection.__main__ import main

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--data.image_size", "96", "--data.batch_size", "4", "--data.num_workers", "0"]
SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def trained(coco_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(coco_root), "--trainer.default_root_dir", str(folder), *SMALL, *SHORT]
    assert main(["fit", *given]) == 0
    return (folder / "detection" / "latest").resolve()


def test_fit_needs_nothing_but_the_data_root_and_reaches_no_network(coco_root, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    before = tree(coco_root)
    # the last two only make it quick
    assert main(["fit", "--data.root", str(coco_root), "--trainer.max_epochs", "1", "--data.num_workers", "0"]) == 0
    assert tree(coco_root) == before
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("run: runs/detection/")
    assert any(line.startswith("COCO mAP ") for line in lines)


def test_a_run_leaves_what_the_readme_promises(trained):
    assert {path.name for path in trained.iterdir()} == {
        "config.yaml",
        "checkpoints",
        "metrics.csv",
        "metrics.json",
        "predictions.json",
        "ap_by_class.csv",
        "pictures",
    }
    pictures = {"precision_recall.png", "detections.png", "worst_errors.png"}
    assert {path.name for path in (trained / "pictures").iterdir()} == pictures
    figures = json.loads((trained / "metrics.json").read_text())
    rows = (trained / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/map")
    best = max(float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column])
    assert figures["val/map"] == pytest.approx(best)


def test_test_takes_model_and_data_from_the_checkpoint_and_size_from_the_command_line(trained, capsys):
    given = ["--ckpt_path", str(trained / "checkpoints" / "best.ckpt"), "--data.image_size", "128"]
    assert main(["test", *given, "--trainer.enable_progress_bar", "false"]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    config = (run / "config.yaml").read_text()
    assert "width_mult: 0.25" in config
    assert "image_size: 128" in config
    assert json.loads((run / "metrics.json").read_text()).keys() >= {"test/map", "test/mar_small", "test/ap/disc"}


def test_test_without_a_checkpoint_takes_the_best_of_the_newest_run(trained, capsys):
    given = ["--trainer.default_root_dir", str(trained.parents[1]), "--trainer.enable_progress_bar", "false"]
    assert main(["validate", *given]) == 0
    assert f"checkpoint: {trained}/checkpoints/best.ckpt" in capsys.readouterr().out


def test_scores_of_a_test_equal_those_of_its_results_file(trained, coco_root, capsys):
    given = ["--ckpt_path", str(trained / "checkpoints" / "best.ckpt"), "--trainer.enable_progress_bar", "false"]
    assert main(["test", *given]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    annotations = coco_root / "annotations" / "instances_test.json"
    scored = ["--annotations", str(annotations), "--results", str(run / "predictions.json"), "--json", "figures.json"]
    assert main(["evaluate", *scored]) == 0
    figures = json.loads(Path("figures.json").read_text())
    written = json.loads((run / "metrics.json").read_text())
    assert {name: written[f"test/{name}"] for name in figures} == {
        n: None if v == -1 else v for n, v in figures.items()
    }


def test_resume_goes_on_with_the_same_run_and_the_command_line_wins(trained, capsys):
    given = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3"]
    assert main(["fit", *given, "--model.lr", "0.0123"]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    config = (run / "config.yaml").read_text()
    assert "width_mult: 0.25" in config
    assert "lr: 0.0123" in config
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (2, 6)
    assert {group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {0.0123}


def test_a_resumed_run_begins_with_the_best_of_the_one_before(trained, capsys):
    """Ruined by its learning rate, the third epoch must not become the best."""
    before = json.loads((trained / "metrics.json").read_text())["val/map"]
    given = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3", "--model.lr", "3"]
    assert main(["fit", *given, "--model.optimizer", "adamw"]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    assert json.loads((run / "metrics.json").read_text())["val/map"] >= before
    assert (run / "checkpoints" / "best.ckpt").is_file()


def test_the_last_epoch_is_validated_whatever_the_interval(coco_root, capsys):
    given = [
        "--data.root",
        str(coco_root),
        *SMALL,
        "--trainer.max_epochs",
        "3",
        "--trainer.check_val_every_n_epoch",
        "2",
    ]
    assert main(["fit", *given]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    header, *rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
    validated = {int(row[header.index("epoch")]) for row in rows if row[header.index("val/map")]}
    assert {1, 2} <= validated


def test_a_run_too_short_for_a_validation_still_ends_with_a_score(coco_root, capsys):
    assert main(["fit", "--data.root", str(coco_root), *SMALL, "--trainer.max_steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "COCO mAP" in printed
    assert (Path(printed.strip().splitlines()[-1].removeprefix("run: ")) / "checkpoints" / "best.ckpt").is_file()


def test_two_processes_train_score_and_list_bad_images_as_one(write_coco, tmp_path):
    root = write_coco(tmp_path / "data", {"train": 8, "val": 3})
    (root / "train" / "train_03.png").write_bytes(b"")
    given = ["--data.root", str(root), *SMALL, *SHORT, "--data.max_bad_fraction", "0.5", "--data.batch_size", "1"]
    given += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = [sys.executable, "-m", "tasks.detection", "fit", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Path(done.stdout.strip().splitlines()[-1].removeprefix("run: "))
    assert "train_03.png\tit is empty" in (run / "bad_images.txt").read_text()
    assert len({row["image_id"] for row in json.loads((run / "predictions.json").read_text())}) == 3
    assert [path.name for path in (tmp_path / "runs" / "detection").iterdir() if not path.is_symlink()] == [run.name]


def test_predict_writes_results_and_pictures_for_a_folder_and_names_what_it_cannot_read(trained, coco_root, capsys):
    source = Path("photos")
    shutil.copytree(coco_root / "test", source)
    (source / "broken.jpg").write_bytes(b"<html>")
    (source / "notes.txt").write_text("not a picture")
    given = ["--source", str(source), "--ckpt_path", str(trained / "checkpoints" / "best.ckpt"), "--min_score", "0.02"]
    assert main(["predict", *given]) == 0
    printed = capsys.readouterr()
    assert "broken.jpg: it is a web page" in printed.err
    run = Path(printed.out.strip().splitlines()[-1].removeprefix("run: "))
    results = json.loads((run / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= {2, 5}
    assert {row["image_id"] for row in results} <= {2, 3, 4, 5}  # broken.jpg is the first in order
    for name in ("test_00.png", "test_03.png"):
        assert Image.open(run / "pictures" / f"{name}.jpg").size == (128, 96)
    assert len(list((run / "pictures").iterdir())) == 4


def test_predict_keeps_cocos_ids_where_the_names_are_ids(trained, coco_root, capsys):
    Path("photos").mkdir()
    shutil.copy(coco_root / "test" / "test_00.png", "photos/000000000139.png")
    given = ["--source", "photos", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt"), "--class_agnostic"]
    assert main(["predict", *given]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    assert {row["image_id"] for row in json.loads((run / "predictions.json").read_text())} == {139}


def test_predict_asks_for_pictures_where_the_net_is_not_the_samples(trained, capsys):
    args = ["predict", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt")]
    refused(main, args, r"was trained on .*; name pictures to detect in with --source", capsys)


def test_load_detects_in_a_path_an_array_and_a_picture_alike(trained, coco_root):
    detect = load(trained / "checkpoints" / "best.ckpt")
    path = coco_root / "test" / "test_01.png"
    by_path = detect(path, min_score=0.02)
    assert len(by_path.scores) > 0
    assert by_path.boxes_xyxy.shape == (len(by_path.scores), 4)
    assert set(by_path.names) <= {"disc", "bar"}
    assert (np.diff(by_path.scores) <= 0).all()
    assert (by_path.boxes_xyxy >= 0).all()
    assert (by_path.boxes_xyxy <= [128, 96, 128, 96]).all()
    for other in (detect(Image.open(path), min_score=0.02), detect(np.asarray(Image.open(path)), min_score=0.02)):
        assert np.array_equal(other.boxes_xyxy, by_path.boxes_xyxy)
        assert other.names == by_path.names
    with pytest.raises(InputError, match="there is no such file"):
        detect("nowhere.jpg")


def broken(kind, root):
    """Spoil a copy of the data in one way."""
    annotations = root / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    if kind == "no annotations":
        shutil.rmtree(root / "annotations")
    elif kind == "not COCO":
        annotations.write_text('{"photos": []}')
    elif kind == "unknown category":
        content["annotations"][3]["category_id"] = 77
        annotations.write_text(json.dumps(content))
    elif kind == "unknown image":
        content["annotations"][3]["image_id"] = 4711
        annotations.write_text(json.dumps(content))
    elif kind == "no images":
        for path in (root / "train").iterdir():
            path.unlink()
    return root


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no annotations", r"has no annotation file; tried .*instances_train\*\.json"),
        ("not COCO", r"instances_train.json is not COCO: it has no list `images`"),
        ("unknown category", r"annotation 4: `category_id` 77 is not among `categories`"),
        ("unknown image", r"annotation 4: `image_id` 4711 is not among `images`"),
        ("no images", r"none of its 8 images is there"),
    ],
)
def test_spoilt_data_are_one_sentence_and_no_run(kind, message, coco_root, tmp_path, capsys):
    root = broken(kind, Path(shutil.copytree(coco_root, tmp_path / "spoilt")))
    refused(main, ["fit", "--data.root", str(root)], message, capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "--data.root nowhere does not exist"),
        (["--data.image_size", "16"], "image size 16 px"),
        (["--data.image_size", "[300]"], "image_size"),
        (["--model.nonsense", "1"], "--model.nonsense"),
        (["--model.widht_mult", "0.5"], "Did you mean --model.width_mult"),
        (["--model.width_mult", "0"], "width_mult is 0"),
        (["--model.width_mult", "wide"], "width_mult"),
        (["--model.head", "yolo"], "head"),
        (["--model.weights", "none.pth"], "none.pth"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--ckpt_path", "none.ckpt"], "The checkpoint none.ckpt does not exist"),
        (["--trainer.max_epochs", "-1"], "max_epochs"),
        (["--model.lr", "-1"], "--model.lr is -1"),
        (["--trainer.accelerator", "warp"], "warp"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_no_run(args, message, coco_root, capsys):
    root = [] if "--data.root" in args else ["--data.root", str(coco_root)]
    refused(main, ["fit", *root, *args], message, capsys)


def test_a_file_that_is_no_checkpoint_is_refused(coco_root, capsys):
    Path("x.ckpt").write_text("hello")
    for command in ("fit", "test", "predict"):
        refused(main, [command, "--ckpt_path", "x.ckpt"], "x.ckpt is not a checkpoint that can be read safely", capsys)


def test_classes_of_checkpoint_and_data_that_differ_are_both_named(trained, coco_root, tmp_path, capsys):
    root = Path(shutil.copytree(coco_root, tmp_path / "three"))
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"].append({"id": 9, "name": "star"})
        path.write_text(json.dumps(content))
    args = ["test", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt"), "--data.root", str(root)]
    refused(
        main, args, r"trained for 2 classes: disc \(id 2\), bar \(id 5\), but .* 3 classes: .*star \(id 9\)", capsys
    )


def test_weights_of_another_width_say_what_was_found(trained, coco_root, capsys):
    weights = str(trained / "checkpoints" / "best.ckpt")  # 0.25
    args = ["fit", "--data.root", str(coco_root), "--model.weights", weights, "--model.width_mult", "0.5"]
    refused(main, args, r"0\.25", capsys)
