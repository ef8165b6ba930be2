"""The options of `fit`, `validate` and `test`, resolved once, before anything is built.

They count in this order: command line, config, checkpoint, default. Only the shape of a checkpoint's own network, its
width for one, is always the checkpoint's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from backbone.errors import InputError
from backbone.weights import find_weights
from data.folders import say
from data.loading import input_size
from tasks.module import TaskModule, rebuilt
from tasks.run_folders import checkpoint_at, in_use, newest_checkpoint
from tasks.runs import as_written, read_checkpoint

CONFIGS = Path(__file__).parents[1] / "configs"
LINKS = ("categories", "input_size")  # what the data tell the model, never the command line or a checkpoint
UNREADABLE = (yaml.YAMLError, UnicodeError)
_load_yaml = get_loader("yaml")
_OF_THE_MACHINE = ("num_workers", "shard_cache_gb")  # what a checkpoint says of another machine


_VERBATIM = (  # paths that no word of YAML stands for
    *("data.root", "data.unlabelled", "data.pairs", "data.pairs_root", "data.shards"),
    *("data.without_near_duplicates_of", "model.cache", "trainer.default_root_dir", "ckpt_path"),
)


def verbatim(args: Sequence[str]) -> list[str]:
    """The arguments with `./` before a path that YAML would take for something else: null, ~, #x, 1e5."""
    given, path = [], False
    for word in args:
        name, equals, value = word.partition("=")
        if name.removeprefix("--") in _VERBATIM and equals:
            word = f"{name}={_as_path(value)}"
        given.append(_as_path(word) if path else word)
        path = word.removeprefix("--") in _VERBATIM and word.startswith("--")
    return given


def load_config(text: str) -> Any:
    """A config as jsonargparse loads it, but its paths as strings; also of names that are not UTF-8.

    Raises InputError where it has no end, or names a function to be called.
    """
    try:
        return _loaded(text)
    except RecursionError:
        raise InputError("a config is nested too deeply, or is within itself; write it out.") from None


def _loaded(text: str) -> Any:
    try:
        plain = yaml.safe_load(text)
    except UNREADABLE:
        return _load_yaml(text)  # which says what is wrong with it
    try:
        fields = _load_yaml(text)
    except UNREADABLE:  # libyaml takes no half of a surrogate pair
        fields = plain
    if isinstance(plain, dict | list):
        _refuse_functions(plain)
    for name in _VERBATIM if isinstance(fields, dict) else ():
        group, _, key = name.rpartition(".")
        there, given = (of.get(group) if group else of for of in (fields, plain))
        if isinstance(there, dict) and isinstance(given.get(key), str):
            there[key] = _as_path(given[key])
    return fields


def _refuse_functions(fields: Any) -> None:
    """Raise InputError where a class_path is of no class: a function would be called, with arguments of the config."""
    for name, value in fields.items() if isinstance(fields, dict) else enumerate(fields):
        if str(name).endswith("class_path") and not str(value).rpartition(".")[2][:1].isupper():
            raise InputError(f"class_path {value} is of no class; a config may name classes alone.")
        if isinstance(value, dict | list):
            _refuse_functions(value)


def _as_path(text: str) -> str:
    try:
        return f"./{text}" if isinstance(_load_yaml(text), float | None) else text
    except UNREADABLE:
        return text


class Resolved(NamedTuple):
    """The settings of a command as a parser takes them, and the checkpoint that they are for."""

    settings: dict[str, Any]
    checkpoint: dict[str, Any] | None
    checkpoint_path: Path | None


def has_source(data: Mapping[str, Any]) -> bool:
    """Whether options of the data name some, and not the built-in sample."""
    return bool(data.get("root") or data.get("shards"))


def resolve(
    module_class: type[TaskModule], args: Sequence[str], parse: Callable[[list[str]], dict[str, Any]]
) -> Resolved:
    """The settings of the command `args`; `parse` gives what arguments and their configs say, without defaults.

    A `fit` without a config, a checkpoint and a data root is the built-in sample; one with a checkpoint goes on with
    the config of its run; the others take the newest run's checkpoint, unless the weights are a whole model. Weights
    given by name are fetched here and nowhere else. Raises InputError where a checkpoint or weights cannot be used.
    """
    task, command = module_class.task, args[0]
    given = parse(list(args))
    path, checkpoint = given.get("ckpt_path"), None
    if path is not None:
        path, checkpoint = _read(path, task, command)
    named = "teacher" in (given.get("model") or {})
    typed = given.get("trainer") or {}
    if "config" not in given and command == "fit":
        run_config = Path(path).resolve().parent.parent / "config.yaml" if path else CONFIGS / task / "sample.yaml"
        if run_config.is_file() and (path or not has_source(given.get("data") or {})):
            given = parse([command, "--config", str(run_config), *args[1:]])
    trainer = dict(given.get("trainer") or {})
    if path and typed.get("max_epochs") is not None and "max_time" not in typed:
        given["trainer"] = trainer = {**trainer, "max_time": None}  # whoever goes on to more epochs wants them all
    if command == "fit" and trainer.get("max_time") and trainer.get("max_epochs") is None:
        given["trainer"] = trainer = {**trainer, "max_epochs": -1}  # the time alone ends it
    model, data = dict(given.get("model") or {}), dict(given.get("data") or {})
    if path is not None and not named:  # what the run's own config says came along with a checkpoint of whoever's
        model.pop("teacher", None)
    runs = Path(trainer.get("default_root_dir") or "runs")
    if path is None and model.get("weights"):  # a checkpoint brings its own
        model["weights"] = _fetched(model["weights"], model.get("width_mult"))
    if path is None and command != "fit" and not module_class.is_whole(model):
        path = newest_checkpoint(task, runs)
        print(f"checkpoint: {path}")
        checkpoint = read_checkpoint(path, task)
    if path is not None and command != "fit" and model.get("weights"):
        say(f"note: --weights {model['weights']} is not used, as a checkpoint brings its own weights")
    if path is not None and checkpoint is not None:
        path = Path(path).resolve()  # not `latest`, which soon is another run
        with as_written(path):
            model = _with_checkpoint(model, checkpoint, module_class.shape_options)
            if not named:
                _leave_out_teacher(command, model, path)
            trained_on = _saved(checkpoint, "datamodule_hyper_parameters", _OF_THE_MACHINE)
            if has_source(data) and not (data.get("root") and data.get("shards")):  # in the place of either
                trained_on |= {"root": None, "shards": None}
            data = {**trained_on, **_given(data)}
            ours, theirs = (input_size(of["image_size"], of["resolution_mult"]) for of in (data, trained_on))
        if ours != theirs:
            say(f"note: images are {_px(ours)}, and the checkpoint was trained at {_px(theirs)} (--data.image_size)")
    module_class.resolve(command, model, data, runs)
    settings = {name: value for name, value in given.items() if name != "config"}
    return Resolved({**settings, "model": model, "data": data, "ckpt_path": path and str(path)}, checkpoint, path)


def _read(path: str | Path, task: str, command: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that a path means to a command, and its contents; InputError where it cannot be used.

    A run goes on from its last one, or from the one before where that is damaged; it is scored by its best.
    """
    if command != "fit":
        path = checkpoint_at(path)
        return path, read_checkpoint(path, task)
    run = Path(path) if Path(path).is_dir() else Path(path).resolve().parent.parent
    with in_use(run) as free:
        if not free:
            raise InputError(f"{path} is being trained by another process; wait for its end, or stop it.")
    last, previous = checkpoint_at(path, "last.ckpt"), checkpoint_at(path, "previous.ckpt")
    try:
        found, checkpoint = last, read_checkpoint(last, task)
    except InputError as error:
        if previous == last or not previous.is_file():
            raise
        say(f"note: {error} Going on from {previous}.")
        found, checkpoint = previous, read_checkpoint(previous, task)
    say(f"resuming {found} (step {checkpoint.get('global_step')})")
    return found, checkpoint


def _fetched(word: str, width_mult: float | None) -> str:
    """A path as it is; of any other word the name of the weights that it means, which then are in the cache."""
    found = find_weights(word, width_mult)
    if found.file == Path(word).expanduser():
        return word
    say(f"weights: {found.name}, {found.file}")
    return found.name


def read_config(path: str | Path) -> dict[str, Any]:
    """The fields of a YAML file. Raises InputError where it is none, or has none."""
    try:
        fields = yaml.safe_load(Path(path).read_text("utf-8"))
        if fields is None:
            raise InputError(f"{path} is empty; write names and values into it, or leave it out.")
        return dict(fields)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give the path of a YAML file.") from error
    except InputError:  # it is a ValueError too
        raise
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML of names and values ({' '.join(str(error).split())}).") from error


def _with_checkpoint(model: dict[str, Any], checkpoint: Mapping[str, Any], shape: Sequence[str]) -> dict[str, Any]:
    """The model's options over those of a checkpoint, whose shape is its own; a line says where they differ."""
    saved = _saved(checkpoint, "hyper_parameters", LINKS)
    own = {**{name: saved[name] for name in shape if name in saved}, **rebuilt(checkpoint)}
    for name in shape:
        if model.get(name) not in (None, own[name]) and name != "numerics":
            say(f"note: --model.{name} {model[name]} is not used, as the checkpoint's own is {own[name]}")
    return {**saved, **_given(model), **own}


def _leave_out_teacher(command: str, model: dict[str, Any], path: Path) -> None:
    """Take out the teacher that a checkpoint alone names, as it may be code. Raises InputError where it is needed."""
    teacher = model.pop("teacher", None)
    if teacher is None:
        return
    word, config = teacher if isinstance(teacher, str) else "...", path.parent.parent / "config.yaml"
    how = f"--model.teacher {word}{f', or --config {config},' if config.is_file() else ''} names it"
    if command == "fit" and not model.get("cache_only"):
        raise InputError(
            f"{path} learned from the teacher {teacher}, which may be code: a teacher is loaded only where the command "
            f"or a config that it gives names it; {how}, and --model.teacher null goes on without."
        )
    say(f"note: the teacher {teacher}, which the checkpoint names, is not loaded; {how}")


def _saved(checkpoint: Mapping[str, Any], key: str, without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in checkpoint[key].items() if name[0] != "_" and name not in without}


def _px(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} px"


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a config leaves to be found out."""
    return {name: value for name, value in options.items() if value is not None}
