"""Every shipped config is run by the real command."""

import csv
import importlib
import itertools
import re
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = {  # the fixture that gives a task small data
    "classification": "classes_root",
    "detection": "coco_root",
    "face_attributes": "faces_root",
    "face_embeddings": "faces_root",
    "geolocalization": "places_root",
}
QUICK = ["--data.num_workers", "0", "--data.batch_size", "2", "--trainer.enable_progress_bar", "false"]
QUICK += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
ONCE = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
SMALL = ["--data.image_size", "32"]
ROOM = ["--data.image_size", "96"]  # which a detector needs for its anchors
CELLS = {"max_images": "2", "min_images": "1"}  # a dozen images fill no cell of thousands
FEWER = dict.fromkeys(("sample", "planet", "own_images"), CELLS) | {"hierarchy": CELLS | {"max_images": "[2, 3, 6]"}}


def command_of(config):
    """The task and the command that the config's first line gives: `# python -m tasks.TASK COMMAND ...`."""
    return config.read_text().splitlines()[0].removeprefix("# python -m tasks.").split()[:2]


FITS, EXPERIMENTS = (
    pytest.mark.parametrize(
        "config",
        [path for path in sorted(CONFIGS.rglob("*.yaml")) if (command_of(path)[1:] == ["experiment"]) == others],
        ids=lambda path: f"{path.parent.name}/{path.stem}",
    )
    for others in (False, True)
)


def run(task, *args):
    assert importlib.import_module(f"tasks.{task}.__main__").main(list(args)) == 0


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory):
    """The function that makes a task's checkpoint, of one step, once."""
    made = {}

    def make(task):
        if task not in made:
            folder = tmp_path_factory.mktemp("teacher")
            root = ["--data.root", str(request.getfixturevalue(DATA[task])), "--trainer.default_root_dir", str(folder)]
            run(task, "fit", *root, *QUICK, *ONCE, *SMALL, "--model.width_mult", "0.25")
            [made[task]] = folder.glob(f"{task}/2*/checkpoints/best.ckpt")
        return str(made[task])

    return make


def teacher_for(config):
    """The task whose checkpoint teaches the config's net, None where it learns from labels alone."""
    task, _ = command_of(config)
    if task == "face_embeddings":
        return "face_attributes"
    return task if " --model.teacher " in config.read_text().splitlines()[0] else None


@pytest.mark.slow
@FITS
def test_config_trains_validates_and_leaves_a_whole_run(config, request, checkpoint, capsys):
    task = config.parent.name
    root = str(request.getfixturevalue(DATA[task]))
    config_says = yaml.safe_load(config.read_text())
    given = ["--config", str(config), "--data.root", root, *QUICK, *ONCE]
    given += ROOM if task == "detection" else SMALL
    for name, value in (few := FEWER.get(config.stem, {}) if task == "geolocalization" else {}).items():
        given += [f"--model.{name}", value]
    if teacher := teacher_for(config):
        given += ["--model.teacher", checkpoint(teacher)]
    for name, value in {"version": "", "without_near_duplicates_of": root}.items():
        if name in config_says["data"]:  # what else says which data they are
            given += [f"--data.{name}", value]
    run(task, "fit", *given)
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "checkpoints",
        "metrics.csv",
        "metrics.json",
        "pictures",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (Path("runs") / task / "latest").resolve() == folder.resolve()
    used = yaml.safe_load((folder / "config.yaml").read_text())
    for name, value in config_says["model"].items():
        assert used["model"][name] == (yaml.safe_load(few[name]) if name in few else value)


@pytest.mark.slow
@EXPERIMENTS
def test_experiment_makes_every_run_and_a_table(config, request, checkpoint, tmp_path):
    task = config.parent.name
    root = request.getfixturevalue(DATA[task])
    asked = yaml.safe_load(config.read_text())
    if isinstance(asked["teacher"], str):
        assert (config.parent / asked["teacher"]).is_file()  # the config that trains it is here, and is run above
    del asked["students"][1:-1]  # they differ from the others in their size alone
    asked["students"][-1]["unlabelled_fractions"] = [0, 1]
    for student in asked["students"]:
        student["image_size"] = max(32, student["image_size"] // 2)
    small = tmp_path / config.name
    small.write_text(yaml.safe_dump(asked))
    given = ["--teacher", checkpoint(task), "--steps", "1", "--data.root", str(root)]
    run(task, "experiment", "--config", str(small), *given, "--data.unlabelled", str(root / "unlabelled"), *QUICK)
    folder = Path("runs") / task / config.stem
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["learned from"] for row in rows] == [
        "",
        *len(asked["students"]) * ["the teacher", "labels"],
        "the teacher",
    ]
    assert {path.name for path in (folder / "pictures").iterdir()} == {"experiment.png", "unlabelled.png"}


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_begins_with_its_command_its_figure_and_its_time(config):
    first, *rest = itertools.takewhile(lambda line: line.startswith("#"), config.read_text().splitlines())
    assert first.startswith("# python -m tasks.")
    assert command_of(config) in ([config.parent.name, "fit"], [config.parent.name, "experiment"])
    figure, time = (
        [line for line in rest if re.match(rf"# ({what}|No {what.lower()}): ", line)] for what in ("Figure", "Time")
    )
    assert len(figure) == len(time) == 1  # what it came to, or in a sentence why nobody knows
    assert re.match(r"# (Figure: .*\d|No figure: \w)", figure[0])
    assert re.match(r"# (Time: .*\d (s|min|hours?|days?)\b|No time: \w)", time[0])
