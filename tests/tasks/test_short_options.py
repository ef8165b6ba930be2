"""What a person types is what the real parsers take: short options, others' words, help, --resume and --time."""

import csv
import importlib
import itertools
import os
import re
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import TASKS, one_sentence

from backbone.errors import Arguments, InputError, nearest
from tasks import cli
from tasks.deployment import command as export_command
from tasks.run_folders import RESUMED, in_use, interrupted_run, resumed_from
from tasks.runs import read_checkpoint
from tasks.short_options import SHORT, TAKEN, as_duration, foreign_words, long_options, translated

MAINS = {task: importlib.import_module(f"tasks.{task}.__main__") for task in TASKS}
# A value of each short option, and what the long ones then are.
VALUES = {
    "data": ("some/dir", "some/dir"),
    "weights": ("imagenet", "imagenet"),
    "epochs": ("3", 3),
    "time": ("1h30m", "00:01:30:00"),
    "batch": ("8", 8),
    "lr": ("1e-3", 0.001),
    "size": ("[96,128]", [96, 128]),
    "width": ("0.25", 0.25),
    "workers": ("auto", "auto"),
    "device": ("cpu", "cpu"),
    "precision": ("auto", "auto"),
    "resume": ("a/run", "a/run"),
    "out": ("elsewhere", "elsewhere"),
    "logger": ("true", True),
    "seed": ("7", 7),
}


class Parsed(Exception):
    """Carries what a parser has made of its arguments out of a command, before it does anything."""


@pytest.fixture(scope="module")
def parser_of():
    """The real parsers of fit, validate and test, by task and command."""

    def give_up(self, parser, args):
        raise Parsed(parser)

    parsers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli._Cli, "parse_arguments", give_up)
        for task, command in itertools.product(TASKS, ("fit", "validate", "test")):
            with pytest.raises(Parsed) as parsed:
                cli.run(*MAINS[task]._classes(), [command])
            parsers[task, command] = parsed.value.args[0]
    return parsers


def value_at(settings, name):
    for part in name.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_every_short_option_sets_its_long_ones_in_the_real_parser(parser_of, task, command, joined):
    assert VALUES.keys() == SHORT.keys()
    for name in TAKEN[command]:
        typed, meant = VALUES[name]
        long = translated(task, command, [f"--{name}={typed}"] if joined else [f"--{name}", typed])
        given = parser_of[task, command].parse_args([command, *long], defaults=False)[command]
        for option in long_options(command, name):
            assert value_at(given, option) == meant, option


@pytest.mark.parametrize("command", ["check", "benchmark", "experiment", "export"])
def test_so_it_does_in_the_parsers_of_the_other_commands(command, monkeypatch):
    settings = {}

    def parse(self, args, namespace=None):
        options, rest = known(self, args, namespace)
        settings.update(vars(options))
        raise Parsed(rest)

    def resolve(module_class, args, parse):
        settings.update(parse(args))
        raise Parsed([])

    def parse_experiment(parse, given, *_, **__):
        settings.update(parse(given, defaults=False).as_dict())
        raise Parsed([])

    known = Arguments.parse_known_args
    for task in ["face_attributes"] if command == "experiment" else TASKS:
        main = MAINS[task].main
        with monkeypatch.context() as patch:
            if command == "experiment":
                patch.setattr("tasks.face_attributes.experiment._parsed", parse_experiment)
            elif command == "export":
                patch.setattr(export_command, "resolve", resolve)
            else:
                patch.setattr(Arguments, "parse_known_args", parse)
            for name in TAKEN[command]:
                settings.clear()
                typed, meant = VALUES[name]
                with pytest.raises(Parsed) as parsed:
                    main([command, f"--{name}", typed])
                rest = parsed.value.args[0]
                for option in long_options(command, name):
                    if rest:  # benchmark hands what is of the data on to the parser of `export`
                        assert rest == [f"--{option}={typed}"]
                        continue
                    at_the_end = option.rpartition(".")[2]
                    found = settings[at_the_end] if at_the_end in settings else value_at(settings, option)
                    assert str(found) == str(meant), (task, option)


@pytest.mark.parametrize("command", ["export", "benchmark", "validate", "test"])
def test_a_checkpoint_of_ours_is_no_file_of_weights(command, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for value in ("best.ckpt", str(tmp_path / "run")):
        assert translated("detection", command, [f"--weights={value}"]) == [f"--ckpt_path={value}"]
    assert translated("detection", command, ["--weights=a.pth"]) == ["--model.weights=a.pth"]
    assert translated("detection", "fit", ["--weights", "best.ckpt"]) == ["--model.weights", "best.ckpt"]


def test_values_and_long_options_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("image=1.jpg").touch()
    args = ["--source", "a.jpg", "image=1.jpg"]
    assert translated("detection", "predict", args) == args
    args = [
        "--data.root",
        "epochs=3",
        "--config",
        "c.yaml",
        "--model.lr=1",
        "-c",
        "x",
        "--ckpt_path",
        "epochs",
        "--out=runs=1",
    ]
    assert translated("detection", "fit", args) == [*args[:-1], "--trainer.default_root_dir=runs=1"]
    assert translated("detection", "export", ["--out", "a.onnx", "--int8"]) == ["--out", "a.onnx", "--int8"]
    args = ["a=1.onnx", "--data.root", "x", "b.onnx"]  # its parser would take x for a file
    assert translated("detection", "benchmark", args) == ["a=1.onnx", "--data.root=x", "b.onnx"]
    assert translated("detection", "predict", ["--source", "a", "--conf", ".3"]) == ["--source", "a", "--conf", ".3"]


@pytest.mark.parametrize("command", [*TAKEN, "predict"])
def test_no_word_of_another_program_is_an_option_of_ours(command, parser_of, monkeypatch):
    """So that nothing of ours is ever refused."""
    options = []

    def parse(self, args, namespace=None):
        raise Parsed(list(self._option_string_actions))

    for task in ["face_attributes"] if command == "experiment" else TASKS:
        if command in ("fit", "validate", "test"):
            options += parser_of[task, command]._subcommands_action._name_parser_map[command]._option_string_actions
        elif command == "experiment":
            own = {"--config", "--runs", "--name", "--teacher", "--students", "--arms", "--steps"}
            assert nearest("--nam", own) == "--name"
            options += own - {"--name"}  # `translated` lets it through, as the next line holds
            assert translated(task, command, ["--name", "x"]) == ["--name", "x"]
        else:
            monkeypatch.setattr(Arguments, "parse_known_args", parse)
            with pytest.raises(Parsed) as parsed:
                MAINS[task].main([command])
            options += parsed.value.args[0]
            monkeypatch.undo()
    assert options
    ours = {option.lstrip("-").replace("-", "_") for option in options}
    ours -= (
        {"model"} if command in ("fit", "validate", "test", "experiment") else set()
    )  # a file, to lightning's parser
    assert not ours & foreign_words(command).keys()
    assert not foreign_words(command).keys() & set(TAKEN.get(command, ()))


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("--epoch 3", "--epochs N"),
        ("--imgsz=640", "--size N"),
        ("--img-size 640", "--size N"),
        ("--batch_size 8", "--batch N"),
        ("-b 8", "--batch N"),
        ("--learning-rate 1", "--lr R"),
        ("--model yolov8n.pt", "--weights F"),
        ("--data-path x", "--data DIR"),
        ("--project x", "--out DIR"),
        ("--conf-thres .3", "`predict`"),
        ("epochs=3", "--epochs 3"),
        ("model=yolov8n.pt", "--weights F"),
        ("-epochs 3", "--epochs N"),
        ("--time 10", "10m"),
        ("--device cuda:1", "--trainer.devices [1]"),
        ("--lr", "--lr R"),
        ("--batch --epochs 3", "--batch N"),
    ],
)
def test_what_other_programs_take_is_answered_with_ours(given, ours, capsys):
    assert MAINS["detection"].main(["fit", *given.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert ours in error


@pytest.mark.parametrize(
    ("args", "ours"),
    [
        (["test", "--epochs", "3"], "`fit`"),
        (["validate", "--resume"], "`fit`"),
        (["predict", "--imgsz", "3"], "leave it out"),
        (["predict", "--conf-thres=.3"], "--conf P"),
        (["check", "--dataset", "x"], "--data DIR"),
        (["check", "--imgsz", "3"], "--imgsz is not an option of `check`: leave it out; `fit` has --size"),
        (["fit", "--weigths", "x"], "Did you mean --weights?"),
        (["fit", "--data.batch-size", "3"], "Did you mean --data.batch_size?"),
        (["fit", "--val-fraction", "3"], "Did you mean --data.val_fraction?"),
    ],
)
def test_so_is_a_slip(args, ours, capsys):
    assert MAINS["detection"].main(args) == 2
    assert ours in capsys.readouterr().err


def test_the_nearest_name_has_hyphens_for_underscores_and_may_lack_its_group():
    names = ["--data.root", "--data.batch_size", "--save-crops"]
    assert nearest("--data.batch-size", names) == nearest("--batch-size", names) == "--data.batch_size"
    assert nearest("--save_crop", names) == "--save-crops"
    assert nearest("--zzz", names) is None


@pytest.mark.parametrize("task", TASKS)
def test_help_is_on_one_screen_and_imports_nothing_that_takes_time(task):
    script = (
        "import sys\n"
        f"from tasks.{task}.__main__ import main\n"
        "def help(*args):\n"
        "    try:\n"
        "        assert not main(args)\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
        "for command in sys.argv[1:]:\n"
        "    help(command, '-h')\n"
        "    help(command, '--help')\n"
        "    print(sorted({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)), file=sys.stderr)\n"
        "    assert 'numpy' not in sys.modules or command not in ('fit', 'validate', 'test', 'experiment'), command\n"
    )
    more = {"face_attributes": ["experiment"], "detection": ["evaluate"], "geolocalization": ["partition"]}.get(
        task, []
    )
    names = ["fit", "validate", "test", *more, "predict", "export", "page", "check", "benchmark"]
    env = os.environ | {"COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n" * len(names)
    texts = done.stdout.split(f"usage: python -m tasks.{task} ")[1:]
    assert [text.split()[0] for text in texts] == [name for name in names for _ in range(2)]
    for text in texts:
        lines = text.splitlines()
        assert len(lines) < 45
        assert max(map(len, lines)) <= 120
    for command, text in zip(names[:3], texts[0:6:2], strict=True):
        listed = re.findall(r"^  --(\w+) ", text.partition(f"of {task}:")[0], re.MULTILINE)
        assert listed == [*TAKEN[command], "config"]


@pytest.mark.parametrize("task", TASKS)
def test_what_the_help_of_a_task_names_is_there(parser_of, task):
    text = MAINS[task]._HELP
    for line in text.own.items():
        for option in re.findall(r"(?:^|--)((?:data|model)\.\w+)", " ".join(line)):
            assert (
                f"--{option}"
                in parser_of[task, "fit"]._subcommands_action._name_parser_map["fit"]._option_string_actions
            )
    for example in text.examples:
        command, *args = example.split()
        if args != ["--resume"]:
            parser_of[task, command].parse_args([command, *translated(task, command, args)], defaults=False)


def test_everything_is_a_question_away(capsys):
    assert MAINS["detection"].main(["fit", "--help-all"]) == 0
    assert "--trainer.accumulate_grad_batches" in capsys.readouterr().out


# --- --time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("90s", "00:00:01:30"),
        ("10m", "00:00:10:00"),
        ("2h", "00:02:00:00"),
        ("1h30m", "00:01:30:00"),
        ("1d", "01:00:00:00"),
        ("36h", "01:12:00:00"),
        ("00:00:10:00", "00:00:10:00"),
        ("10:00:00:00", "010:00:00:00"),  # which YAML would take for a number
    ],
)
def test_a_time_is_taken_as_people_write_it(parser_of, typed, taken):
    assert as_duration(typed) == taken
    given = parser_of["detection", "fit"].parse_args(
        ["fit", *translated("detection", "fit", ["--time", typed])], defaults=False
    )
    assert given["fit"]["trainer"]["max_time"] == taken


@pytest.mark.parametrize("typed", ["10", "", "0s", "m", "ten", "1m1h", "-1m", "99999999999d"])
def test_what_is_no_time_is_refused(typed):
    with one_sentence("10m"):
        as_duration(typed)


# --- --resume -------------------------------------------------------------------------------------------------------


def make_run(root, name, *, trained=True, finished=False, resumed_from=None):
    run = root / "detection" / name
    (run / "checkpoints").mkdir(parents=True)
    if trained:
        (run / "checkpoints" / "last.ckpt").touch()
    if finished:
        (run / "metrics.json").touch()
    line = f"{RESUMED}/elsewhere/detection/{resumed_from}/checkpoints/last.ckpt\n" if resumed_from else ""
    (run / "config.yaml").write_text(f"model:\n  lr: 1\n{line}")
    return run


def test_the_newest_run_that_was_stopped_goes_on(tmp_path):
    make_run(tmp_path, "2026-01-01_00-00-01")
    stopped = make_run(tmp_path, "2026-01-01_00-00-02_10")
    make_run(tmp_path, "2026-01-01_00-00-02_9")
    make_run(tmp_path, "2026-01-01_00-00-03", finished=True)
    make_run(tmp_path, "2026-01-01_00-00-04", trained=False)  # a test, or one that failed at its start
    (tmp_path / "detection" / "latest").symlink_to("2026-01-01_00-00-01")
    assert interrupted_run("detection", tmp_path) == stopped
    long = translated("detection", "fit", ["--resume", "--epochs", "9", "--out", str(tmp_path)])
    assert long == [
        "--ckpt_path",
        str(stopped),
        "--trainer.max_epochs",
        "9",
        "--trainer.default_root_dir",
        str(tmp_path),
    ]


def test_a_run_from_which_another_has_gone_on_does_not_go_on_again(tmp_path):
    first = make_run(tmp_path, "2026-01-01_00-00-01")
    make_run(tmp_path, "2026-01-01_00-00-02", trained=False, resumed_from=first.name)  # it has come to no checkpoint
    assert interrupted_run("detection", tmp_path) == first
    second = make_run(tmp_path, "2026-01-01_00-00-03", resumed_from=first.name)
    assert interrupted_run("detection", tmp_path) == second
    third = make_run(tmp_path, "2026-01-01_00-00-04", finished=True, resumed_from=second.name)
    with one_sentence(str(third)):
        interrupted_run("detection", tmp_path)


def test_a_run_that_goes_on_now_is_passed_over(tmp_path):
    first, second = (make_run(tmp_path, f"2026-01-01_00-00-0{i}") for i in (1, 2))
    with in_use(second) as ours, in_use(second) as free:
        assert (ours, free) == (True, False)
        assert interrupted_run("detection", tmp_path) == first
    assert interrupted_run("detection", tmp_path) == second


def test_without_any_run_it_says_how_to_train(tmp_path):
    with pytest.raises(InputError, match="train with `python"):
        translated("detection", "fit", ["--resume", "--out", str(tmp_path)])


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_was_started_with_until_its_end(classes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = MAINS["classification"].main

    def stop(self, trainer, *_):
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    quick = "--size 32 --width 0.25 --batch 4 --workers 0 --epochs 3 --seed 3 --lr 0.003"
    with monkeypatch.context() as patch:
        patch.setattr(cli.ValidateLastEpoch, "on_train_batch_start", stop, raising=False)
        rarely = "--trainer.check_val_every_n_epoch=10"
        assert main(["fit", "--data", str(classes_root), *quick.split(), rarely]) == 130
    [stopped] = Path("runs/classification").glob("2*")
    capsys.readouterr()
    assert main(["fit", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert f"resuming {stopped / 'checkpoints' / 'last.ckpt'} (step 8)" in printed  # within the last of three epochs
    [resumed] = set(Path("runs/classification").glob("2*")) - {stopped}
    assert printed.endswith(f"run: {resumed}\n")
    assert resumed_from(resumed) == stopped.name
    rows = csv.DictReader((resumed / "metrics.csv").read_text().splitlines())
    assert sum(bool(row["val/top1"]) for row in rows) == 2  # at the end of the last epoch, and of the best's
    settings = [yaml.safe_load((run / "config.yaml").read_text()) for run in (stopped, resumed)]
    assert settings[1]["data"].pop("classes") == {"0": "bar", "1": "cross", "2": "disc"}  # the checkpoint's
    assert settings[0]["data"].pop("classes") is None
    assert settings[0] == settings[1]
    assert [settings[0]["seed_everything"], settings[0]["data"]["seed"], settings[0]["model"]["lr"]] == [3, 3, 0.003]
    assert main(["fit", "--resume"]) == 2
    assert str(resumed) in capsys.readouterr().err
    assert main(["fit", "--resume", str(resumed), "--epochs", "4"]) == 0
    [longer] = set(Path("runs/classification").glob("2*")) - {stopped, resumed}
    assert read_checkpoint(longer / "checkpoints" / "last.ckpt", "classification")["global_step"] == 12
    assert main(["fit", "--resume", str(longer), "--time", "1s"]) == 0  # of an end by epochs, whatever the time
    assert "trained to its end" in capsys.readouterr().out
    last = stopped / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert main(["fit", "--resume", str(stopped)]) == 0
    assert f"resuming {last.with_name('previous.ckpt')} (step 6)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_epochs_ends_by_its_time_and_more_epochs_end_it_later(
    classes_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main = MAINS["classification"].main
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=count().__next__))
    quick = "--size 32 --width 0.25 --batch 4 --workers 0 --time 20s"
    assert main(["fit", "--data", str(classes_root), *quick.split()]) == 0
    [run] = Path("runs/classification").glob("2*")
    steps = read_checkpoint(run / "checkpoints" / "last.ckpt", "classification")["global_step"]
    assert 0 < steps < 20
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == -1
    assert main(["fit", "--resume", str(run)]) == 0
    assert "trained to its end" in capsys.readouterr().out
    assert main(["fit", "--resume", str(run), "--epochs", "9"]) == 0
    [longer] = set(Path("runs/classification").glob("2*")) - {run}
    state = read_checkpoint(longer / "checkpoints" / "last.ckpt", "classification")
    assert state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 9
