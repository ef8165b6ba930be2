"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import completed, figures, in_two_processes, refused, rows_of, tree
from PIL import Image

from backbone import InputError
from tasks.face_embeddings import load
from tasks.face_embeddings.__main__ import main

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--model.embedding_size", "16", "--data.image_size", "32"]
SMALL += ["--data.batch_size", "4", "--data.num_workers", "0"]
SHORT = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
FIGURES = {"verification_accuracy", "verification_accuracy_std", "tar_at_far_0.001", "auc"}
run = partial(completed, main)


@pytest.fixture(scope="module")
def trained(people_root, teacher, tmp_path_factory):
    """A run folder of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(people_root), "--trainer.default_root_dir", str(folder), *SMALL, *SHORT]
    given += ["--model.weights", teacher, "--model.trunk_lr_mult", "0"]  # so soon a trunk of its own tells nothing
    assert main(["fit", *given, "--model.teacher", teacher]) == 0
    return (folder / "face_embeddings" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


@pytest.fixture
def lfw(people_root, tmp_path):
    """Three people with two images each and a list of pairs in two folds."""
    for k, name in enumerate(("Ann_Lee", "Bo", "Cy")):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in range(2):
            source = people_root / "img_align_celeba" / f"{2 * k + i + 1:06}.jpg"
            shutil.copyfile(source, tmp_path / "lfw" / name / f"{name}_{i + 1:04}.jpg")
    lines = ["2\t1", "Ann_Lee\t1\t2", "Ann_Lee\t1\tCy\t2", "Bo\t1\t2", "Bo\t2\tCy\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return ["--data.pairs", str(tmp_path / "pairs.txt"), "--data.pairs_root", str(tmp_path / "lfw")]


def test_two_processes_score_as_one(best, capsys):
    _, alone = run(capsys, "test", "--ckpt_path", best)
    together = in_two_processes("face_embeddings", "test", "--ckpt_path", best, "--data.num_workers", "0")
    assert figures(together) == pytest.approx(figures(alone), rel=1e-5)
    one, other = (rows_of(folder / "pairs.csv") for folder in (together, alone))
    assert [(row["first"], row["second"]) for row in one] == [(row["first"], row["second"]) for row in other]
    distances = [float(row["squared_distance"]) for row in other]
    assert [float(row["squared_distance"]) for row in one] == pytest.approx(distances, abs=2e-6)


def test_a_run_leaves_what_the_readme_promises_and_the_data_as_they_were(best, teacher, people_root, capsys):
    before = tree(people_root)
    _, folder = run(capsys, "test", "--ckpt_path", best, "--model.teacher", teacher)
    assert tree(people_root) == before
    names = {"config.yaml", "metrics.json", "nets.csv", "pairs.csv", "images.csv", "pictures"}
    assert {path.name for path in folder.iterdir()} >= names
    pictures = {"roc.png", "worst_pairs.png", "farthest_from_teacher.png"}
    assert {path.name for path in (folder / "pictures").iterdir()} == pictures
    scores = figures(folder)
    assert {f"test/{who}{name}" for name in FIGURES for who in ("", "teacher_")} <= set(scores)
    assert (scores["test/images"], scores["test/pairs"]) == (8, 8)


def test_on_the_sample_the_newest_net_of_attributes_is_the_teacher_and_config_yaml_names_it(
    people_root, teacher, tmp_path, capsys
):
    """The sample stands for the 3,400 faces, which take a while to draw."""
    shutil.copytree(people_root, "datasets/sample_faces")
    given = ["fit", "--model.teacher", "null", *SMALL, *SHORT]
    refused(main, given, "under runs.*`python -m tasks.face_attributes fit`", capsys)
    elsewhere = ["--trainer.default_root_dir", "elsewhere"]
    refused(main, [*given, *elsewhere], "under elsewhere", capsys)
    contents = torch.load(teacher, weights_only=True)
    of_sample = {**contents["datamodule_hyper_parameters"], "root": None}
    for day in (1, 2, 3):  # of which the last learnt other faces
        path = Path(f"elsewhere/face_attributes/2026-01-0{day}_00-00-00/checkpoints/best.ckpt")
        path.parent.mkdir(parents=True)
        torch.save(contents if day == 3 else {**contents, "datamodule_hyper_parameters": of_sample}, path)
    _, folder = run(capsys, *given, *elsewhere)
    assert "2026-01-02" in yaml.safe_load((folder / "config.yaml").read_text())["model"]["teacher"]
    assert not Path("runs").exists()
    named = ["--config", str(folder / "config.yaml")]
    _, folder = run(capsys, "test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), *named)
    assert "test/teacher_auc" in figures(folder)


def test_lfws_list_is_scored_and_the_loaded_net_is_the_tested_one(best, lfw, tmp_path, capsys):
    given = ["--ckpt_path", best, "--data.root", "gone", *lfw, "--trainer.precision", "32-true"]
    _, folder = run(capsys, "test", *given)
    rows = rows_of(folder / "pairs.csv")
    assert [(row["first"], row["second"], row["same"], row["fold"]) for row in rows] == [
        ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "1", "0"),
        ("Ann_Lee/Ann_Lee_0001.jpg", "Cy/Cy_0002.jpg", "0", "0"),
        ("Bo/Bo_0001.jpg", "Bo/Bo_0002.jpg", "1", "1"),
        ("Bo/Bo_0002.jpg", "Cy/Cy_0001.jpg", "0", "1"),
    ]
    embed = load(best)
    assert len({row["squared_distance"] for row in rows}) == 4
    assert max(float(row["squared_distance"]) for row in rows) > 0.01
    for row in rows:
        one, other = (embed(tmp_path / "lfw" / row[name]) for name in ("first", "second"))
        assert one.shape == (16,)
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
        assert np.square(one - other).sum() == pytest.approx(float(row["squared_distance"]), rel=1e-3, abs=1e-5)
    path = tmp_path / "lfw" / "Bo" / "Bo_0001.jpg"
    for other in (Image.open(path), np.asarray(Image.open(path))):
        assert np.array_equal(embed(other), embed(path))
    with pytest.raises(InputError, match="nowhere"):
        embed("nowhere.jpg")


def test_a_pair_with_an_unreadable_image_is_left_out_and_counted(best, lfw, tmp_path, capsys):
    (tmp_path / "lfw" / "Cy" / "Cy_0002.jpg").write_bytes(b"no image")
    _, folder = run(capsys, "test", "--ckpt_path", best, *lfw, "--data.max_bad_fraction", "0.5")
    assert [figures(folder)[f"test/{name}"] for name in ("pairs", "pairs_left_out", "images")] == [3, 1, 5]
    assert "Cy_0002.jpg" in (folder / "bad_images.txt").read_text()


def test_without_known_people_the_distance_from_the_teacher_is_all(faces_root, teacher, capsys):
    _, folder = run(capsys, "fit", "--data.root", str(faces_root), *SMALL, *SHORT, "--model.teacher", teacher)
    names = ("images", "cosine", "squared_distance", "teacher_spread")
    assert set(figures(folder)) == {f"val/{name}" for name in names}
    assert load(folder / "checkpoints" / "best.ckpt").head.threshold is None


def test_an_interrupted_run_goes_on_with_its_own_teacher(trained, capsys):
    """It is the one that its config names, and is loaded where the command names that config."""
    last = str(trained / "checkpoints" / "last.ckpt")
    refused(main, ["fit", "--ckpt_path", last, "--trainer.max_epochs", "2"], f"--config {trained}/config.yaml", capsys)
    named = ["--config", str(trained / "config.yaml")]
    _, folder = run(capsys, "fit", "--ckpt_path", last, *named, "--trainer.max_epochs", "2")
    assert (folder / "checkpoints" / "best.ckpt").is_file()


def test_predict_embeds_and_measures(best, people_root, capsys):
    faces = people_root / "img_align_celeba"
    one = str(faces / "000003.jpg")

    def predicted(*options):
        printed, folder = run(capsys, "predict", "--ckpt_path", best, "--source", str(faces), *options)
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        return printed, np.load(folder / "embeddings.npy"), [json.loads(line) for line in lines]

    _, embeddings, rows = predicted()
    assert embeddings.shape == (24, 16)
    embed, threshold = load(best), load(best).head.threshold
    for row in rows[::6]:
        np.testing.assert_allclose(embeddings[row["row"]], embed(row["file"]), atol=1e-4)
    printed, _, rows = predicted("--against", one)
    distances = {row["file"]: row["squared_distance"] for row in rows}
    assert distances[one] == pytest.approx(0, abs=1e-6)
    assert max(distances.values()) > 0.01
    nearest = [line.rpartition(": ")[2] for line in printed.splitlines() if line.endswith(".jpg")]
    assert nearest == sorted(distances, key=lambda file: (distances[file], file))[:20]
    for row in rows:
        expected = np.square(embeddings[int(Path(row["file"]).stem) - 1] - embed(one)).sum()
        assert row["squared_distance"] == pytest.approx(expected, abs=1e-5)
        assert row.get("one_person", False) == (threshold is not None and expected <= threshold)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--model.teacher"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--data.pairs", "p.txt"], "--data.pairs is p.txt"),
        (["--model.teacher", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--model.distance", "manhattan"], "distance"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_no_run(args, message, people_root, capsys):
    root = [] if "--data.root" in args else ["--data.root", str(people_root)]
    refused(main, ["fit", *root, *SMALL, *args], message, capsys)
