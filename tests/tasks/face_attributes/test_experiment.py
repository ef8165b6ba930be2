import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from helpers import refused, same, tree

from backbone import InputError
from tasks.__main__ import TABLE_12
from tasks.face_attributes import comparison
from tasks.face_attributes.__main__ import main
from tasks.face_attributes.comparison import PAPER, Row
from tasks.face_attributes.experiment import check, plan, read_overrides
from tasks.face_attributes.module import FaceAttributesModule

NOTHING = {"model": {}, "data": {}, "trainer": {}}


def config(**changed):
    """The fields of a tiny experiment; None leaves one out."""
    asked = {
        "teacher": {"model": {"width_mult": 0.25}, "data": {"image_size": 32}, "trainer": {"max_epochs": 1}},
        "students": [{"width_mult": 0.25, "image_size": 32}],
        "steps": 3,
        "sweep": {"width_mult": 0.25, "image_size": 32, "unlabelled_fractions": [0, 1]},
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


# ---------------------------------------------------------------------------------------------------------- the plan


def test_arms_differ_in_the_teacher_and_the_unlabelled_pictures_alone():
    asked = config(model={"lr": 0.01, "temperature": 2.0}, teacher="torchvision:resnet50")
    distilled, labels, without = plan(asked, NOTHING, Path("e"), Path("configs"))
    assert [run.name for run in (distilled, labels, without)] == [
        "0.25_32_distilled",
        "0.25_32_labels",
        "0.25_32_distilled_0",
    ]
    assert distilled.options["model"] == {**labels.options["model"], "temperature": 2.0, "teacher": asked["teacher"]}
    of_pool = {"unlabelled": "faces/unlabelled", "unlabelled_fraction": 1}
    assert distilled.options["data"] == {**labels.options["data"], **of_pool}
    assert without.options["data"] == {**distilled.options["data"], "unlabelled_fraction": 0}
    folders = [run.options["trainer"].pop("default_root_dir") for run in (distilled, labels, without)]
    assert len(set(folders)) == 3
    assert distilled.options["trainer"] == labels.options["trainer"] == without.options["trainer"]
    assert (distilled.sweep, labels.sweep, without.sweep) == (1, None, 0)  # the whole pool is not learned twice


@pytest.mark.parametrize(("steps", "every"), [(6, 1), (1000, 100), (3001, 3001), (3003, 429)])
def test_the_last_validation_is_at_the_last_step(steps, every):
    run = plan(config(steps=steps, teacher="torchvision:resnet50"), NOTHING, Path("e"), Path("c"))[0]
    assert run.options["trainer"]["val_check_interval"] == every
    assert steps % every == 0


def test_kept_answers_are_shared_by_the_students_that_see_the_same_pictures():
    students = [{"width_mult": width, "image_size": size} for width in (0.25, 0.5) for size in (32, 64)]
    asked = config(students=students, data={**config()["data"], "views": 2}, teacher="torchvision:resnet50")
    runs = plan(asked, NOTHING, Path("e"), Path("c"))
    assert {run.arm: run.options["data"].get("views") for run in runs} == {"distilled": 2, "labels": None}
    caches = {run.name: run.options["model"].get("cache") for run in runs}
    assert caches["0.25_32_distilled"] == caches["0.5_32_distilled"] == str(Path("e/answers/32_1"))
    assert len({cache for cache in caches.values() if cache}) == 3  # 32 px, 64 px, and 32 px without the pool
    assert caches["0.5_64_labels"] is None


def test_the_command_line_counts_above_the_config_and_the_teachers(tmp_path):
    (tmp_path / "t.yaml").write_text("model: {width_mult: 2.0}\ndata: {root: a, batch_size: 64, image_size: 48}\n")
    given = read_overrides(["--data.root", "2024", "--data.batch_size=8", "--trainer.precision", "32-true"])
    assert given == {"model": {}, "data": {"root": "2024", "batch_size": 8}, "trainer": {"precision": "32-true"}}
    teacher, student, *_ = plan(config(teacher="t.yaml"), given, Path("e"), tmp_path)
    assert teacher.options["model"] == {"width_mult": 2.0}  # nothing of the students'
    assert teacher.options["data"] == {"root": "2024", "batch_size": 8, "num_workers": 0, "image_size": 48}
    assert student.options["data"]["root"] == "2024"
    assert student.options["model"]["teacher"] == str(Path("e/teacher/fit/checkpoints/best.ckpt"))


STUDENT = {"width_mult": 0.25, "image_size": 32}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": None}, "has no teacher; name a checkpoint with --teacher"),
        ({"students": None}, "has no students"),
        ({"students": []}, r"students is \[\]; list one or more"),
        ({"students": [STUDENT, {"width_mult": 0.250, "image_size": 32}]}, "students has 0.25 at 32 more than once"),
        ({"students": [{"width": 0.25, "image_size": 32}]}, "'width' is not a field of a student; the nearest is 'wid"),
        ({"students": [{"width_mult": 0.25}]}, "has no image_size"),
        ({"students": [{"width_mult": 0, "image_size": 32}]}, "width_mult is 0; it must be a number above 0"),
        ({"students": [{"width_mult": 1, "image_size": "big"}]}, "image_size is 'big'; it must be its side in px"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"arms": ["labels", "labels"]}, "it must be a list of distilled, labels or both"),
        ({"arms": "labels"}, "it must be a list of distilled, labels or both"),
        ({"step": 3}, "'step' is not a field of an experiment; the nearest is 'steps'"),
        ({"model": {"learning_rate": 1}}, "'learning_rate' is not an option of `model`; the nearest is"),
        ({"data": {"batchsize": 1}}, "'batchsize' is not an option of `data`; the nearest is 'batch_size'"),
        ({"model": {"teacher": "t.ckpt"}}, "model.teacher is not for a whole experiment: `teacher` names it"),
        ({"trainer": {"max_epochs": 1}}, "trainer.max_epochs is not for a whole experiment: `steps`"),
        ({"model": {"mixup_alpha": 1.0}}, "model.mixup_alpha is 1.0, but labels of blended faces mean nothing"),
        ({"data": {}}, "sweep needs pictures without labels"),
        ({"sweep": {**STUDENT, "unlabelled_fractions": [0, 1.5]}}, "unlabelled_fractions has 1.5; each must be"),
        ({"sweep": {**STUDENT, "unlabelled_fractions": [-0.1]}}, "unlabelled_fractions has -0.1; each must be"),
        ({"sweep": {**STUDENT, "unlabelled_fractions": []}}, r"unlabelled_fractions is \[\]"),
    ],
)
def test_wrong_fields_are_named(changed, message):
    with pytest.raises(InputError, match=message):
        check(config(**changed), NOTHING, Path("e.yaml"))
    check(config(), NOTHING, Path("e.yaml"))


def test_wrong_fields_of_the_teacher_are_named():
    for teacher, message in (
        ({"data": {"size": 32}}, "the teacher: 'size' is not an option of `data`; the nearest is 'image_size'"),
        ({"models": {}}, "the teacher: 'models' is not a part of a teacher's config; the nearest is 'model'"),
        ("no.yaml", "no.yaml cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            plan(config(teacher=teacher), NOTHING, Path("e"), Path("c"))


def test_what_the_config_names_is_looked_for_before_anything_is_made(faces_root, tmp_path, capsys):
    file = write(tmp_path, faces_root)
    given = ["experiment", "--config", str(file)]
    refused(main, [*given, "--teacher", "no.ckpt"], "the teacher no.ckpt does not exist", capsys)
    refused(main, [*given, "--data.unlabelled", "no"], "--data.unlabelled no does not exist", capsys)
    refused(main, [*given, "--data.root", "no"], "--data.root no does not exist", capsys)
    refused(main, [*given, "--data.batch_size", "many"], "data.batch_size.*: many", capsys)
    refused(main, [*given, "--stepps", "3"], "--stepps is no option of an experiment", capsys)
    refused(main, ["experiment", "--config", "no.yaml"], "no.yaml cannot be read", capsys)
    refused(main, [*given, "--data.attributes", "[Disc"], r"--data.attributes '\[Disc' is no YAML", capsys)
    refused(main, [*given, "--model.lr", "{a: b"], "--model.lr '{a: b' is no YAML", capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.lr", "-1"], "0.25_32_distilled: --model.lr is -1"),
        (["--model.lr", "high"], "0.25_32_distilled: .*model.lr.*: high"),
        (["--model.optimizer", "adam"], "0.25_32_distilled: .*model.optimizer.*: adam"),
        (["--model.teacher_weight", "2"], "0.25_32_distilled: --model.teacher_weight is 2"),
        (["--model.weights", "no.ckpt"], "0.25_32_distilled: weights no.ckpt: there is no such file"),
        (["--data.subgroups", "[Hat]"], "--data.subgroups has 'Hat'"),
    ],
)
def test_the_students_options_are_checked_before_the_teacher_is_made(faces_root, tmp_path, capsys, options, message):
    file = write(tmp_path, faces_root, sweep=None)
    data = ["--data.unlabelled", str(faces_root / "unlabelled")]
    refused(main, ["experiment", "--config", str(file), *data, *options], message, capsys)


# --------------------------------------------------------------------------------------------- the table and pictures


def row(arm="distilled", width=0.25, size=32, ap=0.6, **more):
    fields = {"mult_adds": int(width * 100), "params": 7, "steps": 6, "with_labels": 8, "without_labels": 8}
    fields |= {"val_map": 0.5, "teacher_map": None} | more
    return Row(arm, width, (size, size), test_map=ap, **fields)


def test_the_papers_figures_are_those_of_table_12():
    assert {(r.width_mult, r.image_size): (r.figure, r.mult_adds) for r in TABLE_12} == PAPER


def test_the_table_says_what_share_of_the_teacher_a_student_has():
    rows = [row("teacher", width=1.0, size=128, ap=0.8), row(ap=0.6), row("labels", size=128, ap=0.4)]
    head, lines = comparison.table(rows)
    teacher, student, labels = (dict(zip(head, line, strict=True)) for line in lines)
    assert (teacher["model"], teacher["learned_from"], teacher["of_teacher"]) == ("1.0 MobileNet-128", "teacher", 1)
    assert teacher["paper_map"] is None  # of a student, and this is not one
    assert (student["teacher_map"], student["of_teacher"]) == (0.8, pytest.approx(0.75))
    assert student["paper_map"] is None  # which has no 32 px
    assert (labels["of_teacher"], labels["paper_map"]) == (pytest.approx(0.5), pytest.approx(0.864))
    assert lines[1] == ["0.25 MobileNet-32", "the teacher's answers", 8, 8, 6, 25, 7, 0.5, 0.6, 0.8, lines[1][10], None]


def test_a_teacher_without_a_test_of_its_own_is_judged_at_the_largest_size_it_was_shown():
    rows = [row(size=64, teacher_map=0.7), row(size=128, teacher_map=0.8), row("labels", size=224)]
    assert comparison.teacher_map(rows) == 0.8
    assert comparison.teacher_map([row("labels")]) is None
    assert comparison.table([row("labels")])[1][0][9:11] == [None, None]


def test_the_pictures_show_each_student_once_and_the_sweep_by_its_pictures(tmp_path):
    rows = [
        row("teacher", width=1.0, ap=0.9),
        row(width=0.5, ap=0.7),
        row("labels", width=0.5, ap=0.6),
        row(ap=0.65, sweep=1, without_labels=80),
        row(ap=0.5, sweep=0, without_labels=0),
    ]
    assert comparison.curves(rows) == {
        "distilled": [(25, 0.65, "0.25-32"), (50, 0.7, "0.5-32")],
        "labels": [(50, 0.6, "0.5-32")],
    }
    assert comparison.sweep_curve(rows) == [(0, 0.5), (80, 0.65)]
    assert comparison.write_comparison(tmp_path, rows) == tmp_path / "table.md"
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"experiment.png", "unlabelled.png"}
    comparison.write_comparison(tmp_path / "few", rows[:2])
    assert {path.name for path in (tmp_path / "few" / "pictures").iterdir()} == {"experiment.png"}


# ------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def finished(faces_root, tmp_path_factory):
    """The config and the folder of a whole experiment."""
    folder = tmp_path_factory.mktemp("experiment")
    file = write(folder, faces_root)
    assert main(["experiment", "--config", str(file), "--runs", str(folder)]) == 0
    return file, folder / "face_attributes" / "tiny"


def last(run):
    return torch.load(run / "fit" / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_the_table_has_the_figures_of_the_runs_and_steps_are_equal(finished):
    _, folder = finished
    names = ["teacher", "0.25_32_distilled", "0.25_32_labels", "0.25_32_distilled_0"]
    with (folder / "table.csv").open(newline="") as file:
        rows = dict(zip(names, csv.DictReader(file), strict=True))
    for name, found in rows.items():
        for split, command in (("val", "fit"), ("test", "test")):
            figures = json.loads((folder / name / command / "metrics.json").read_text())
            assert float(found[f"{split}_map"]) == figures[f"{split}/map"]
        assert int(found["steps"]) == last(folder / name)["global_step"] == (1 if name == "teacher" else 3)
        parameters = torch.load(folder / name / "fit" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        norms = ("running_mean", "running_var", "num_batches_tracked")
        counted = sum(value.numel() for key, value in parameters.items() if not key.endswith(norms))
        assert int(found["params"]) == counted
        teachers = json.loads((folder / "teacher" / "test" / "metrics.json").read_text())["test/map"]
        assert float(found["teacher_map"]) == teachers
    pictures = [(found["with_labels"], found["without_labels"]) for found in rows.values()]
    assert pictures == [("8", "0"), ("8", "8"), ("8", "0"), ("8", "0")]
    assert not list(folder.glob("*/unfinished"))


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_a_changed_config_is_refused(finished, capsys):
    file, folder = finished
    before = tree(folder)
    given = ["experiment", "--config", str(file), "--runs", str(folder.parents[1])]
    assert main([*given, "--data.num_workers", "2"]) == 0  # which decides nothing
    assert capsys.readouterr().out.count("done before") == 4
    assert tree(folder) == before
    best = folder / "0.25_32_labels" / "fit" / "checkpoints" / "best.ckpt"
    for args, message in (
        (["--steps", "7"], "has trainer.max_steps 3, but 7 is asked for now"),
        (["--model.lr", "0.5"], "has model.lr 0.01, but 0.5 is asked for now"),
        (["--data.seed", "1"], "has data.seed None, but 1 is asked for now"),
        (["--teacher", str(best)], "teacher/config.yaml has data.image_size 32, but None is asked for now"),
    ):
        refused(main, [*given, *args], message, capsys)
        assert tree(folder) == before


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(finished, faces_root, tmp_path, capsys, monkeypatch):
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes((finished[1] / "teacher" / "fit" / "checkpoints" / "best.ckpt").read_bytes())
    file = write(tmp_path, faces_root, teacher=str(teacher), arms=["distilled"], sweep=None)
    folder = Path("runs") / "face_attributes" / "tiny"
    steps, step = [], FaceAttributesModule.training_step

    def interrupted(self, batch, batch_idx):
        steps.append(self.global_step)
        if len(steps) == 1:  # in mid-epoch: there are two batches
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FaceAttributesModule, "training_step", interrupted)
    assert main(["experiment", "--config", str(file)]) == 130
    assert "stopped with 1 of 2 runs left" in capsys.readouterr().out
    unfinished = folder / "0.25_32_distilled" / "unfinished" / "face_attributes"
    (unfinished / "2100-01-01_00-00-00").mkdir()  # as a second start leaves, killed before it saved anything
    assert main(["experiment", "--config", str(file)]) == 0
    assert "1/2] teacher: done before" in capsys.readouterr().out
    assert steps == [0, 1, 2]
    whole, resumed = (last(run / "0.25_32_distilled") for run in (finished[1], folder))
    assert resumed["global_step"] == 3
    assert same(resumed["state_dict"], whole["state_dict"])

    changed = torch.load(teacher, weights_only=True)
    changed["state_dict"]["model.head.bias"] += 1
    torch.save(changed, teacher)
    assert main(["experiment", "--config", str(file)]) == 2
    assert "teacher.yaml has teacher.is sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_a_teacher_in_a_list_is_known_by_what_it_says(finished, faces_root, tmp_path, capsys):
    """Its weights may be replaced under their name, which the list would not show."""
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes((finished[1] / "teacher" / "fit" / "checkpoints" / "best.ckpt").read_bytes())
    listed = [{"source": str(teacher)}]
    given = ["experiment", "--config", str(write(tmp_path, faces_root, teacher=listed, arms=["distilled"], sweep=None))]
    assert main(given) == 0
    changed = torch.load(teacher, weights_only=True)
    changed["state_dict"]["model.head.bias"] += 1
    torch.save(changed, teacher)
    assert main(given) == 2
    assert "teacher.yaml has teacher.is sha256" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["the validation of its best", "the rename"])
def test_a_run_stopped_after_its_last_step_ends_as_if_nothing_had_been(
    finished, faces_root, tmp_path, monkeypatch, stopped_in
):
    name, (_, other) = "0.25_32_distilled", finished
    teacher = str(other / "teacher" / "fit" / "checkpoints" / "best.ckpt")
    file = write(tmp_path, faces_root, teacher=teacher, arms=["distilled"], sweep=None)
    folder = Path("runs") / "face_attributes" / "tiny"
    step, rename = FaceAttributesModule.validation_step, Path.rename

    def stopped(self, batch, batch_idx):
        if self.trainer.state.fn == "validate" and stopped_in != "the rename":
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    def killed(self, target):
        if target.name == "fit" and stopped_in == "the rename":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(FaceAttributesModule, "validation_step", stopped)
        patch.setattr(Path, "rename", killed)
        assert main(["experiment", "--config", str(file)]) == 130
    assert main(["experiment", "--config", str(file)]) == 0
    for command in ("fit", "test"):
        figures, whole = (json.loads((root / name / command / "metrics.json").read_text()) for root in (folder, other))
        assert figures == whole
    for checkpoint in ("best", "last"):
        resumed, whole = (
            torch.load(root / name / "fit" / "checkpoints" / f"{checkpoint}.ckpt", weights_only=True)
            for root in (folder, other)
        )
        assert resumed["global_step"] == whole["global_step"]
        assert same(resumed["state_dict"], whole["state_dict"])
        assert checkpoint == "last" or resumed["thresholds"] == whole["thresholds"]


@pytest.mark.slow
def test_a_value_that_fit_refuses_can_be_mended_and_a_teacher_may_know_more(finished, faces_root, tmp_path, capsys):
    teacher = str(finished[1] / "teacher" / "fit" / "checkpoints" / "best.ckpt")
    file = write(tmp_path, faces_root, teacher=teacher, sweep=None, arms=["distilled"])
    given = ["experiment", "--config", str(file), "--steps", "1", "--data.attributes", "[Bar]"]
    assert main([*given, "--model.optimizer", "adam"]) == 2
    assert "error: " in capsys.readouterr().err
    assert main(given) == 0
    assert "without a test of the teacher itself: " in capsys.readouterr().out
    folder = Path("runs") / "face_attributes" / "tiny"
    with (folder / "table.csv").open(newline="") as table:
        [student] = csv.DictReader(table)
    figures = json.loads((folder / "0.25_32_distilled" / "test" / "metrics.json").read_text())
    assert float(student["teacher_map"]) == figures["test/teacher_map"]
