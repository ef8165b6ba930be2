"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import refused, tree
from PIL import Image

from backbone import InputError
from tasks.face_attributes import load
from tasks.face_attributes.__main__ import main

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"]
SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


def last_run(capsys):
    return Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))


@pytest.fixture(scope="module")
def trained(faces_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(faces_root), "--trainer.default_root_dir", str(folder), *SMALL, *SHORT]
    assert main(["fit", *given]) == 0
    return (folder / "face_attributes" / "latest").resolve()


def test_a_run_leaves_what_the_readme_promises_and_the_data_as_they_were(trained, faces_root, capsys):
    before = tree(faces_root)
    assert main(["test", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt")]) == 0
    run = last_run(capsys)
    assert tree(faces_root) == before
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.json",
        "per_attribute.csv",
        "predictions.csv",
        "model_card.md",
        "pictures",
    }
    assert {path.name for path in (run / "pictures").iterdir()} == {"per_attribute.png", "worst_errors.png"}
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["test/images"] == 6
    card = (run / "model_card.md").read_text()
    assert "non-commercial" in card  # CelebA's layout has CelebA's terms


def test_a_student_is_compared_with_its_teacher_and_the_teachers_figures_are_its_own(trained, faces_root, capsys):
    teacher = str(trained / "checkpoints" / "best.ckpt")
    pool = ["--data.unlabelled", str(faces_root / "unlabelled")]
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--model.teacher", teacher, *pool]
    assert main(["fit", *given]) == 0
    printed = capsys.readouterr().out
    assert "16 images, 8 of them without labels" in printed
    best = Path(printed.strip().splitlines()[-1].removeprefix("run: ")) / "checkpoints" / "best.ckpt"
    assert main(["test", "--ckpt_path", str(best), "--trainer.precision", "32-true"]) == 0
    figures = json.loads((last_run(capsys) / "metrics.json").read_text())
    assert main(["test", "--ckpt_path", teacher, "--trainer.precision", "32-true"]) == 0
    of_teacher = json.loads((last_run(capsys) / "metrics.json").read_text())
    assert figures["test/teacher_map"] == pytest.approx(of_teacher["test/map"], abs=1e-6)
    assert 0 <= figures["test/teacher_agreement"] <= 1
    assert figures["test/teacher_kl"] >= 0


def test_a_student_whose_teacher_is_gone_is_tested_without_it(trained, faces_root, tmp_path, capsys):
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    given = ["--data.root", str(faces_root), *SMALL, "--trainer.max_epochs", "1", "--model.teacher", str(teacher)]
    assert main(["fit", *given]) == 0
    best = last_run(capsys) / "checkpoints" / "best.ckpt"
    teacher.unlink()
    assert main(["test", "--ckpt_path", str(best)]) == 0
    printed = capsys.readouterr().out
    assert "without the teacher's figures: " in printed
    run = Path(printed.strip().splitlines()[-1].removeprefix("run: "))
    assert "test/teacher_map" not in json.loads((run / "metrics.json").read_text())


def test_predict_and_load_say_what_a_test_says(trained, faces_root, capsys):
    best = trained / "checkpoints" / "best.ckpt"
    assert main(["test", "--ckpt_path", str(best), "--trainer.precision", "32-true"]) == 0
    with (last_run(capsys) / "predictions.csv").open(newline="") as file:
        tested = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert main(["predict", "--ckpt_path", str(best), "--source", str(faces_root / "img_align_celeba")]) == 0
    rows = [json.loads(line) for line in (last_run(capsys) / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    describe = load(best)
    compared = 0
    for row in rows:
        found = describe(row["file"])
        assert found.names == ("Disc", "Bar")
        assert row["present"] == [name for name, has in zip(found.names, found.present, strict=True) if has]
        if (name := Path(row["file"]).name) in tested:
            compared += 1
            for attribute, value in row["attributes"].items():
                assert value == pytest.approx(float(tested[name][attribute]), abs=1e-4)
    assert compared == 6
    path = faces_root / "img_align_celeba" / "000001.jpg"
    for other in (Image.open(path), np.asarray(Image.open(path))):
        assert np.array_equal(describe(other).probabilities, describe(path).probabilities)
    with pytest.raises(InputError, match="there is no such file"):
        describe("nowhere.jpg")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "--data.root nowhere does not exist"),
        (["--data.attributes", "[Disk]"], "the nearest is 'Disc'"),
        (["--data.unlabelled", "nowhere"], "--data.unlabelled nowhere does not exist"),
        (["--model.teacher", "nowhere.ckpt"], "the teacher nowhere.ckpt does not exist"),
        (["--model.teacher", "torchvision:resnet18"], "has no weights, and a random one has nothing to teach"),
        (["--model.temperature", "-1"], "the temperature is -1.0"),
        (["--model.lr", "0"], "--model.lr is 0.0"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_no_run(args, message, faces_root, capsys):
    root = [] if "--data.root" in args else ["--data.root", str(faces_root)]
    refused(main, ["fit", *root, *SMALL, *args], message, capsys)
