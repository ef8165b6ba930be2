"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused, same, tree
from PIL import Image

from backbone import InputError
from data.readers.celeba import LICENCE
from tasks.face_attributes import load
from tasks.face_attributes.__main__ import main
from tasks.face_attributes.head import AttributesHead
from tasks.face_attributes.module import FaceAttributesModule
from tasks.face_attributes.provenance import find_sources, licences, sentence

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"]
SHORT = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]


def last_run(capsys):
    return Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))


@pytest.fixture(scope="module")
def trained(faces_root, tmp_path_factory):
    """A run folder of one epoch."""
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
    assert json.loads((run / "metrics.json").read_text())["test/images"] == 6


def test_a_student_is_compared_with_its_teacher_and_the_teachers_figures_are_its_own(trained, faces_root, capsys):
    teacher = str(trained / "checkpoints" / "best.ckpt")
    pool = ["--data.unlabelled", str(faces_root / "unlabelled")]
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--model.teacher", teacher, *pool]
    assert main(["fit", *given]) == 0
    best = last_run(capsys) / "checkpoints" / "best.ckpt"
    assert main(["test", "--ckpt_path", str(best), "--trainer.precision", "32-true"]) == 0
    figures = json.loads((last_run(capsys) / "metrics.json").read_text())
    assert main(["test", "--ckpt_path", teacher, "--trainer.precision", "32-true"]) == 0
    of_teacher = json.loads((last_run(capsys) / "metrics.json").read_text())
    for name in ("map", "ece"):  # which no threshold decides
        assert figures[f"test/teacher_{name}"] == pytest.approx(of_teacher[f"test/{name}"], abs=1e-6)
    assert 0 <= figures["test/teacher_agreement"] <= 1
    assert figures["test/teacher_kl"] >= 0


def card_of(checkpoint, capsys, *options):
    assert main(["test", "--ckpt_path", str(checkpoint), *options]) == 0
    run = last_run(capsys)
    return (run / "model_card.md").read_text(), json.loads((run / "metrics.json").read_text())


def test_the_card_of_a_net_tested_on_other_data_says_what_it_was_trained_on(trained, faces_root, tmp_path, capsys):
    rows = [line.split() for line in (faces_root / "list_attr_celeba.txt").read_text().splitlines()[2:]]
    lines = [f"{name},{int(disc == '1')},{int(bar == '1')}" for name, disc, bar in rows]
    other = tmp_path / "own"
    shutil.copytree(faces_root / "img_align_celeba", other)
    (other / "attributes.csv").write_text("\n".join(["path,Disc,Bar", *lines]) + "\n")
    card, figures = card_of(trained / "checkpoints" / "best.ckpt", capsys, "--data.root", str(other))
    assert f"Trained on {faces_root}. Scored on {int(figures['test/images'])} images of {other}. " in card
    assert "non-commercial research" in card  # CelebA's terms bind what was trained on its layout


class Data:
    """What is looked at of a data module."""

    def __init__(self, root, unlabelled=None, licence=""):
        self.hparams, self.licence = {"root": root, "unlabelled": unlabelled}, licence


def test_a_net_inherits_what_its_teacher_and_its_first_weights_were_trained_on(trained, faces_root):
    best, of_celeba = str(trained / "checkpoints" / "best.ckpt"), str(faces_root / "img_align_celeba")
    alone = {"teacher": None, "teacher_weight": None, "weights": None}
    for data, options, expected in (
        (Data("own"), {}, "Trained on own."),
        (Data("own"), {"teacher": best}, f"Trained on own; its teacher on {faces_root}."),
        (
            Data("own"),
            {"teacher": [{"source": best}, {"source": "a:b"}]},
            f"Trained on own; its teacher on {faces_root}.",
        ),
        (Data("own"), {"teacher": best, "teacher_weight": 0.0}, "Trained on own."),
        (Data("own"), {"weights": best}, f"Trained on own; its first weights on {faces_root}."),
        (Data("own"), {"teacher": "gone.ckpt", "weights": "timm.safetensors"}, "Trained on own."),
        (Data("own", of_celeba), {}, f"Trained on own and {of_celeba}."),
    ):
        sources = find_sources(data, {**alone, **options})
        assert sentence(sources) == expected
        assert licences(sources) == (LICENCE if str(faces_root) in expected else "")


def test_the_card_names_the_teacher_of_the_fit_alone_and_the_images_that_were_scored(trained, faces_root, capsys):
    best = str(trained / "checkpoints" / "best.ckpt")
    card, figures = card_of(best, capsys, "--model.teacher", best, "--data.test_split", "train")
    assert "test/teacher_map" in figures  # compared with it, but not taught by it
    assert best not in card
    assert "## Figures on `train`\n\nThe net was trained on these images" in card
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--model.teacher", best]
    for weight, taught in (("0", False), ("0.5", True)):
        assert main(["fit", *given, "--model.teacher_weight", weight]) == 0
        card, _ = card_of(last_run(capsys) / "checkpoints" / "best.ckpt", capsys)
        assert (f": {best}." in card) == ("its teacher on" in card) == taught
        assert "flatter" not in card


def test_a_net_that_no_label_scores_ends_with_its_newest_weights(trained, faces_root, tmp_path, capsys):
    pictures = tmp_path / "own"
    shutil.copytree(faces_root / "unlabelled", pictures)
    rows = [f"{path.name},," for path in sorted(pictures.iterdir())]
    (pictures / "attributes.csv").write_text("\n".join(["path,Disc,Bar", *rows]) + "\n")
    teacher = ["--model.teacher", str(trained / "checkpoints" / "best.ckpt")]
    assert main(["fit", "--data.root", str(pictures), *SMALL, *SHORT, *teacher, "--trainer.max_epochs", "2"]) == 0
    folder = last_run(capsys) / "checkpoints"
    best, last = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] > 1


def test_the_card_divides_the_images_by_an_attribute_that_the_net_did_not_learn(faces_root, capsys):
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--data.attributes", "[Bar]"]
    assert main(["fit", *given, "--data.subgroups", "[Disc]"]) == 0
    card, figures = card_of(last_run(capsys) / "checkpoints" / "best.ckpt", capsys)
    discs = [line.split()[1] for line in (faces_root / "list_attr_celeba.txt").read_text().splitlines()[2:]][14:]
    assert f"| with `Disc` | {discs.count('1')} |" in card
    assert f"| without `Disc` | {discs.count('-1')} |" in card
    assert "test/ap/Disc" not in figures


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
    with pytest.raises(InputError, match="nowhere"):
        describe("nowhere.jpg")


def test_a_run_stopped_in_its_last_validation_is_validated_when_it_goes_on(faces_root, monkeypatch, capsys):
    """Its last weights are the best here, and nobody had seen it."""
    step, end = FaceAttributesModule.validation_step, FaceAttributesModule.on_validation_epoch_end

    def stopped(self, batch, batch_idx):
        if self.trainer.state.fn == "fit" and self.trainer.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    def scored(self):
        end(self)
        self.log("val/step", float(self.global_step))

    monkeypatch.setattr(FaceAttributesModule, "on_validation_epoch_end", scored)
    monkeypatch.setattr(AttributesHead, "monitor", "step")
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--trainer.precision", "32-true"]
    given += ["--trainer.max_epochs", "2", "--trainer.max_steps", "4"]  # at which a trainer that goes on does nothing
    assert main(["fit", *given]) == 0
    whole = last_run(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(FaceAttributesModule, "validation_step", stopped)
        assert main(["fit", *given]) == 130
    left = capsys.readouterr().out.strip().splitlines()[-1].rpartition(" ")[2]
    assert main(["fit", "--ckpt_path", left]) == 0
    resumed = last_run(capsys)
    assert json.loads((resumed / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    for name in ("best.ckpt", "last.ckpt"):
        ended, wanted = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (resumed, whole))
        assert ended["global_step"] == wanted["global_step"] == 4
        assert same(ended["state_dict"], wanted["state_dict"])
    best = torch.load(resumed / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["head"]["thresholds"] == wanted["head"]["thresholds"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", "nowhere"], "nowhere"),
        (["--data.attributes", "[Disk]"], "'Disk'.*'Disc'"),
        (["--data.attributes", "[Bar]", "--data.subgroups", "[Hat]"], "--data.subgroups.*'Hat'"),
        (["--data.unlabelled", "nowhere"], "--data.unlabelled nowhere"),
        (["--model.teacher", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--model.teacher", "torchvision:resnet18"], "torchvision:resnet18.*weights"),
        (["--model.teacher", "math:sqrt"], "math:sqrt"),
        (["--model.teacher", "[{source: gone.ckpt, share: abc}]"], "'share': 'abc'"),
        (["--model.temperature", "-1"], "--model.temperature is -1.0"),
        (["--model.lr", "0"], "--model.lr is 0.0"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_no_run(args, message, faces_root, capsys):
    root = [] if "--data.root" in args else ["--data.root", str(faces_root)]
    refused(main, ["fit", *root, *SMALL, *args], message, capsys)
