import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from helpers import figures, refused, rows_of, same, tree

from backbone import InputError
from tasks.face_attributes import experiment
from tasks.face_attributes.__main__ import main
from tasks.face_attributes.experiment import plan, write_table
from tasks.face_attributes.module import FaceAttributesModule

NOTHING = {"model": {}, "data": {}, "trainer": {}}


def config(**changed):
    """The fields of a tiny experiment; None leaves one out."""
    asked = {
        "teacher": {"model": {"width_mult": 0.25}, "data": {"image_size": 32}, "trainer": {"max_epochs": 1}},
        "students": [{"width_mult": 0.25, "image_size": 32, "unlabelled_fractions": [0, 1]}],
        "steps": 3,
        "model": {"lr": 0.01, "warmup_steps": 2},
        "data": {"unlabelled": "faces/unlabelled", "batch_size": 8, "num_workers": 0},
        "trainer": {"enable_progress_bar": False},
    }
    return {name: value for name, value in {**asked, **changed}.items() if value is not None}


def write(folder, root, **changed):
    asked = config(**changed)
    asked["data"] = {**asked["data"], "root": str(root), "unlabelled": str(root / "unlabelled")}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(asked))
    return file


STUDENT = {"width_mult": 0.25, "image_size": 32}
ALONE = {"arms": ["distilled"], "students": [STUDENT]}  # one run and its teacher's


def planned(given=NOTHING, **changed):
    return plan(config(**changed), given, Path("e"))


# ----------------------------------------------------------------------------------------------------------- the plan


def test_arms_differ_in_the_teacher_and_the_unlabelled_images_alone():
    distilled, labels, without = planned(model={"lr": 0.01, "temperature": 2.0}, teacher="torchvision:resnet50")
    names = ["0.25_32_distilled", "0.25_32_labels", "0.25_32_distilled_0"]
    assert [run.name for run in (distilled, labels, without)] == names
    taught = {"temperature": 2.0, "teacher": "torchvision:resnet50"}
    assert distilled.options["model"] == {**labels.options["model"], **taught}
    of_unlabelled = {"unlabelled": "faces/unlabelled", "unlabelled_fraction": 1}
    assert distilled.options["data"] == {**labels.options["data"], **of_unlabelled}
    assert without.options["data"] == {**distilled.options["data"], "unlabelled_fraction": 0}
    assert distilled.options["trainer"] == labels.options["trainer"] == without.options["trainer"]


@pytest.mark.parametrize(("steps", "every"), [(6, 1), (1000, 100), (3001, 3001), (3003, 429)])
def test_the_last_validation_is_at_the_last_step(steps, every):
    run = planned(steps=steps, teacher="torchvision:resnet50")[0]
    assert run.options["trainer"]["val_check_interval"] == every
    assert steps % every == 0


def test_cached_logits_are_shared_by_the_students_that_see_the_same_images():
    students = [{"width_mult": width, "image_size": size} for width in (0.25, 0.5) for size in (32, 64)]
    students[0]["unlabelled_fractions"] = [0]
    data = {**config()["data"], "views": 2}
    runs = {run.name: run for run in planned(students=students, data=data, teacher="torchvision:resnet50")}
    assert {run.arm: run.options["data"].get("views") for run in runs.values()} == {"distilled": 2, "labels": None}
    caches = {name: run.options["model"].get("cache") for name, run in runs.items()}
    assert caches["0.25_32_distilled"] == caches["0.5_32_distilled"] == str(Path("e/teacher_logits/32_1"))
    assert len({cache for cache in caches.values() if cache}) == 3  # 32 px, 64 px, and 32 px without unlabelled images
    assert caches["0.5_64_labels"] is None


def test_the_command_line_counts_above_the_config_and_the_teachers():
    own = {"model": {"width_mult": 2.0}, "data": {"root": "a", "batch_size": 64, "image_size": 48}}
    given = {"model": {}, "data": {"root": "2024", "batch_size": 8}, "trainer": {}}
    data = {**config()["data"], **given["data"]}
    teacher, student, *_ = planned(given, teacher=own, data=data)
    assert teacher.options["model"] == {"width_mult": 2.0}  # nothing of the students'
    assert teacher.options["data"] == {"root": "2024", "batch_size": 8, "num_workers": 0, "image_size": 48}
    assert student.options["data"]["root"] == "2024"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (["--data.unlabelled", "no"], "--data.unlabelled no"),
        (["--data.subgroups", "[Hat]"], "'Hat'"),
        (["--data.batch_size", "many"], "data.batch_size.*many"),
        (["--trainer.max_steps", "3"], "--trainer.max_steps"),
        (["--config", "no.yaml"], "no.yaml"),
        ({"teacher": None}, "teacher"),
        ({"students": None}, "students"),
        ({"students": []}, "students"),
        ({"students": [{"width": 0.25, "image_size": 32}]}, "width"),
        ({"students": [{"width_mult": 0.25}]}, "image_size"),
        ({"students": [{"width_mult": 0, "image_size": 32}]}, "width_mult.* 0"),
        ({"students": [{"width_mult": 1, "image_size": "big"}]}, "image_size.*big"),
        ({"students": [{**STUDENT, "unlabelled_fractions": [0, 1.5]}]}, "unlabelled_fractions.*1.5"),
        ({"steps": 0}, "steps.* 0"),
        ({"steps": "many"}, "steps.*many"),
        ({"arms": "labels"}, "arms.*labels"),
        ({"arms": ["teacher"]}, "arms.*teacher"),
        ({"step": 3}, "'step'"),
        ({"model": {"learning_rate": 1}}, "learning_rate"),
        ({"model": {"lr": "high"}}, "lr.*high"),
        ({"model": {"teacher": "t.ckpt"}}, "model.*'teacher'"),
        ({"trainer": {"max_epochs": 1}}, "trainer.*'max_epochs'"),
        ({"teacher": {"data": {"size": 32}}}, "teacher: .*'size'"),
        ({"teacher": {"models": {"lr": 1}}}, "teacher: .*'models"),
        ({"teacher": "no.yaml"}, "no.yaml"),
        ({"teacher": "no.ckpt"}, "no.ckpt"),
        # as `fit` refuses them, and before a teacher is trained
        ({"model": {"lr": -1.0}}, "0.25_32_distilled: --model.lr is -1"),
        ({"model": {"teacher_weight": 2.0}}, "0.25_32_distilled: --model.teacher_weight is 2"),
        ({"model": {"weights": "no.ckpt"}}, "0.25_32_distilled: .*no.ckpt"),
        ({"model": {"mixup_alpha": 1.0}}, "0.25_32_labels: --model.mixup_alpha is 1"),
    ],
)
def test_wrong_fields_are_named_before_anything_is_made(faces_root, tmp_path, capsys, changed, field):
    fields, options = (changed, []) if isinstance(changed, dict) else ({}, changed)
    refused(main, ["experiment", "--config", str(write(tmp_path, faces_root, **fields)), *options], field, capsys)


def test_unlabelled_fractions_need_unlabelled_images():
    with pytest.raises(InputError, match="unlabelled_fractions"):
        planned(data={})


def test_the_table_has_a_line_for_each_run_and_its_pictures_follow_what_there_is(tmp_path):
    columns = ["model", "learned from", "labelled", "unlabelled", "steps", "mult-adds", "params", "val mean AP"]
    columns += ["test mean AP", "the teacher's", "the paper's"]

    def row(arm, *values, **more):
        return {**dict(zip(columns, values, strict=True)), "arm": arm, "fraction": None, **more}

    rows = [
        row("teacher", "1.0 MobileNet-128", "", None, None, 9, 1000, 7, None, 0.8, None, None),
        row("distilled", "0.25 MobileNet-32", "t", 8, 8000, 9, 250, 7, 0.5, 0.6, 0.8, 0.864, fraction=1),
        row("distilled", "0.25 MobileNet-32", "t", 8, 0, 9, 250, 7, 0.5, 0.4, 0.8, None, fraction=0),
        row("labels", "0.25 MobileNet-32", "l", 8, 0, 9, 250, 7, 0.5, 0.5, None, None),
    ]
    write_table(tmp_path, rows)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        *("0.25 MobileNet-32", "t", "8", "8,000", "9", "250", "7", "0.500", "0.600", "0.800", "0.864")
    ]
    assert [line["the teacher's"] for line in rows_of(tmp_path / "table.csv")] == ["", "0.8", "0.8", ""]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"experiment.png", "unlabelled.png"}
    write_table(tmp_path / "few", rows[:1])
    assert {path.name for path in (tmp_path / "few" / "pictures").iterdir()} == {"experiment.png"}


@pytest.mark.parametrize(
    ("length", "images"),
    [
        ({"max_steps": 30, "max_epochs": -1}, 30 * 8 * 2),
        ({"max_steps": 30, "max_epochs": None}, 30 * 8 * 2),
        ({"max_steps": -1, "max_epochs": 5}, 5 * 100),
        ({"max_steps": 30, "max_epochs": 5}, 480),
        ({"max_steps": 40, "max_epochs": 5}, 500),
    ],
)
def test_how_many_images_a_run_sees(length, images):
    trainer = {"accumulate_grad_batches": 2, **length}
    assert experiment._images_seen({"data": {"batch_size": 8}, "trainer": trainer}, 100) == images


def test_the_student_that_scored_highest_is_the_best(tmp_path):
    runs = [experiment.Run(name, arm, {}) for name, arm in (("t", "teacher"), ("a", "labels"), ("b", "distilled"))]
    assert experiment._best_student(runs, tmp_path) is None
    for name, figure in (("t", 0.9), ("a", 0.5), ("b", 0.6)):
        for split, time in (("val", "2026-01-01_00-00-00"), ("test", "2026-01-01_00-00-01")):
            (folder := tmp_path / name / "face_attributes" / time).mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps({f"{split}/map": figure}))
    assert experiment._best_student(runs, tmp_path) == tmp_path / "b" / "face_attributes" / "2026-01-01_00-00-00"


# -------------------------------------------------------------------------------------------------- the whole command


def run_of(folder, split):
    """The finished run in an experiment's folder that came to figures of a split."""
    files = folder.glob("face_attributes/2*/metrics.json")
    [run] = [file.parent for file in files if f"{split}/map" in file.read_text()]
    return run


def checkpoint(folder, name="best"):
    return torch.load(run_of(folder, "val") / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def finished(faces_root, tmp_path_factory):
    """The config and the folder of a whole experiment."""
    folder = tmp_path_factory.mktemp("experiment")
    file = write(folder, faces_root)
    assert main(["experiment", "--config", str(file), "--runs", str(folder)]) == 0
    return file, folder / "face_attributes" / "tiny"


@pytest.fixture
def teacher(finished, tmp_path):
    """A copy of the teacher that it trained."""
    file = tmp_path / "teacher.ckpt"
    torch.save(checkpoint(finished[1] / "teacher"), file)
    return file


@pytest.mark.slow
def test_the_table_has_the_figures_of_the_runs_and_steps_are_equal(finished):
    _, folder = finished
    names = ["teacher", "0.25_32_distilled", "0.25_32_labels", "0.25_32_distilled_0"]
    rows = dict(zip(names, rows_of(folder / "table.csv"), strict=True))
    for name, row in rows.items():
        for split in ("val", "test"):
            assert float(row[f"{split} mean AP"]) == figures(run_of(folder / name, split))[f"{split}/map"]
        assert int(row["steps"]) == checkpoint(folder / name, "last")["global_step"] == (1 if name == "teacher" else 3)
        parameters = checkpoint(folder / name)["state_dict"]
        norms = ("running_mean", "running_var", "num_batches_tracked")
        assert int(row["params"]) == sum(v.numel() for key, v in parameters.items() if not key.endswith(norms))
    assert float(rows["0.25_32_distilled"]["the teacher's"]) == figures(run_of(folder / "teacher", "test"))["test/map"]
    images = [(row["labelled"], row["unlabelled"]) for row in rows.values()]
    assert images == [("8", "0"), ("8", "8"), ("8", "0"), ("8", "0")]


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_a_changed_setting_is_refused_by_name(finished, capsys):
    file, folder = finished
    before = tree(folder)
    given = ["experiment", "--config", str(file), "--runs", str(folder.parents[1])]
    assert main([*given, "--data.num_workers", "2"]) == 0  # which decides nothing
    after = tree(folder)
    assert {path for path in after if after[path] != before[path]} <= {
        *(Path(name) for name in ("settings.yaml", "pictures/experiment.png", "pictures/unlabelled.png")),
        *(path for path in after if path.name == "config.yaml"),
    }
    for args, field in (
        (["--steps", "7"], "trainer.max_steps 3, but 7"),
        (["--model.lr", "0.5"], "model.lr 0.01, but 0.5"),
        (["--data.seed", "1"], "data.seed None, but 1"),
        (["--teacher", str(run_of(folder / "0.25_32_labels", "val") / "checkpoints" / "best.ckpt")], "teacher"),
    ):
        refused(main, [*given, *args], field, capsys)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    finished, faces_root, teacher, tmp_path, capsys, monkeypatch
):
    file = write(tmp_path, faces_root, teacher=str(teacher), **ALONE)
    own = Path("runs") / "face_attributes" / "tiny" / "0.25_32_distilled"
    steps, step = [], FaceAttributesModule.training_step

    def interrupted(self, batch, batch_idx):
        steps.append(self.global_step)
        if len(steps) == 1:  # in mid-epoch: there are two batches
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FaceAttributesModule, "training_step", interrupted)
    assert main(["experiment", "--config", str(file)]) == 130
    printed = capsys.readouterr().out
    assert "1 of 2 runs left" in printed
    assert (own.parent / "table.md").is_file()  # of the teacher so far
    (own / "face_attributes" / "2100-01-01_00-00-00").mkdir()  # as a start leaves that was killed at once
    assert main(["experiment", "--config", str(file)]) == 0
    assert steps == [0, 1, 2]
    whole, resumed = checkpoint(finished[1] / own.name, "last"), checkpoint(own, "last")
    assert resumed["global_step"] == 3
    assert same(resumed["state_dict"], whole["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("listed", [False, True])
def test_a_teacher_is_known_by_its_weights_not_by_its_file(faces_root, teacher, tmp_path, capsys, listed):
    asked = [{"source": str(teacher)}] if listed else str(teacher)
    given = ["experiment", "--config", str(write(tmp_path, faces_root, teacher=asked, steps=1, **ALONE))]
    assert main(given) == 0
    changed = torch.load(teacher, weights_only=True)
    changed["state_dict"]["head.layers.linear.bias"] += 1
    torch.save(changed, teacher)
    assert main(given) == 2
    assert "begun with teacher sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_a_teacher_may_know_more_than_its_students(faces_root, teacher, tmp_path, capsys):
    """So it cannot be tested on their data, but they are compared with what it says of theirs."""
    file = write(tmp_path, faces_root, teacher=str(teacher), steps=1, **ALONE)
    assert main(["experiment", "--config", str(file), "--data.attributes", "[Bar]"]) == 0
    folder = Path("runs") / "face_attributes" / "tiny"
    [student] = rows_of(folder / "table.csv")
    tested = figures(run_of(folder / "0.25_32_distilled", "test"))
    assert float(student["the teacher's"]) == tested["test/teacher_map"]
