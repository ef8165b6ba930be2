"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_content import CATEGORIES, coco_folder, content
from helpers import completed, figures, in_two_processes, refused, rows_of, tree
from hotcoco.primitives import bbox_iou
from PIL import Image

from backbone import InputError
from tasks.detection import load
from tasks.detection.__main__ import main
from tasks.detection.predict import numbered

pytestmark = pytest.mark.slow  # whole commands

CONFIG = Path(__file__).parents[3] / "configs/detection/bccd.yaml"
QUIET = ["--trainer.enable_progress_bar", "false"]
SMALL = ["--model.width_mult", "0.25", "--data.image_size", "96", "--data.batch_size", "4", "--data.num_workers", "0"]
run = partial(completed, main)


@pytest.fixture(scope="module")
def trained(coco_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(coco_root), "--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "2"]
    assert main(["fit", *given, *SMALL, *QUIET]) == 0
    return (folder / "detection" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


@pytest.mark.usefixtures("offline")
def test_fit_needs_nothing_but_the_data_root_and_reaches_no_network(coco_root, capsys):
    before = tree(coco_root)
    quick = ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    printed, folder = run(capsys, "fit", "--data.root", str(coco_root), *quick)
    assert tree(coco_root) == before
    assert folder.parent == Path("runs/detection")
    assert "COCO mAP " in printed


def test_a_run_leaves_what_the_readme_promises(trained):
    files = {"config.yaml", "checkpoints", "metrics.csv", "metrics.json", "predictions.json", "ap_by_class.csv"}
    assert {path.name for path in trained.iterdir()} == files | {"pictures"}
    pictures = {"curves.png", "precision_recall.png", "detections.png", "worst_errors.png"}
    assert {path.name for path in (trained / "pictures").iterdir()} == pictures
    highest = max(float(row["val/map"]) for row in rows_of(trained / "metrics.csv") if row["val/map"])
    assert figures(trained)["val/map"] == pytest.approx(highest)
    assert all(value is None or isinstance(value, float | int) for value in figures(trained).values())


def test_scores_of_a_test_equal_those_of_its_results_file(best, coco_root, capsys):
    _, folder = run(capsys, "test", "--ckpt_path", best, *QUIET)
    annotations = str(coco_root / "annotations" / "instances_test.json")
    results = str(folder / "predictions.json")
    assert main(["evaluate", "--annotations", annotations, "--results", results, "--json", "figures.json"]) == 0
    scored = json.loads(Path("figures.json").read_text())
    written = {name: figures(folder)[f"test/{name}"] for name in scored}
    assert written == {name: None if value == -1 else value for name, value in scored.items()}
    assert figures(folder).keys() >= {"test/ap/disc", "test/ap/bar"}


def test_a_config_tests_a_net_of_another_shape_at_the_size_asked_for(best, coco_root, capsys):
    given = ["--config", str(CONFIG), "--data.root", str(coco_root), "--data.num_workers", "0"]
    printed, folder = run(capsys, "test", *given, "--data.image_size", "128", "--ckpt_path", best, *QUIET)
    assert "--model.width_mult 1.0 is not used" in printed
    assert "note: images are 128 x 128 px, and the checkpoint was trained at 96 x 96 px" in printed
    config = (folder / "config.yaml").read_text()
    assert "width_mult: 0.25" in config
    assert "image_size: 128" in config


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_suppression_over_all_classes_is_an_option_of_test_and_of_predict(best, coco_root, capsys, class_agnostic):
    given = ["--ckpt_path", best]
    _, folder = run(capsys, "test", *given, "--model.class_agnostic", str(class_agnostic).lower(), *QUIET)
    source = ["--source", str(coco_root / "test"), *["--class_agnostic"] * class_agnostic]
    _, predicted = run(capsys, "predict", *given, *source)
    for results in (folder, predicted):
        rows = json.loads((results / "predictions.json").read_text())
        first = [row for row in rows if row["image_id"] == rows[0]["image_id"]]
        disc, bar = ([row["bbox"] for row in first if row["category_id"] == number] for number in (2, 5))
        iou = bbox_iou(np.array(disc), np.array(bar), [False] * len(bar))
        assert (iou.max() < 0.61) == class_agnostic  # else both classes have a box at one anchor


def test_the_last_epoch_is_validated_whatever_the_interval(coco_root, capsys):
    given = ["--data.root", str(coco_root), "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"]
    _, folder = run(capsys, "fit", *given, *SMALL)
    assert {"1", "2"} <= {row["epoch"] for row in rows_of(folder / "metrics.csv") if row["val/map"]}


def test_a_resumed_run_begins_with_the_best_of_the_one_before(trained, capsys):
    """Ruined by its learning rate, the third epoch must not become the best."""
    given = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3", "--model.lr", "3"]
    _, folder = run(capsys, "fit", *given)
    assert figures(folder)["val/map"] >= figures(trained)["val/map"]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (2, 6)
    assert {group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {3}


def test_two_processes_train_score_and_list_bad_images_as_one(write_coco, tmp_path):
    root = write_coco(tmp_path / "data", {"train": 8, "val": 3})
    (root / "train" / "train_03.png").write_bytes(b"")
    given = ["--data.root", str(root), *SMALL, *QUIET, "--data.max_bad_fraction", "0.5", "--data.batch_size", "2"]
    folder = in_two_processes("detection", "fit", *given, "--trainer.max_epochs", "1")
    assert "train_03.png\tit is empty" in (folder / "bad_images.txt").read_text()
    assert len({row["image_id"] for row in json.loads((folder / "predictions.json").read_text())}) == 3
    assert [path.name for path in (tmp_path / "runs" / "detection").iterdir() if not path.is_symlink()] == [folder.name]


def test_predict_writes_results_and_images_of_a_folder_and_names_what_it_cannot_read(best, coco_root, capsys):
    source = Path("photos")
    shutil.copytree(coco_root / "test", source)
    (source / "broken.jpg").write_bytes(b"<html>")
    assert main(["predict", "--source", str(source), "--ckpt_path", best, "--conf", "0.02"]) == 0
    printed = capsys.readouterr()
    assert "broken.jpg: it is a web page" in printed.err
    folder = Path(printed.out.strip().splitlines()[-1].removeprefix("run: "))
    results = json.loads((folder / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= {2, 5}
    ids = {"broken.jpg": 1, "test_00.png": 2, "test_01.png": 3, "test_02.png": 4, "test_03.png": 5}
    assert {(row["file_name"], row["image_id"]) for row in results} <= set(ids.items())
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert sum(len(line["objects"]) for line in lines) == len(results) > 0
    assert len(list((folder / "pictures").iterdir())) == 4
    assert Image.open(folder / "pictures" / "test_03.jpg").size == (128, 96)


def test_predict_keeps_cocos_ids_where_the_names_are_ids():
    one, other = Path("000000000139.jpg"), Path("000000000285.jpg")
    assert numbered([one, other]) == {one: 139, other: 285}
    assert numbered([one, Path("139.png")]) == {one: 1, Path("139.png"): 2}


def test_load_detects_in_a_path_an_array_and_an_image_alike(trained, coco_root):
    detect, path = load(trained), coco_root / "test" / "test_01.png"
    by_path = detect(path, conf=0.02)
    assert len(by_path.scores) > 0
    assert by_path.boxes_xyxy.shape == (len(by_path.scores), 4)
    assert set(zip(by_path.names, by_path.category_ids.tolist(), strict=True)) <= {("disc", 2), ("bar", 5)}
    assert (np.diff(by_path.scores) <= 0).all()
    assert (by_path.boxes_xyxy >= 0).all()
    assert (by_path.boxes_xyxy <= [128, 96, 128, 96]).all()
    for other in (detect(Image.open(path), conf=0.02), detect(np.asarray(Image.open(path)), conf=0.02)):
        assert np.array_equal(other.boxes_xyxy, by_path.boxes_xyxy)
        assert other.names == by_path.names
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        detect("nowhere.jpg")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--data.root", "spoilt"], r"annotations\[3\] \(id 4\): `category_id` 77"),
        (["fit", "--data.root", __file__], "is not a folder"),
        (["fit", "--model.head", "yolo"], "head"),
        (["fit", "--config", "cut.yaml"], r"cut\.yaml is not valid YAML"),
        (["fit", "--config=empty.yaml"], r"empty\.yaml is empty"),
        (["fit", "--config", "nowhere.yaml"], r"nowhere\.yaml cannot be read \(No such file"),
        (["test", "--config", "."], r"\. cannot be read \(Is a dir"),
        (["fit", "--config", "modle.yaml"], r"modle\.yaml: .*'modle\.lr'\. Did you mean model\.lr\?"),
        (["fit", "--config", "lr.yaml"], r"lr\.yaml: .*model\.lr.*fast"),
        (["fit", "--config", "number.yaml"], r"number\.yaml: model is 1"),
        (["fit", "--model.widht_mult", "0.5"], "Did you mean --model.width_mult"),
        (["fit", "--model.width", "0.5"], "Did you mean --model.width_mult"),
        (["fit", "--trainer.accelerator", "warp"], "warp"),
        (["predict"], r"best\.ckpt.*--source"),
        (["predict", "--conf", "2", "--source", "spoilt/test"], "--conf 2"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_no_run(args, message, best, coco_root, capsys):
    annotations = Path(shutil.copytree(coco_root, "spoilt")) / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][3]["category_id"] = 77
    annotations.write_text(json.dumps(content))
    texts = {
        "cut": "model: [1",
        "empty": "",
        "modle": "modle: {lr: 1}",
        "lr": "model: {lr: fast}",
        "number": "model: 1",
    }
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)
    if args[0] == "predict":
        args = [*args, "--ckpt_path", best]
    elif "--data.root" not in args:
        args = [*args, "--data.root", str(coco_root)]
    refused(main, args, message, capsys)


def test_a_validation_part_without_objects_is_said_to_measure_nothing_and_the_newest_weights_are_kept(tmp_path, capsys):
    root = coco_folder(tmp_path / "data", train=content(4), val=content(2, []))
    given = ["--data.root", str(root), "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "2"]
    printed, folder = run(capsys, "fit", *given, *SMALL, *QUIET)
    assert printed.count("not measured: the validation images have no object") == 2  # COCO mAP and AP50
    assert " -1" not in printed
    assert " nan" not in printed
    assert set(figures(folder).values()) == {None}
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 1
    alone = coco_folder(tmp_path / "alone", val=content(2, categories=CATEGORIES[:1], annotations=[]))
    printed, again = run(capsys, "validate", "--data.root", str(alone), "--ckpt_path", str(folder), *QUIET)
    assert "not measured" in printed  # and one class alone is among those of the checkpoint
    assert figures(again).keys() == figures(folder).keys()
