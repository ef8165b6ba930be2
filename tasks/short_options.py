"""What a person types: short options for the long ones, other programs' words answered with ours, help on one screen.

All of it before any parser sees the arguments, and without torch, so that help and a slip are answered at once.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backbone.errors import InputError
from tasks.devices import is_first
from tasks.run_folders import checkpoint_at, interrupted_run


class Short(NamedTuple):
    """A short option: the name of its value, the long options that it stands for, and a line of help."""

    value: str
    long: tuple[str, ...]
    help: str


SHORT = {
    "data": Short("DIR", ("data.root",), "your data; default: the built-in sample"),
    "weights": Short("F", ("model.weights",), "weights to start from: imagenet, coco, a file"),
    "epochs": Short("N", ("trainer.max_epochs",), "how often all images are seen (default: 100)"),
    "time": Short("T", ("trainer.max_time",), "stop after 90s, 10m, 2h, 1h30m or 1d; the learning rate ends with it"),
    "batch": Short("N", ("data.batch_size",), "images in a batch, of all devices together"),
    "lr": Short("R", ("model.lr",), "peak learning rate"),
    "size": Short("N", ("data.image_size",), "side of the images in px, or [HEIGHT,WIDTH]"),
    "width": Short("W", ("model.width_mult",), "width of the network: 0.25, 0.5, 0.75, 1, ..."),
    "workers": Short("auto|N", ("data.num_workers",), "processes that load images"),
    "device": Short("D", ("trainer.accelerator",), "auto, cpu, cuda or mps"),
    "precision": Short("P", ("trainer.precision",), "auto (fastest safe one), bf16-mixed, 32-true, ..."),
    "resume": Short("[PATH]", ("ckpt_path",), "go on with a run or .ckpt; alone: the newest interrupted run"),
    "out": Short("DIR", ("trainer.default_root_dir",), "where run folders go (default: runs)"),
    "logger": Short("L", ("trainer.logger",), "tensorboard, wandb or csv, beside metrics.csv"),
    "seed": Short("S", ("seed_everything", "data.seed"), "of weights, order, augmentation and splits (default: 0)"),
}
_SCORING = "data weights batch size width workers device precision out logger seed"
TAKEN = {  # by each command; `predict` has its own parser for them
    "fit": tuple(SHORT),
    "validate": tuple(_SCORING.split()),
    "test": tuple(_SCORING.split()),
    "export": ("data", "weights", "batch", "size", "width", "workers", "seed"),
    "benchmark": ("data", "weights", "batch", "size", "workers", "seed"),
    "check": ("data", "out", "seed"),
    "experiment": ("data", "weights", "batch", "lr", "workers", "device", "precision", "out", "logger", "seed"),
}
_LONG = {("check", "out"): ("runs",), ("experiment", "out"): ("runs",)}  # where a command has another than `fit`
_OWN = {"export": ("out",), "benchmark": ("out",), "experiment": ("name",)}  # of such names, with another meaning


def long_options(command: str, name: str) -> tuple[str, ...]:
    """The long options of a command that a short one stands for."""
    seeds = ("data.seed",) if name == "seed" and command not in ("fit", "validate", "test") else None
    return _LONG.get((command, name)) or seeds or SHORT[name].long


# What other programs call it, with underscores for hyphens, and ours. A test holds that no parser of ours has it.
_NONE_CACHED = "leave it out: images are read as they are needed; --workers N says by how many processes"
_ONE_OF_PREDICT = "leave it out: it is an option of `predict`"
_TO_TRAINING = {
    **dict.fromkeys(("epoch", "n_epochs", "num_epochs", "max_epochs", "train_epochs"), "--epochs N"),
    **dict.fromkeys(("imgsz", "img_size", "img", "image_size", "input_size", "resolution", "crop_size"), "--size N"),
    **dict.fromkeys(("train_crop_size", "val_resize_size", "val_crop_size"), "--size N"),
    **dict.fromkeys(("batch_size", "bs", "b", "train_batch_size"), "--batch N"),
    **dict.fromkeys(("learning_rate", "lr0", "base_lr"), "--lr R"),
    **dict.fromkeys(
        ("model", "arch", "a", "backbone", "net"),
        "--model.trunk NAME for the network, --width W for its width, or --weights F for weights to start from",
    ),
    **dict.fromkeys(("pretrained", "pretrained_weights"), "--weights imagenet, --weights coco or --weights F"),
    **dict.fromkeys(("checkpoint", "initial_checkpoint", "ckpt"), "--weights F to start from it, --resume F to go on"),
    **dict.fromkeys(("data_path", "data_dir", "dataset", "dataset_dir", "root", "train_dir"), "--data DIR"),
    **dict.fromkeys(("project", "save_dir", "output", "output_dir", "results_dir", "log_dir"), "--out DIR"),
    **dict.fromkeys(
        ("name", "exp_name", "run_name"), "--out DIR for where run folders go; each is named by the time of its start"
    ),
    "exist_ok": "leave it out: every run has a folder of its own, and none is written over",
    "patience": "leave it out: the best epoch is kept; a config may name lightning's EarlyStopping as a callback",
    **dict.fromkeys(("optimizer", "opt"), "--model.optimizer sgd, rmsprop or adamw"),
    **dict.fromkeys(("weight_decay", "wd"), "--model.weight_decay"),
    "momentum": "leave it out: sgd and rmsprop have 0.9",
    **dict.fromkeys(("gpus", "gpu", "ngpus", "ngpu"), "--device cuda, and --trainer.devices N for several"),
    "devices": "--trainer.devices N",
    **dict.fromkeys(("amp", "fp16", "half", "bf16", "native_amp"), "--precision auto, bf16-mixed or 32-true"),
    **dict.fromkeys(("cache", "cache_dataset"), _NONE_CACHED),
    **dict.fromkeys(("num_workers", "worker", "j", "nw"), "--workers N"),
    **dict.fromkeys(("accelerator",), "--device D"),
    **dict.fromkeys(("width_mult", "width_multiplier", "alpha"), "--width W"),
    **dict.fromkeys(("warmup_epochs", "warmup"), "--model.warmup_steps N"),
    **dict.fromkeys(("cos_lr", "sched", "lr_scheduler", "lrf"), "leave it out: the rate follows a cosine to 0"),
    "freeze": "--model.trunk_lr_mult 0",
    **dict.fromkeys(("manual_seed", "random_seed"), "--seed S"),
    **dict.fromkeys(("test_only", "evaluate"), "the command `test`"),
    **dict.fromkeys(("num_classes", "nc", "classes"), "leave it out: the classes are the data's"),
    **dict.fromkeys(("model_ema", "model_ema_decay", "ema"), "--model.ema_decay P"),
    **dict.fromkeys(("accumulate", "accum", "grad_accum_steps"), "--trainer.accumulate_grad_batches N"),
    **dict.fromkeys(("clip_grad", "clip_grad_norm"), "--trainer.gradient_clip_val X"),
    **dict.fromkeys(("max_time", "time_limit"), "--time T"),
    **dict.fromkeys(("conf", "conf_thres", "iou", "iou_thres", "top", "source", "save_crops"), _ONE_OF_PREDICT),
}
_TO_PREDICT = {
    **dict.fromkeys(("conf_thres", "conf_threshold", "min_score", "score_thr", "threshold"), "--conf P"),
    **dict.fromkeys(("topk", "top_k"), "--top K"),
    **dict.fromkeys(
        ("imgsz", "img_size", "img", "image_size", "size"),
        "leave it out: images are resized to what the network has seen",
    ),
    **dict.fromkeys(("model", "checkpoint", "ckpt", "pretrained"), "--weights F"),
    **dict.fromkeys(("image", "images", "input", "img_path", "data", "data_path"), "--source FILE-or-FOLDER"),
    **dict.fromkeys(("batch_size", "bs"), "--batch N"),
    **dict.fromkeys(("project", "name", "save_dir", "output", "output_dir"), "--out DIR"),
    "exist_ok": "leave it out: results never go where others are",
    "save_txt": "--format yolo",
    "save_crop": "--save-crops",
    "nosave": "--no-images",
    **dict.fromkeys(("save", "show", "view_img", "save_img"), "leave it out: the pictures are written anyway"),
    **dict.fromkeys(("gpu", "gpus"), "--device cuda"),
}


_TO_EXPERIMENT = {
    **dict.fromkeys(("epochs", "epoch", "time"), "--steps N"),
    **dict.fromkeys(("size", "width", "imgsz", "image_size", "width_mult"), "--students, each of a width and a size"),
    "resume": "leave it out: the same command goes on where it was stopped",
}


def foreign_words(command: str) -> Mapping[str, str]:
    """What other programs call options of this command, and what to use instead."""
    if command == "experiment":
        return {**_TO_TRAINING, **_TO_EXPERIMENT}
    return _TO_PREDICT if command == "predict" else _TO_TRAINING if command in TAKEN else {}


def translated(task: str, command: str, args: Sequence[str]) -> list[str]:
    """The arguments of a command with its long options for short ones, and --help for --help-all.

    Raises InputError for another program's words, for a short option without a value, and where --resume finds no run.
    """
    taken, rest, i = TAKEN.get(command, ()), list[str](), 0
    to_join = ("--data.", "--model.") if command == "benchmark" else ()  # else a value would be one of its files
    while i < len(args):
        word, i = args[i], i + 1
        option = re.fullmatch(r"(-{0,2})([A-Za-z][\w-]*)(?:=(.*))?", word, re.DOTALL)
        name = option[2].replace("-", "_") if option else ""
        if word == "--help-all":
            word = "--help"
        elif option and not (option[1] == "--" and name in _OWN.get(command, ())):
            _refuse(command, name, option)
        if not (option and option[1] == "--" and name in taken):
            rest.append(word)
            if word.startswith("--") and "=" not in word and i < len(args) and not args[i].startswith("-"):  # its value
                rest[-1:] = [f"{word}={args[i]}"] if word.startswith(to_join) else [word, args[i]]
                i += 1
            continue
        value, joined = option[3], option[3] is not None
        if not joined and i < len(args) and not args[i].startswith("--"):
            value, i = args[i], i + 1
        if not value and name != "resume":
            raise InputError(f"--{name} has no value; give --{name} {SHORT[name].value}.")
        for long, meant in _meant(task, command, name, value or "", args):
            rest += [f"--{long}={meant}"] if joined or to_join else [f"--{long}", meant]
    return rest


def _refuse(command: str, name: str, option: re.Match[str]) -> None:
    """Raise InputError for a word that is another program's, or that lacks its dashes."""
    word, value = f"{option[1]}{option[2]}", option[3]
    foreign = foreign_words(command)
    if not option[1] and (value is None or len(name) == 1 or Path(option[0]).exists()):
        return  # no option at all: a file, such as a=1.onnx
    ours = re.match(r"--(\w+)", foreign.get(name, ""))
    if command in TAKEN and ours and ours[1] in SHORT and ours[1] not in TAKEN[command]:
        name = ours[1]  # which is no option of this command either
    if name in foreign and name not in TAKEN.get(command, ()):
        how = foreign[name] if foreign[name].startswith("leave") else f"use {foreign[name]}"
        raise InputError(f"{word} is not an option of `{command}`; {how}.")
    if name in SHORT and command in TAKEN:
        if option[1] != "--":
            raise InputError(
                f"{option[0]}: options begin with two dashes; write --{name} {value or SHORT[name].value}."
            )
        if name not in TAKEN[command]:
            of = [other for other, names in TAKEN.items() if name in names]
            raise InputError(f"{word} is not an option of `{command}`: leave it out; `{of[0]}` has --{name}.")


def _meant(task: str, command: str, name: str, value: str, args: Sequence[str]) -> list[tuple[str, str]]:
    """The long options that a short one with this value stands for, each with its value."""
    if name == "resume":
        # the first process says which run it is
        value = value or (str(interrupted_run(task, _runs_folder(args))) if is_first() else "newest")
    elif name == "time":
        value = as_duration(value)
    elif name == "device" and (number := re.fullmatch(r"(?:cuda:)?([\d,]+)", value)):
        raise InputError(
            f"--device {value}: give auto, cpu, cuda or mps; which GPU says --trainer.devices [{number[1]}]."
        )
    elif name == "weights" and (value.endswith(".ckpt") or (Path(value) / "checkpoints").is_dir()):
        if command != "fit":
            return [("ckpt_path", value)]
        value = str(checkpoint_at(value))
    return [(long, value) for long in long_options(command, name)]


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list, as [1, 2]"}


def wrong_value(message: str) -> str | None:
    """The sentence for jsonargparse's remark that a value is of none of an option's types; None for other remarks."""
    found = re.search(r'Parser key "([\w.]+)": (.*) (?:Given|Got) value: (.*)\.$', message)
    wanted: list[str] = []
    for literals, kind in re.findall(r"Expected an? (?:typing\.Literal\[(.*?)\]|<class '([\w.]+)'>)", message):
        words = re.split(", ", literals.replace("'", "")) if literals else [_KINDS.get(kind, "")]
        wanted += [word for word in words if word and word not in wanted]
    if not found or not wanted:
        return None
    if len(wanted) > 1:
        wanted = [word for word in wanted if word != _KINDS["bool"]]
    name, _, value = found.groups()
    short = next((f"--{short} ({name})" for short, of in SHORT.items() if name in of.long), f"--{name}")
    either = f"{', '.join(wanted[:-1])} or {wanted[-1]}" if len(wanted) > 1 else wanted[0]
    return f"{short} is {value}; it must be {either}."


def _runs_folder(args: Sequence[str]) -> Path:
    """Where the run folders of a command are, by its arguments."""
    found = "runs"
    for word, after in zip(args, [*args[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--out", "--trainer.default_root_dir"):
            found = value or after
    return Path(found)


def as_duration(text: str) -> str:
    """A time such as 90s, 10m, 1h30m or 1d as lightning takes it, DD:HH:MM:SS; one that is so stays. InputError."""
    if re.fullmatch(r"\d{1,5}:\d\d:\d\d:\d\d", text):
        return text if text.startswith("0") else f"0{text}"  # else YAML takes it for a number to the base of 60
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    seconds = (
        sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    )
    if not 0 < seconds < 10**10:
        raise InputError(f"--time is {text!r}; give it as 90s, 10m, 2h, 1h30m or 1d.")
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


# --- help -----------------------------------------------------------------------------------------------------------


class TaskHelp(NamedTuple):
    """What the help of a task's commands says besides what all tasks have in common."""

    data: str = "Read the images under DIR."  # what is in DIR
    own: Mapping[str, str] = {}  # long options of the task, and a line for each
    examples: Sequence[str] = ("fit", "fit --data DIR --weights imagenet --epochs 50", "fit --resume")
    more: Mapping[str, str] = {}  # the whole help of commands that the task alone has


_ABOUT = {
    "fit": "Train a network, keep the best epoch, and score it on the validation images.",
    "validate": "Score a checkpoint on the validation images.",
    "test": "Score a checkpoint on the test images, and write a report with pictures.",
}
_WEIGHTS = "the run folder, .ckpt or weights to score; default: the newest run"
_DATA = "the images; default: those that it was trained on"


def short_help(task: str, command: str, of_task: TaskHelp) -> str | None:
    """The help of a command on one screen; None where its own parser has it."""
    if command in of_task.more:
        return of_task.more[command]
    if command not in _ABOUT:
        return None
    training, prog = command == "fit", f"python -m tasks.{task}"
    scored = {} if training else {"weights": _WEIGHTS, "data": _DATA}
    examples = (
        of_task.examples if training else (command, f"{command} --weights runs/{task}/TIME", f"{command} --data DIR")
    )
    lines = [f"usage: {prog} {command} [options]", "", _ABOUT[command]]
    lines += textwrap.wrap(of_task.data, 110)
    lines += ["", "options:"]
    for name in TAKEN[command]:
        lines.append(_row(f"--{name} {SHORT[name].value}", scored.get(name, SHORT[name].help)))
    lines += [_row("--config F", "a YAML file with any of these and of the long options; see configs/")]
    lines += [_row("-h, --help; --help-all", "this; all options, their types and defaults")]
    if of_task.own and training:
        lines += ["", f"of {task}:", *(_row(f"--{name}", text, 30) for name, text in of_task.own.items())]
    lines += ["", "examples:", *(f"  {prog} {example}" for example in examples)]
    return "\n".join(lines)


def _row(option: str, text: str, width: int = 23) -> str:
    return f"  {option:{width}} {text}"
