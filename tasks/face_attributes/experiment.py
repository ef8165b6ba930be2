"""Train students of several shapes by one teacher, and the same students on labels with equal steps, as in Table 12.

Every run is an ordinary `fit` and `test` in a folder of its own, and what is finished there is not done again: the same
command goes on after an interruption, or with more students. It ends in a table, and in pictures of mean AP over
mult-adds and over the number of unlabelled images. --data.X and --trainer.X hold for all runs, --model.X for students.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from backbone.__main__ import print_columns
from backbone.cost import count, total
from backbone.errors import InputError
from backbone.files import write_whole
from backbone.names import shown
from data.attributes import AttributesDataModule
from data.loading import input_size
from tasks.__main__ import TABLE_12
from tasks.cli import TaskTrainer, prepared, run
from tasks.commands import exit_code
from tasks.distillation.module import check_distillation
from tasks.distillation.teachers import build_teacher
from tasks.face_attributes.module import FaceAttributesModule
from tasks.next_steps import say_next
from tasks.options import CONFIGS, LINKS, read_config
from tasks.pooled import PooledNetwork, pooled_network
from tasks.reporting import BLUE, DPI, ORANGE, markdown_table, save_figure, write_csv
from tasks.run_folders import run_order
from tasks.runs import read_checkpoint

_PROG = "python -m tasks.face_attributes experiment"
_CONFIGS = CONFIGS / "face_attributes"
_CLASSES = {"model": FaceAttributesModule, "data": AttributesDataModule, "trainer": TaskTrainer}
_SET_HERE = {  # by students, steps and sweep, or for all runs alike
    "model": ["width_mult", "teacher", "cache", "cache_only", "numerics"],
    "data": ["image_size", "resolution_mult", "unlabelled_fraction"],
    "trainer": ["max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "devices", "default_root_dir"],
}
_SET_HERE["trainer"] += ["val_check_interval", "check_val_every_n_epoch"]
_OF_TEACHER = ("teacher_weight", "temperature", "distance")  # options of the model that mean nothing without one
_OF_NO_MATTER = ["data.num_workers", "data.max_bad_fraction", "trainer.enable_progress_bar"]  # to the figures
_OF_NO_MATTER += ["model.teacher", "model.cache"]  # the teacher is compared by its digest
_LOADING = 30e6  # mult-adds that take as long as all of a step but the network, for each image
_TO_TRAIN = "its run's best.ckpt"  # the students' teacher while it is not there yet

Arm = Literal["distilled", "labels"]
Options = dict[str, dict[str, Any]]  # {"model": {...}, "data": {...}, "trainer": {...}}, as a config of `fit`


@dataclass
class Student:
    """A shape of student; with `unlabelled_fractions` it is also trained on these parts of the unlabelled images."""

    width_mult: PositiveFloat
    image_size: PositiveInt  # px, of a side
    unlabelled_fractions: list[ClosedUnitInterval] | None = None


class Run(NamedTuple):
    """One run of an experiment."""

    name: str  # of its folder
    arm: str  # "teacher", or an Arm
    options: Options
    checkpoint: str | None = None  # a teacher that is there already: only tested


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the config or what it names cannot be used."""
    parser = _parser(_SET_HERE)
    parser.add_argument("--config", type=str, help="default: the built-in sample's, experiment_sample.yaml")
    parser.add_argument("--runs", type=str, help="where run folders go; default: runs")
    parser.add_argument("--name", type=str, help="of the experiment's folder; default: that of the config")
    parser.add_argument("--teacher", type=Any, help="as --model.teacher of `fit`; or a config, to train one first")
    parser.add_argument("--students", type=list[Student], help="the shapes")
    parser.add_argument("--arms", type=list[Arm], help="distilled, labels, or both, which is the default")
    parser.add_argument("--steps", type=PositiveInt, help="of every student's run")
    student = f"{Student.__module__}.{Student.__qualname__}"
    given = _parsed(parser.parse_args, prepared([*args, "--allow_import", student]))
    config = Path(given.pop("config", _CONFIGS / "experiment_sample.yaml"))
    folder = Path(given.pop("runs", "runs")) / "face_attributes" / given.pop("name", config.stem)
    settings = read_config(config)
    for name, value in given.items():
        settings[name] = {**(settings.get(name) or {}), **value} if name in _CLASSES else value
    settings = _parsed(parser.parse_object, settings, f"{config}: ")
    if str(settings.get("teacher")).endswith((".yaml", ".yml")):
        settings["teacher"] = read_config(config.parent / settings["teacher"])
    if missing := [name for name in ("teacher", "students", "steps") if not settings.get(name)]:
        raise InputError(f"{config} has no {missing[0]}; see {_CONFIGS / 'table12.yaml'}.")
    runs = plan(settings, {group: given.get(group, {}) for group in _CLASSES}, folder)
    images, lengths, teacher = _check(runs, settings["teacher"], folder)
    _refuse_changes(runs, teacher, folder)
    code = 0
    try:
        for number, each in enumerate(runs, start=1):
            print(f"\n[{number}/{len(runs)}] {each.name}", flush=True)
            left = sum(lengths[other.name] for other in runs[number - 1 :])
            if code := _make(each, folder, left / lengths[each.name] if lengths[each.name] else 1.0):
                break
    except KeyboardInterrupt as stop:
        code = exit_code(stop)
    done = [each for each in runs if _finished(folder / each.name, "test")]
    if done:
        write_table(folder, [_row(each, folder / each.name, images[each.name]) for each in done])
    if code:
        print(f"stopped with {len(runs) - len(done)} of {len(runs)} runs left; the same command goes on from here")
    elif best := _best_student(runs, folder):
        task = "face_attributes"
        say_next([task, "predict", "--weights", best, "--source", "face.jpg"], [task, "export", "--ckpt_path", best])
    print(f"experiment: {folder}")
    return code


# ----------------------------------------------------------------------------------------------------- what is to run


def _parser(without: Mapping[str, Sequence[str]]) -> LightningArgumentParser:
    """Of the options of `fit`, but for some of each group."""
    parser = LightningArgumentParser(prog=_PROG, description=__doc__, exit_on_error=False, allow_abbrev=False)
    for group, of in _CLASSES.items():
        parser.add_class_arguments(of, group, skip={*without.get(group, ()), *(LINKS if group == "model" else ())})
    return parser


def _parsed(parse: Callable[..., Namespace], given: Any, where: str = "", *, defaults: bool = False) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(parse(given, defaults=defaults).as_dict()))  # plain numbers, not PositiveFloat
    except ArgumentError as error:
        raise InputError(f"{where}{' '.join(str(error).split())}") from error


def plan(settings: Mapping[str, Any], given: Options, folder: Path) -> list[Run]:
    """The runs in their order, the teacher's first; `given` are the options of the command line alone.

    Both arms of a student have every option in common but the teacher's, the unlabelled images and fixed views.
    """
    shared = {group: dict(settings.get(group) or {}) for group in _CLASSES}
    unlabelled, steps, teacher = shared["data"].pop("unlabelled", None), settings["steps"], settings["teacher"]
    validations = max(n for n in range(1, 11) if steps % n == 0)  # the last of them at the last step
    length = {"max_steps": steps, "max_epochs": -1, "val_check_interval": steps // validations}
    trainer = {**shared["trainer"], **length, "check_val_every_n_epoch": None}

    def student(shape: Mapping[str, Any], arm: str, fraction: float = 1.0) -> Run:
        model = {**shared["model"], "width_mult": shape["width_mult"]}
        data = {**shared["data"], "image_size": shape["image_size"]}
        if arm == "labels":
            model = {option: value for option, value in model.items() if option not in _OF_TEACHER}
            data.pop("views", None)  # fixed for the sake of cached logits; labels do better on new ones every epoch
        else:
            model["teacher"] = _TO_TRAIN if isinstance(teacher, Mapping) else teacher
            data |= {"unlabelled": unlabelled, "unlabelled_fraction": fraction}
            if data.get("views"):
                model["cache"] = str(folder / "teacher_logits" / f"{shape['image_size']}_{fraction:g}")
        name = f"{shape['width_mult']}_{shape['image_size']}_{arm}" + f"_{fraction:g}" * (fraction != 1)
        return Run(name, arm, {"model": model, "data": data, "trainer": trainer})

    runs = []
    for shape in settings["students"]:
        runs += [student(shape, arm) for arm in settings.get("arms") or ("distilled", "labels")]
        fractions = shape.get("unlabelled_fractions") or []
        if fractions and not unlabelled:
            raise InputError("unlabelled_fractions of a student need a folder of images, --data.unlabelled.")
        runs += [student(shape, "distilled", fraction) for fraction in fractions]
    if isinstance(teacher, Mapping):
        own = dict(teacher)
        for group in ("data", "trainer"):
            own[group] = {**shared[group], **(own.get(group) or {}), **given[group]}
        own["data"].pop("unlabelled", None)
        runs.insert(0, Run("teacher", "teacher", own))
    elif isinstance(teacher, str) and teacher.endswith(".ckpt"):
        runs.insert(0, Run("teacher", "teacher", {"data": shared["data"], "trainer": shared["trainer"]}, teacher))
    return list({each.name: each for each in runs}.values())  # a fraction of 1 is there already


def _best_student(runs: Sequence[Run], folder: Path) -> Path | None:
    """The run of the student that scored highest on the test images."""
    tests = [
        (each, found) for each in runs if each.arm != "teacher" and (found := _finished(folder / each.name, "test"))
    ]
    figures = {each.name: json.loads((test / "metrics.json").read_text("utf-8"))["test/map"] for each, test in tests}
    return _finished(folder / max(figures, key=lambda name: figures[name] or 0.0), "val") if figures else None


def _check(
    runs: Sequence[Run], teacher: Any, folder: Path
) -> tuple[dict[str, tuple[int | None, int | None]], dict[str, float], str]:
    """How many images with and without labels each run trains on; how long it takes beside others; teacher's digest.

    Finds what is wrong with data, teacher and the options of any run, before the first of them is made.
    """
    images: dict[str, tuple[int | None, int | None]] = {}
    lengths: dict[str, float] = dict.fromkeys((each.name for each in runs), 0.0)  # 0 where it is done
    known: dict[str, AttributesDataModule] = {}
    parser, digest = _parser({}), "trained here"
    for each in runs:
        options = _parsed(parser.parse_object, each.options, f"{each.name}: ", defaults=True)
        key = repr({name: value for name, value in options["data"].items() if name not in ("image_size", "views")})
        if key not in known:
            data = known[key] = AttributesDataModule(**options["data"])
            if len(known) == 1 and not isinstance(teacher, Mapping):
                digest = f"sha256 {build_teacher(teacher, tuple(data.categories.values()), 'sigmoid').digest}"
            data.setup("fit")
        labelled = (known[key].records("train")["attributes"] >= 0).any(axis=1)
        images[each.name] = (None, None) if each.checkpoint else (int(labelled.sum()), int((~labelled).sum()))
        if each.checkpoint or _finished(folder / each.name, "test"):
            continue
        try:
            size = input_size(options["data"]["image_size"], options["data"]["resolution_mult"])
            module = FaceAttributesModule(known[key].categories, size, **options["model"])
            check_distillation(module.hparams, known[key].hparams["views"])
            if options["model"]["teacher"] != _TO_TRAIN:
                module.prepare(known[key])
            network = PooledNetwork(module.trunk, module.head.layers)
            cost = total(count(network, torch.zeros(1, 3, *size, dtype=torch.uint8))).mult_adds + _LOADING
            lengths[each.name] = cost * _images_seen(options, int(labelled.size))
        except InputError as error:
            raise InputError(f"{each.name}: {error}") from error
    return images, lengths, digest


def _images_seen(options: Options, count: int) -> int:
    """How many images a run trains on, each as often as it is seen."""
    steps, epochs = options["trainer"]["max_steps"], options["trainer"]["max_epochs"]
    of_steps = steps * options["data"]["batch_size"] * (options["trainer"]["accumulate_grad_batches"] or 1)
    return of_steps if epochs in (None, -1) else min(of_steps if steps > 0 else count * epochs, count * epochs)


def _refuse_changes(runs: Sequence[Run], teacher: str, folder: Path) -> None:
    """Write down what decides the figures of each run. Raises InputError where one was begun with another value."""
    file = folder / "settings.yaml"
    settings = read_config(file) if file.is_file() else {}
    for each in runs:
        flat = {f"{group}.{name}": value for group, of in each.options.items() for name, value in of.items()}
        now = {"teacher": teacher, **{name: value for name, value in flat.items() if name not in _OF_NO_MATTER}}
        before = settings.setdefault(each.name, now) if (folder / each.name / "face_attributes").is_dir() else now
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"{file}: the run {each.name} was begun with {name} {before.get(name)}, but {now.get(name)} is "
                    "given now, and a table of both would not compare; give another --name, or put it back."
                )
        settings[each.name] = now
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


# ------------------------------------------------------------------------------------------------------------ running


def _make(each: Run, folder: Path, runs: float) -> int:
    """What is left of a run's `fit` and `test`; return the exit code.

    `runs` is how many times as long as this run it and those that follow take.
    """
    own, options = folder / each.name, {group: dict(of) for group, of in each.options.items()}
    options["trainer"] |= {"devices": 1, "default_root_dir": str(own)}
    if options.get("model", {}).get("teacher") == _TO_TRAIN:
        options["model"]["teacher"] = f"{_finished(folder / 'teacher', 'val')}/checkpoints/best.ckpt"
    own.mkdir(parents=True, exist_ok=True)
    config = own / "config.yaml"
    write_whole(config, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
    for command, split in (("fit", "val"), ("test", "test")):
        if _finished(own, split) or (command == "fit" and each.checkpoint):
            continue
        begun = own.glob("face_attributes/2*/checkpoints/last.ckpt")
        checkpoint = max(begun, key=lambda file: run_order(file.parents[1]), default=None)
        if command == "test":
            checkpoint = Path(each.checkpoint or f"{_finished(own, 'val')}/checkpoints/best.ckpt")
        args = [command, "--config", str(config), *(["--ckpt_path", str(checkpoint)] if checkpoint else [])]
        try:
            if code := run(FaceAttributesModule, AttributesDataModule, args, runs):
                return code
        except InputError as error:
            if not each.checkpoint:
                raise InputError(f"{each.name}: {error}") from error
            print(f"without a test of the teacher itself: {error}")  # it knows other attributes too, say
    return 0


def _finished(folder: Path, split: str) -> Path | None:
    """The run in `folder` that came to figures of a split, which a report writes last."""
    for file in sorted(folder.glob("face_attributes/2*/metrics.json"), key=lambda file: run_order(file.parent)):
        if f"{split}/map" in json.loads(file.read_text("utf-8")):
            return file.parent
    return None


# -------------------------------------------------------------------------------------------------- table and pictures

_PAPER = {(row.width_mult, row.image_size): row.figure / 100 for row in TABLE_12}
_NOTE = "The paper's mean AP (Table 12) is on faces of its own, with a teacher of 0.869: not to be compared with ours."
_COLUMNS = ["model", "learned from", "labelled", "unlabelled", "steps", "mult-adds", "params", "val mean AP"]
_COLUMNS += ["test mean AP", "the teacher's", "the paper's"]
_ARMS = {"teacher": "", "distilled": "the teacher", "labels": "labels"}  # what each learned from


def _row(each: Run, folder: Path, images: tuple[int | None, int | None]) -> dict[str, Any]:
    """What a finished run came to, by the table's columns; None where it is not known."""
    fit, test = _finished(folder, "val"), _finished(folder, "test")
    best = read_checkpoint(each.checkpoint or f"{fit}/checkpoints/best.ckpt", "face_attributes")
    last = read_checkpoint(f"{fit}/checkpoints/last.ckpt", "face_attributes") if fit else best
    width, (height, breadth) = best["trunk"]["width_mult"], best["hyper_parameters"]["input_size"]
    model = best["trunk"]["trunk"] if width is None else f"{float(width)} MobileNet"
    cost = total(count(pooled_network(best), torch.zeros(1, 3, height, breadth, dtype=torch.uint8)))
    files = [path / "metrics.json" for path in (fit, test) if path]
    figures = {name: value for file in files for name, value in json.loads(file.read_text("utf-8")).items()}
    counts = *images, last["global_step"], cost.mult_adds, cost.params
    aps = (figures.get(name) for name in ("val/map", "test/map", "test/teacher_map"))
    paper = None if each.arm == "teacher" else _PAPER.get((width, height))
    values = shown(f"{model}-{height}"), _ARMS[each.arm], *counts, *aps, paper
    fraction = each.options["data"].get("unlabelled_fraction")
    return {**dict(zip(_COLUMNS, values, strict=True)), "arm": each.arm, "fraction": fraction}


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table; write table.csv, table.md, pictures/experiment.png and, of a sweep, pictures/unlabelled.png."""

    def word(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value or ""

    def points(arm: str, column: str = "mult-adds", **equal: Any) -> list[tuple[float, float]]:
        same = [row for row in rows if {"arm": arm, **equal}.items() <= row.items()]
        return sorted((row[column], row["test mean AP"]) for row in same if row["test mean AP"] is not None)

    words, pictures = [[word(row[name]) for name in _COLUMNS] for row in rows], folder / "pictures"
    print()
    print_columns(_COLUMNS, words, words=2)
    print(f"\n  {_NOTE}\n\ntable: {folder / 'table.md'}\npictures: {pictures}")
    pictures.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "table.csv", _COLUMNS, ([row[name] for name in _COLUMNS] for row in rows))  # None is empty
    write_whole(folder / "table.md", f"{markdown_table(_COLUMNS, words)}\n\n{_NOTE}\n")
    teacher = {f"the teacher, {ap:.3f}": ap for _, ap in points("teacher")}
    students, same = "students of the teacher", "the same students on labels, equal steps"
    curves = {students: points("distilled", fraction=1), same: points("labels")}
    _plot(pictures / "experiment.png", "mult-adds", curves, teacher)
    if swept := {row["model"] for row in rows if row["fraction"] not in (None, 1)}:
        lines = {f"{model} on labels, {ap:.3f}": ap for model in swept for _, ap in points("labels", model=model)}
        curves = {f"{model} of the teacher": points("distilled", "unlabelled", model=model) for model in sorted(swept)}
        _plot(pictures / "unlabelled.png", "images without labels", curves, {**teacher, **lines})


def _plot(path: Path, axis: str, curves: Mapping[str, Any], lines: Mapping[str, float]) -> None:
    """Curves, lists of (x, test mean AP), over an axis that is logarithmic but for 0, and horizontal lines."""
    from matplotlib.figure import Figure  # slow to import, and only needed here
    from matplotlib.ticker import EngFormatter, NullLocator

    figure = Figure(figsize=(7, 4.2), dpi=DPI)
    axes = figure.add_subplot()
    for (label, points), color in zip(curves.items(), (BLUE, ORANGE), strict=False):
        axes.plot(*np.reshape(points, (-1, 2)).T, color=color, marker="o", label=label)
    for (label, value), color in zip(lines.items(), ("black", ORANGE), strict=False):
        axes.axhline(value, color=color, linestyle=":", label=label)
    places = sorted({x for points in curves.values() for x, _ in points})
    axes.set_xscale("symlog", linthresh=next((x for x in places if x), 1), linscale=0.5)
    axes.set_xticks(places, map(EngFormatter(places=1), places), rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=axis, ylabel="test mean AP", xmargin=0.06, ymargin=0.12)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)
