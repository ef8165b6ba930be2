"""`python -m tasks.face_attributes experiment`: students of several shapes beside their teacher, as in Table 12.

Every run is an ordinary `fit` and `test` in a folder of its own; what is finished there is never done again.
"""

import argparse
import contextlib
import difflib
import inspect
import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from backbone.errors import Arguments, InputError
from tasks.face_attributes.comparison import Row, print_table, read_row, write_comparison
from tasks.reporting import count_of

DESCRIPTION = """\
Train students of several shapes by one teacher, and the same students on labels with equal steps; write one table and
pictures of mean AP over mult-adds and over the number of unlabelled pictures. Run the same command again to go on
after an interruption, or with more students. Beside the options below, --data.X and --trainer.X of `fit` hold for all
runs, and --model.X for all students.
"""

_CONFIGS = Path(__file__).parents[2] / "configs" / "face_attributes"
_ROOMS = ("model", "data", "trainer")
_FIELDS = ("teacher", "students", "arms", "steps", "sweep", *_ROOMS)
_ARMS = ("distilled", "labels")
_OWN = {  # what an experiment says elsewhere, or decides for all its runs alike
    "model.width_mult": "`students` has the widths",
    "model.teacher": "`teacher` names it",
    "model.cache": "with data.views answers are kept in the experiment's folder",
    "model.cache_only": "with data.views answers are kept in the experiment's folder",
    "data.image_size": "`students` has the sizes",
    "data.resolution_mult": "`students` has the sizes",
    "data.unlabelled_fraction": "`sweep` has the fractions",
    "trainer.max_steps": "`steps` is the length of every student's run",
    "trainer.max_epochs": "`steps` is the length of every student's run",
    "trainer.max_time": "`steps` is the length of every student's run",
    "trainer.accumulate_grad_batches": "both arms take steps of one batch",
    "trainer.val_check_interval": "both arms are validated after the same steps",
    "trainer.check_val_every_n_epoch": "both arms are validated after the same steps",
    "trainer.devices": "runs are made one after another, each on one device",
    "trainer.default_root_dir": "--runs and --name say where it goes",
}
_OF_NO_MATTER = {  # to the figures of a run
    "model.teacher",  # by its path; teacher.yaml says which it is
    "model.cache",
    "data.num_workers",
    "data.max_bad_fraction",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
}
_OF_TEACHER = ("teacher_weight", "temperature", "distance", "mixup_alpha")  # options of `model` without one


class Run(NamedTuple):
    """One run of an experiment."""

    name: str  # of its folder
    arm: str  # "teacher", "distilled" or "labels"
    options: dict[str, dict[str, Any]]  # what `fit --config` takes
    checkpoint: str | None = None  # a teacher that is there already: only tested
    sweep: float | None = None  # the part of the unlabelled pictures, of a run that `sweep` asks for


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the config or what it names cannot be used."""
    parser = Arguments(
        prog="python -m tasks.face_attributes experiment",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=_CONFIGS / "experiment_sample.yaml",
        metavar="E.yaml",
        help="default: the built-in sample",
    )
    parser.add_argument("--teacher", help="a checkpoint, or what else --model.teacher of `fit` takes")
    parser.add_argument("--steps", type=int, help="of every student's run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    parser.add_argument("--name", help="of the experiment's folder (default: that of the config)")
    options, rest = parser.parse_known_args(args)
    given = read_overrides(rest)
    asked = read_config(options.config)
    asked |= {name: value for name in ("teacher", "steps") if (value := getattr(options, name)) is not None}
    check(asked, given, options.config)
    folder = options.runs / "face_attributes" / (options.name or options.config.stem)
    runs = plan(asked, given, folder, options.config.parent)
    pictures, teacher = _counted(runs, asked["teacher"], folder)
    _refuse_changes(runs, teacher, folder)
    try:
        code = _run_all(runs, folder)
    except KeyboardInterrupt:
        code = 130  # as a shell reports Ctrl-C
    if code == 2:
        return code  # a value that `fit` does not take, which it has said
    rows = [row for each in runs if (row := _row(each, folder, pictures[each.name]))]
    if rows:
        table = write_comparison(folder, rows)
        print_table(rows)
        print(f"table: {table}\npictures: {folder / 'pictures'}")
    if code:
        print(f"stopped with {_left(runs, folder)} of {len(runs)} runs left; the same command goes on from here")
    print(f"experiment: {folder}")
    return code


# ----------------------------------------------------------------------------------------------- what is asked for


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a YAML file. Raises InputError where it is none."""
    try:
        asked = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); name a config with --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML ({' '.join(str(error).split())}); mend it.") from error
    if not isinstance(asked, dict):
        raise InputError(f"{path} has no fields; it needs teacher, students and steps.")
    return asked


def read_overrides(args: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`--data.root DIR` or `--data.root=DIR` as {"data": {"root": "DIR"}}. Raises InputError for anything else."""
    given: dict[str, dict[str, Any]] = {room: {} for room in _ROOMS}
    rest = list(args)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        room, _, option = name.removeprefix("--").partition(".")
        if not name.startswith("--") or room not in _ROOMS or not option:
            raise InputError(f"{name} is no option of an experiment; its --help lists what there is.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"{name} has no value; write it behind the option.")
            value = rest.pop(0)
        try:  # not everything as YAML: a folder may well be called 2024
            given[room][option] = value if option in ("root", "unlabelled", "weights") else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{name} {value!r} is no YAML ({' '.join(str(error).split())}); mend it.") from error
    return given


def check(asked: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Raise InputError for the first field that cannot be used."""
    _check_names("a field of an experiment", asked, _FIELDS, file)
    for source, rooms in (("the command line", given), (str(file), asked)):
        _check_rooms(rooms, source)
        for room in _ROOMS:
            for name in rooms.get(room) or {}:
                if reason := _OWN.get(f"{room}.{name}"):
                    raise InputError(f"{source}: {room}.{name} is not for a whole experiment: {reason}.")
    if not asked.get("teacher"):
        raise InputError(f"{file} has no teacher; name a checkpoint with --teacher FILE.")
    for name in ("students", "steps"):
        if name not in asked:
            raise InputError(f"{file} has no {name}; see {_CONFIGS / 'table12.yaml'}.")
    steps, students, arms = asked["steps"], asked["students"], asked.get("arms", _ARMS)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"{file}: steps is {steps!r}; it must be a whole number, 1 or more.")
    if not isinstance(students, list) or not students:
        raise InputError(f"{file}: students is {students!r}; list one or more, each with a width_mult and image_size.")
    for student in students:
        _check_student(student, ("width_mult", "image_size"), file)
    names = [_student(student) for student in students]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{file}: students has {name.replace('_', ' at ')} more than once; list it once.")
    if not isinstance(arms, list | tuple) or not arms or len(set(arms)) < len(arms) or not set(arms) <= set(_ARMS):
        raise InputError(f"{file}: arms is {arms!r}; it must be a list of distilled, labels or both.")
    model = {**(asked.get("model") or {}), **given["model"]}
    if "labels" in arms and model.get("mixup_alpha"):
        raise InputError(
            f"{file}: model.mixup_alpha is {model['mixup_alpha']}, but labels of blended faces mean nothing, and both "
            "arms must see the same pictures; leave it out, or leave labels out of arms."
        )
    if (sweep := asked.get("sweep")) is not None:
        _check_student(sweep, ("width_mult", "image_size", "unlabelled_fractions"), file)
        fractions = sweep["unlabelled_fractions"]
        if not isinstance(fractions, list) or not fractions or len(set(map(str, fractions))) < len(fractions):
            raise InputError(f"{file}: sweep.unlabelled_fractions is {fractions!r}; list different parts of 1.")
        for part in fractions:
            if not isinstance(part, int | float) or not 0 <= part <= 1:
                raise InputError(f"{file}: sweep.unlabelled_fractions has {part!r}; each must be from 0 to 1.")
        if not {**(asked.get("data") or {}), **given["data"]}.get("unlabelled"):
            raise InputError(f"{file}: sweep needs pictures without labels; name their folder with --data.unlabelled.")


def _check_rooms(rooms: Mapping[str, Any], source: str) -> None:
    accepted = _accepted()
    for room in _ROOMS:
        options = rooms.get(room) or {}
        if not isinstance(options, Mapping):
            raise InputError(f"{source}: {room} is {options!r}; it must be options with their values.")
        _check_names(f"an option of `{room}`", options, accepted[room], source)


def _check_names(what: str, found: Mapping[str, Any], known: Sequence[str], file: Path | str) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]
            raise InputError(f"{file}: {name!r} is not {what}; the nearest is {near!r}.")


def _check_student(student: Any, fields: Sequence[str], file: Path) -> None:
    if not isinstance(student, Mapping):
        raise InputError(f"{file}: a student is {student!r}; give it a width_mult and an image_size.")
    _check_names("a field of a student", student, fields, file)
    for name in fields:
        if name not in student:
            raise InputError(f"{file}: the student {dict(student)} has no {name}; add it.")
    width, size = student["width_mult"], student["image_size"]
    if not isinstance(width, int | float) or isinstance(width, bool) or width <= 0:
        raise InputError(f"{file}: a student's width_mult is {width!r}; it must be a number above 0.")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{file}: a student's image_size is {size!r}; it must be its side in px.")


def _accepted() -> dict[str, list[str]]:
    """The options of each room, as `fit` has them."""
    from lightning.pytorch import Trainer

    from data.attributes import AttributesDataModule
    from tasks.face_attributes.module import FaceAttributesModule

    classes = {"model": FaceAttributesModule, "data": AttributesDataModule, "trainer": Trainer}
    return {room: list(inspect.signature(of).parameters) for room, of in classes.items()}


# ---------------------------------------------------------------------------------------------------- what is to run


def plan(asked: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], folder: Path, configs: Path) -> list[Run]:
    """The runs in their order, the teacher's first; `configs` is where a teacher's config lies. Raises InputError.

    Both arms of a student have every option in common but the teacher's, the unlabelled pictures and fixed views.
    """
    shared = {room: {**(asked.get(room) or {}), **given[room]} for room in _ROOMS}
    unlabelled = shared["data"].pop("unlabelled", None)
    runs, source = _teacher(asked["teacher"], shared, given, folder, configs)
    steps = asked["steps"]
    validations = max(n for n in range(1, 11) if steps % n == 0)  # the last of them at the last step

    def student(shape: Mapping[str, Any], arm: str, fraction: float = 1, sweep: float | None = None) -> Run:
        name = f"{_student(shape)}_{arm}" + (f"_{fraction:g}" if fraction != 1 else "")
        model = {**shared["model"], "width_mult": shape["width_mult"]}
        data = {**shared["data"], "image_size": shape["image_size"]}
        if arm == "labels":
            model = {option: value for option, value in model.items() if option not in _OF_TEACHER}
            data.pop("views", None)  # fixed for the sake of kept answers; labels do better on new ones every epoch
        else:
            model["teacher"] = source
            data |= {"unlabelled": unlabelled, "unlabelled_fraction": fraction}
            if data.get("views"):
                model["cache"] = str(folder / "answers" / f"{shape['image_size']}_{fraction:g}")
        trainer = {"max_steps": steps, "max_epochs": -1, "check_val_every_n_epoch": None}
        trainer["val_check_interval"] = steps // validations
        options = {"model": model, "data": data, "trainer": {**shared["trainer"], **trainer}}
        return Run(name, arm, _placed(options, folder / name), sweep=sweep)

    sweep = asked.get("sweep") or {"unlabelled_fractions": ()}
    swept = [student(sweep, "distilled", part, part) for part in sweep["unlabelled_fractions"]]
    of_sweep = {each.name: each for each in swept}  # one of them may be a student's own
    for shape in asked["students"]:
        for arm in asked.get("arms", _ARMS):
            each = student(shape, arm)
            runs.append(of_sweep.pop(each.name, each))
    return [*runs, *of_sweep.values()]


def _teacher(
    asked: Any, shared: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], folder: Path, configs: Path
) -> tuple[list[Run], Any]:
    """The teacher's run, none where its answers are all that is known of it, and what `--model.teacher` is to be."""
    own = folder / "teacher"
    if _is_config(asked):
        asked = asked if isinstance(asked, Mapping) else read_config(configs / asked)
        _check_names("a part of a teacher's config", asked, _ROOMS, "the teacher")
        _check_rooms(asked, "the teacher")
        options = {room: {**(asked.get(room) or {})} for room in _ROOMS}
        for room in ("data", "trainer"):
            options[room] = {**shared[room], **options[room], **given[room]}
        options["data"].pop("unlabelled", None)
        return [Run("teacher", "teacher", _placed(options, own))], str(own / "fit" / "checkpoints" / "best.ckpt")
    if isinstance(asked, str) and _is_ours(Path(asked)):
        options = {"data": dict(shared["data"]), "trainer": dict(shared["trainer"])}
        return [Run("teacher", "teacher", _placed(options, own), checkpoint=asked)], asked
    return [], asked


def _is_ours(path: Path) -> bool:
    from tasks.runs import read_checkpoint

    try:
        return bool(path.suffix == ".ckpt" and read_checkpoint(path, "face_attributes"))
    except InputError:
        return False  # another task's, or none at all, which loading it says


def _placed(options: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    trainer = {**options["trainer"], "devices": 1, "default_root_dir": str(folder / "unfinished")}
    return {**options, "trainer": trainer}


def _student(shape: Mapping[str, Any]) -> str:
    return f"{float(shape['width_mult'])}_{shape['image_size']}"


# ------------------------------------------------------------------------------------------- what is there already


def _counted(runs: Sequence[Run], teacher: Any, folder: Path) -> tuple[dict[str, tuple[int | None, int | None]], str]:
    """How many pictures with and without labels each run trains on, and which teacher it is, in words.

    Finds what is wrong with data, teacher and the options of any run, before the first of them is made.
    """
    from jsonargparse import ArgumentError

    from data.attributes import UNKNOWN, AttributesDataModule
    from tasks.distillation.lessons import build_teacher

    parser = _parser()
    found: dict[str, tuple[int | None, int | None]] = {}
    known: dict[str, AttributesDataModule] = {}
    whose = "trained here"
    for each in runs:
        try:
            options = parser.parse_object(each.options).as_dict()
        except ArgumentError as error:
            raise InputError(f"{each.name}: {' '.join(str(error).split())}") from error
        key = repr({name: value for name, value in options["data"].items() if name != "image_size"})
        if key not in known:
            data = AttributesDataModule(**options["data"])
            attributes = tuple(data.categories.values())  # draws the sample, and says so
            if not known and not _is_config(teacher):
                whose = f"sha256 {build_teacher(teacher, attributes, 'sigmoid').digest}"  # type: ignore[union-attr]
            with contextlib.redirect_stdout(io.StringIO()):  # every run says it again
                data.setup("fit")
            known[key] = data
        targets = known[key].targets("train", list(range(len(known[key].train_keys()))))
        labelled = int((targets != UNKNOWN).any(1).sum())
        found[each.name] = (None, None) if each.checkpoint else (labelled, len(targets) - labelled)
        if not each.checkpoint and not _done(each, folder):
            _try(each, options, known[key], trains_teacher=_is_config(teacher))
    return found, whose


def _parser() -> Any:
    """Of all options of a run, by their types, as `fit` has them."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from data.attributes import AttributesDataModule
    from tasks.cli import LINKS
    from tasks.face_attributes.module import FaceAttributesModule

    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FaceAttributesModule, "model", skip=set(LINKS))
    parser.add_lightning_class_args(AttributesDataModule, "data")
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser


def _try(each: Run, options: dict[str, dict[str, Any]], data: Any, *, trains_teacher: bool) -> None:
    """Build the net of a run and its teacher, as its `fit` will. Raises InputError where an option does not hold."""
    from data.loading import input_size
    from tasks.distillation.lessons import check_lessons
    from tasks.face_attributes.module import FaceAttributesModule

    size = input_size(options["data"]["image_size"], options["data"]["resolution_mult"])
    try:
        module = FaceAttributesModule(data.categories, size, **options["model"])
        if each.arm == "distilled" and trains_teacher:  # so there is none yet
            check_lessons(module.hparams, data.hparams["views"])
        else:
            module.prepare_fit(data)
    except InputError as error:
        raise InputError(f"{each.name}: {error}") from error


def _refuse_changes(runs: Sequence[Run], teacher: str, folder: Path) -> None:
    """Write down who teaches, in words. Raises InputError where a run was begun by another, or with other options."""
    of_all = folder / "teacher.yaml"
    begun = [each for each in runs if _begun(folder / each.name)]
    notes = {folder / each.name / "config.yaml": each.options for each in begun}
    if begun:
        notes[of_all] = {"teacher": {"is": teacher}}
    for file, options in notes.items():
        was, wanted = _flat(read_config(file)), _flat(options)
        for field in sorted({*was, *wanted}):
            if was.get(field) != wanted.get(field):
                raise InputError(
                    f"{file} has {field} {was.get(field)}, but {wanted.get(field)} is asked for now, and a table of "
                    "both would compare what does not compare; give another --name, or put it back."
                )
    folder.mkdir(parents=True, exist_ok=True)
    _write_yaml(of_all, {"teacher": {"is": teacher}})


def _flat(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options that decide what a run comes to: {"data.seed": 0, ...}."""
    values = {f"{room}.{name}": value for room, of_room in options.items() for name, value in of_room.items()}
    return {name: value for name, value in values.items() if name not in _OF_NO_MATTER}


def _row(each: Run, folder: Path, pictures: tuple[int | None, int | None]) -> Row | None:
    """What a run came to, None where it is not done."""
    if not _done(each, folder):
        return None
    fit = None if each.checkpoint else folder / each.name / "fit"
    best = fit / "checkpoints" / "best.ckpt" if fit else Path(str(each.checkpoint))
    return read_row(folder / each.name / "test", best, fit, arm=each.arm, pictures=pictures, sweep=each.sweep)


def _is_config(teacher: Any) -> bool:
    return isinstance(teacher, Mapping) or (isinstance(teacher, str) and teacher.endswith((".yaml", ".yml")))


def _write_yaml(file: Path, options: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), "utf-8")


def _begun(folder: Path) -> bool:
    return any((folder / command).is_dir() for command in ("fit", "test")) or bool(_folders(folder / "unfinished"))


def _left(runs: Sequence[Run], folder: Path) -> int:
    return sum(not _done(each, folder) for each in runs)


def _done(each: Run, folder: Path) -> bool:
    return (folder / each.name / "test" / "metrics.json").is_file()


# ----------------------------------------------------------------------------------------------------------- running


def _run_all(runs: Sequence[Run], folder: Path) -> int:
    """Make the runs that are not done; return the exit code of the one that stopped, or 0."""
    for number, each in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {each.name}"
        if _done(each, folder):
            print(f"{label}: done before")
            continue
        print(f"\n{label}", flush=True)
        began = time.monotonic()
        try:
            code = _run_one(each, folder / each.name)
        except InputError as error:
            if not each.checkpoint:
                raise InputError(f"{each.name}: {error}") from error
            print(f"without a test of the teacher itself: {error}")  # it knows other attributes too, say
            continue
        if code:
            return code
        minutes, seconds = divmod(round(time.monotonic() - began), 60)
        print(f"{label}: done in {minutes} min {seconds} s; {count_of(_left(runs, folder), 'run')} left")
    return 0


def _run_one(each: Run, folder: Path) -> int:
    """`fit` and `test`, each into a folder of its time that gets its name once it is whole; return the exit code."""
    from data.attributes import AttributesDataModule
    from tasks.cli import run
    from tasks.face_attributes.module import FaceAttributesModule

    folder.mkdir(parents=True, exist_ok=True)
    _write_yaml(folder / "config.yaml", each.options)
    unfinished = folder / "unfinished"
    for command in ("fit", "test"):
        if (folder / command).is_dir() or (command == "fit" and each.checkpoint):
            continue
        begun = _folders(unfinished)
        args = [command, "--config", str(folder / "config.yaml")]
        if command == "test":
            args += ["--ckpt_path", each.checkpoint or str(folder / "fit" / "checkpoints" / "best.ckpt")]
        elif saved := [file for run in begun if (file := run / "checkpoints" / "last.ckpt").is_file()]:
            args += ["--ckpt_path", str(max(saved, key=lambda file: file.stat().st_mtime))]
        with contextlib.redirect_stdout(_ButPaths(sys.stdout)):
            code = run("face_attributes", FaceAttributesModule, AttributesDataModule, args)
        if code:
            return code
        [made] = _folders(unfinished) - begun
        made.rename(folder / command)
    (unfinished / "face_attributes" / "latest").unlink(missing_ok=True)
    for empty in (unfinished / "face_attributes", unfinished):
        with contextlib.suppress(OSError):  # what was interrupted keeps its metrics.csv
            empty.rmdir()
    return 0


class _ButPaths:
    """Standard output without what `fit` and `test` say last: where they are, which is about to change."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(("pictures: ", "interrupted and saved")) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _folders(root: Path) -> set[Path]:
    """The run folders under `root`, without the link to the latest."""
    return {path for path in (root / "face_attributes").glob("*") if path.is_dir() and not path.is_symlink()}
