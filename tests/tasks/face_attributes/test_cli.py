"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import completed, figures, refused, rows_of, same, tree
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
EXACT = ["--trainer.precision", "32-true"]
run = partial(completed, main)


@pytest.fixture(scope="module")
def trained(faces_root, tmp_path_factory):
    """A run folder of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(faces_root), "--trainer.default_root_dir", str(folder), *SMALL, *SHORT]
    assert main(["fit", *given]) == 0
    return (folder / "face_attributes" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


def best_of(folder):
    return str(folder / "checkpoints" / "best.ckpt")


def test_a_run_leaves_what_the_readme_promises_and_the_data_as_they_were(best, faces_root, capsys):
    before = tree(faces_root)
    _, folder = run(capsys, "test", "--ckpt_path", best)
    assert tree(faces_root) == before
    tables = {"metrics.json", "per_attribute.csv", "predictions.csv"}
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "model_card.md", "pictures", *tables}
    assert {path.name for path in (folder / "pictures").iterdir()} == {"per_attribute.png", "worst_errors.png"}
    assert figures(folder)["test/images"] == 6


def test_a_student_is_compared_with_its_teacher_and_the_teachers_figures_are_its_own(best, faces_root, capsys):
    given = ["--data.root", str(faces_root), "--data.unlabelled", str(faces_root / "unlabelled"), *SMALL, *SHORT]
    _, folder = run(capsys, "fit", *given, "--model.teacher", best)
    student, teacher = (
        figures(run(capsys, "test", "--ckpt_path", checkpoint, *named, *EXACT)[1])
        for checkpoint, named in ((best_of(folder), ["--model.teacher", best]), (best, []))
    )
    for name in ("map", "ece"):  # which no threshold decides
        assert student[f"test/teacher_{name}"] == pytest.approx(teacher[f"test/{name}"], abs=1e-6)
    assert 0 <= student["test/teacher_agreement"] <= 1
    assert student["test/teacher_kl"] >= 0


def card_of(checkpoint, capsys, *options):
    _, folder = run(capsys, "test", "--ckpt_path", checkpoint, *options)
    return (folder / "model_card.md").read_text(), figures(folder)


def labels_of(root):
    """The lines of CelebA's list: (file, disc, bar)."""
    return [line.split() for line in (root / "list_attr_celeba.txt").read_text().splitlines()[2:]]


def relabelled(images, folder, rows):
    """A copy of the images with `attributes.csv`."""
    shutil.copytree(images, folder)
    (folder / "attributes.csv").write_text("\n".join(["path,Disc,Bar", *rows]) + "\n")
    return str(folder)


def test_the_card_of_a_net_tested_on_other_data_says_what_it_was_trained_on(best, faces_root, tmp_path, capsys):
    rows = [f"{name},{int(disc == '1')},{int(bar == '1')}" for name, disc, bar in labels_of(faces_root)]
    other = relabelled(faces_root / "img_align_celeba", tmp_path / "own", rows)
    card, scores = card_of(best, capsys, "--data.root", other)
    assert f"Trained on {faces_root}. Scored on {int(scores['test/images'])} images of {other}. " in card
    assert "non-commercial research" in card  # CelebA's terms bind what was trained on its layout


def test_a_net_inherits_what_its_teacher_and_its_first_weights_were_trained_on(best, faces_root):
    of_celeba = str(faces_root / "img_align_celeba")
    alone, several = {"teacher": None, "teacher_weight": None, "weights": None}, [{"source": best}, {"source": "a:b"}]
    for unlabelled, options, expected in (
        (None, {}, "Trained on own."),
        (None, {"teacher": best}, f"Trained on own; its teacher on {faces_root}."),
        (None, {"teacher": several}, f"Trained on own; its teacher on {faces_root}."),
        (None, {"teacher": best, "teacher_weight": 0.0}, "Trained on own."),
        (None, {"weights": best}, f"Trained on own; its first weights on {faces_root}."),
        (None, {"teacher": "gone.ckpt", "weights": "timm.safetensors"}, "Trained on own."),
        (of_celeba, {}, f"Trained on own and {of_celeba}."),
    ):
        data = SimpleNamespace(source="own", hparams={"root": "own", "unlabelled": unlabelled}, licence="")
        sources = find_sources(data, {**alone, **options})
        assert sentence(sources) == expected
        assert licences(sources) == (LICENCE if str(faces_root) in expected else "")


def test_the_card_names_the_teacher_of_the_fit_alone_and_the_images_that_were_scored(best, faces_root, capsys):
    card, scores = card_of(best, capsys, "--model.teacher", best, "--data.test_split", "train")
    assert "test/teacher_map" in scores  # compared with it, but not taught by it
    assert best not in card
    assert "## Figures on `train`\n\nThe net was trained on these images" in card
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--model.teacher", best]
    for weight, taught in (("0", False), ("0.5", True)):
        _, folder = run(capsys, "fit", *given, "--model.teacher_weight", weight)
        card, _ = card_of(best_of(folder), capsys)
        assert (f": {best}." in card) == ("its teacher on" in card) == taught
        assert "flatter" not in card


def test_a_net_that_no_label_scores_ends_with_its_newest_weights(best, faces_root, tmp_path, capsys):
    rows = [f"{path.name},," for path in sorted((faces_root / "unlabelled").iterdir())]
    root = relabelled(faces_root / "unlabelled", tmp_path / "own", rows)
    given = ["--data.root", root, *SMALL, *SHORT, "--model.teacher", best, "--trainer.max_epochs", "2"]
    _, folder = run(capsys, "fit", *given)
    best, last = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] > 1


def test_the_card_divides_the_images_by_an_attribute_that_the_net_did_not_learn(faces_root, capsys):
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, "--data.attributes", "[Bar]"]
    _, folder = run(capsys, "fit", *given, "--data.subgroups", "[Disc]")
    card, scores = card_of(best_of(folder), capsys)
    discs = [disc for _, disc, _ in labels_of(faces_root)][14:]
    assert f"| with `Disc` | {discs.count('1')} |" in card
    assert f"| without `Disc` | {discs.count('-1')} |" in card
    assert "test/ap/Disc" not in scores


def test_predict_and_load_say_what_a_test_says(best, faces_root, capsys):
    _, folder = run(capsys, "test", "--ckpt_path", best, *EXACT)
    tested = {Path(row["file"]).name: row for row in rows_of(folder / "predictions.csv")}
    _, folder = run(capsys, "predict", "--ckpt_path", best, "--source", str(faces_root / "img_align_celeba"))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert len(tested) == 6
    describe = load(best)
    for row in rows:
        found = describe(row["file"])
        assert found.names == ("Disc", "Bar")
        assert row["present"] == [name for name, has in zip(found.names, found.present, strict=True) if has]
        probabilities = tested.pop(Path(row["file"]).name, row["attributes"])
        for attribute, value in row["attributes"].items():
            assert value == pytest.approx(float(probabilities[attribute]), abs=1e-4)
    assert not tested  # all have been compared
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
    given = ["--data.root", str(faces_root), *SMALL, *SHORT, *EXACT]
    given += ["--trainer.max_epochs", "2", "--trainer.max_steps", "4"]  # at which a trainer that goes on does nothing
    _, whole = run(capsys, "fit", *given)
    with monkeypatch.context() as patch:
        patch.setattr(FaceAttributesModule, "validation_step", stopped)
        assert main(["fit", *given]) == 130
    left = capsys.readouterr().out.strip().splitlines()[-1].rpartition(" ")[2]
    _, resumed = run(capsys, "fit", "--ckpt_path", left)
    assert figures(resumed) == figures(whole)
    for name in ("best.ckpt", "last.ckpt"):
        ended, wanted = (torch.load(each / "checkpoints" / name, weights_only=True) for each in (resumed, whole))
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
