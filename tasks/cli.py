"""The only LightningCLI: `fit`, `validate` and `test` of every task, each in one new run folder."""

import contextlib
import inspect
import logging
import math
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
from jsonargparse import SUPPRESS, Namespace, set_loader, set_parsing_settings
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from backbone.accelerator import best_precision, retain_freed_memory
from backbone.errors import InputError, nearest
from backbone.files import copy_whole, write_whole
from backbone.names import escaped, printed, shown
from backbone.weights import find_weights
from data.bad_images import said_of_cut_short
from data.folders import count_of, say
from tasks.devices import (
    is_first,
    job_step,
    queue_again,
    queued_again,
    queued_again_when_told,
    use_started_devices,
)
from tasks.failures import explained
from tasks.loggers import ValidationImages, logger_of, said_of_loggers
from tasks.module import TaskModule
from tasks.next_steps import run_or_file, say_next
from tasks.optim import time_limits, time_was_over
from tasks.options import LINKS, UNREADABLE, load_config, read_config, resolve, verbatim
from tasks.processes import EndTogether, SameData, end_with_parent
from tasks.progress import Pace, progress_bar
from tasks.reporting import write_curves
from tasks.run_folders import JOB, RESUMED, in_use, new_run, point_latest, resumed_path, run_of_job
from tasks.runs import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    StopBetweenSteps,
    as_written,
    keep_rows,
)
from tasks.short_options import SHORT, wrong_value


def run(
    module_class: type[TaskModule],
    datamodule_class: type[LightningDataModule],
    args: Sequence[str],
    runs: float | None = None,
) -> int:
    """Run `fit`, `validate` or `test` of a task as given in `args`; return the exit code.

    Where it is one run of several, `runs` is how many times as long as this one they take from here on; what could come
    next is not said then. InputError where what the user gave cannot be used, before anything is written.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # their banners
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    try:
        with queued_again_when_told() if args[0] == "fit" else contextlib.nullcontext():
            _Cli(module_class, datamodule_class, prepared(args), runs)
    except SystemExit as stop:  # --help, a mistake in the arguments, Ctrl-C
        return int(stop.code or 0)
    return 0


# What a config may name. The rest of lightning and torch has functions, such as torch.export.load, that run what is in
# a file.
_IMPORTED = tuple(
    f"lightning.pytorch.{name}"
    for name in ("callbacks", "loggers", "profilers", "strategies", "plugins", "accelerators")
)
_IMPORTED += ("lightning.fabric.plugins",)


def prepared(args: Sequence[str]) -> list[str]:
    """The arguments as a parser may take them, with paths as they are given; configs import what is allowed alone.

    Each `--allow_import MODULE`, which no config may say for itself, is taken out. Raises InputError.
    """
    rest, allowed, words = [], [], iter(verbatim(args))
    for word in words:
        name, _, value = word.partition("=")
        if name != "--allow_import":
            rest.append(word)
            continue
        module = value or next(words, "")
        if not all(part.isidentifier() for part in module.split(".")) or module.startswith("jsonargparse"):
            raise InputError(f"--allow_import {module!r} is no module; give its name, as my_package.callbacks.")
        allowed.append(module)
    set_loader("yaml", load_config, UNREADABLE)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*_IMPORTED, *allowed])
    return rest


class Parser(LightningArgumentParser):
    """Options whose mistakes are one sentence, with the nearest name there is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.allow_abbrev = False  # a part of a name may be another option's tomorrow

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise InputError: what is wrong in one line, with the nearest name there is."""
        message, names = " ".join(message.split()).rstrip(".") + ".", self._names()
        if refused := re.search(r"Importing '([\w.]+)' is not allowed", message):
            module = refused[1].rpartition(".")[0] or refused[1]
            raise InputError(
                f"{refused[1]} is not imported: a config may name what is in {', '.join(_IMPORTED)}; what it names "
                f"besides is run as code, and needs --allow_import {module} on the command line."
            )
        if wrong := wrong_value(message):
            raise InputError(wrong)
        hint = " The command's --help lists what there is."
        for dashes, word in re.findall(r"""(--|option ['"]|key ['"])([\w.-]+\w)""", message):
            near = nearest(word, names | set(SHORT) if dashes == "--" else names)
            if near and near != word:
                hint = f" Did you mean {dashes if dashes == '--' else ''}{near}?"
                break
        raise InputError(f"{message}{hint}")

    def _names(self) -> set[str]:
        parsers = [self, *(getattr(self._subcommands_action, "_name_parser_map", {}) or {}).values()]
        names = {action.dest for parser in parsers for action in parser._actions if action.dest}
        return names | {name.partition(".")[0] for name in names}


def link_data(parser: LightningArgumentParser, module_class: type[TaskModule]) -> None:
    """Let the data say those options of the model that only they can."""
    for name in LINKS:
        if name in inspect.signature(module_class).parameters:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


def check_classes(checkpoint: Mapping[str, Any] | None, data: Any) -> None:
    """Raise InputError where the data have other classes than a checkpoint was trained for."""
    ours, theirs = data.categories, (checkpoint or {}).get("hyper_parameters", {}).get("categories")
    if theirs is not None and ours != theirs:
        raise InputError(
            f"the checkpoint was trained for {_classes(theirs, ours)}, but the data under {data.source} have "
            f"{_classes(ours, theirs)}; give the data it was trained for, or start from its trunk alone with "
            "--weights."
        )


class ValidateLastEpoch(Callback):
    """Validate after the last epoch, whatever `check_val_every_n_epoch`: the rate ends there, and so does the best."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for a validation at the end of the epoch that begins."""
        if trainer.max_epochs is not None and trainer.current_epoch == trainer.max_epochs - 1:
            trainer.check_val_every_n_epoch = 1

    on_train_start = on_train_epoch_start  # which a run that is resumed within its last epoch does not come to


class TaskTrainer(Trainer):
    """Lightning's trainer, with two options that a word says.

    Args:
        logger: tensorboard or wandb, beside metrics.csv, which is always written; csv is that alone; or classes.
        precision: auto is the fastest safe one of the device; config.yaml says which that was.

    """

    def __init__(
        self,
        *args: Any,
        logger: Literal["tensorboard", "wandb", "csv"] | Logger | Iterable[Logger] | bool | None = None,
        precision: Literal["auto"] | _PRECISION_INPUT | None = "auto",
        **kwargs: Any,
    ) -> None:
        words = None if precision == "auto" else precision
        super().__init__(*args, logger=logger, precision=words, **kwargs)  # type: ignore[arg-type]  # made loggers


class _SaveConfig(SaveConfigCallback):
    """The run's config.yaml, which ends with what the weights were that it names, and where it went on from."""

    resumed_from: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # on every rank: it is a broadcast
        if self.already_saved or folder is None:
            return
        self.already_saved = True
        if trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            provenance = cast(TaskModule, pl_module).trunk.settings.get("provenance")
            words = [f"{name} {value}" for name, value in (provenance or {}).items() if value]
            text += f"# weights: {', '.join(words)}\n" if words else ""
            text += f"{RESUMED}{self.resumed_from}\n" if self.resumed_from else ""
            text += f"{JOB}{job_step()}\n" if job_step() else ""
            # Not in place of each auto above: another machine, where the run is resumed, has others.
            text += f"# ran on: {_machine(trainer, cast(Any, trainer).datamodule)}\n"
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_whole(Path(folder) / self.config_filename, text)


class _Cli(LightningCLI):
    model: TaskModule

    def __init__(
        self,
        module_class: type[TaskModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
        runs: float | None,
    ) -> None:
        self.task, self._runs = module_class.task, runs
        self._module_class = module_class
        self._arguments = list(args)
        with contextlib.ExitStack() as self._run:  # which removes the run folder where it has come to nothing
            self.run_dir, self.checkpoint_path = Path(), None
            self._together = self._run.enter_context(EndTogether(self._kept))
            super().__init__(
                module_class,
                datamodule_class,
                save_config_callback=_SaveConfig,
                trainer_class=TaskTrainer,
                parser_class=Parser,
                parser_kwargs={"prog": f"python -m tasks.{self.task}"},
                seed_everything_default=0,
                auto_configure_optimizers=False,
                # Its own precedence lets a checkpoint override the command line; ours is in options.py.
                load_from_checkpoint_support=False,
                trainer_defaults={
                    "max_epochs": 100,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                    "gradient_clip_val": 10.0,
                    # the data modules shard by themselves, without padding in evaluation
                    "use_distributed_sampler": False,
                    "enable_model_summary": False,
                },
                args=self._arguments,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning asks it of the object as well
        """The one that is asked for: a parser takes 0.1 s to make."""
        loaders = {"train_dataloaders", "val_dataloaders", "dataloaders"}
        return {self._arguments[0]: {"model", "datamodule", "weights_only", "verbose"} | loaders}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Put what is ours first in --help, before the hundred options of the trainer."""
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        help = "a module that configs may name besides lightning's callbacks, loggers and the like; on the command line"
        parser.add_argument("--allow_import", metavar="MODULE", default=SUPPRESS, help=help)
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        link_data(parser, self._module_class)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for name, after in zip(args, [*args[1:], ""], strict=True):
            if name == "--config" or name.startswith("--config="):
                fields = read_config(file := name.partition("=")[2] or after)
                if "allow_import" in fields:
                    raise InputError(f"{file}: allow_import is for the command line; take it out of the config.")
                for group in ("data", "model", "trainer"):
                    if not isinstance(fields.get(group) or {}, dict):
                        raise InputError(f"{file}: {group} is {fields[group]!r}; give it names and values.")
                try:
                    parser.parse_args([args[0], "--config", file], defaults=False)
                except InputError as error:
                    raise InputError(f"{file}: {error}") from None
        parser.parse_args(args)  # --help and --print_config end here, and so does a mistake

        def parse(args: list[str]) -> dict[str, Any]:
            given = parser.parse_args(args, defaults=False)
            return given[given.subcommand].as_dict()

        command = self._arguments[0]

        def resolved() -> Any:
            args, run = self._arguments, None
            if command == "fit" and queued_again():
                runs = (parse(args).get("trainer") or {}).get("default_root_dir") or "runs"
                run = run_of_job(job_step() or "", self.task, Path(runs))
            if run:
                say(f"the job was queued again: going on with its own run {run}")
            return run, resolve(self._module_class, [*args, *(["--ckpt_path", str(run)] if run else [])], parse)

        # Of processes on several machines the first alone, as its disk may be another than theirs.
        self._own_run, (settings, self.checkpoint, self.checkpoint_path) = self._together.from_first(resolved)
        if not is_first() and self.checkpoint_path is None and settings["model"].get("weights"):  # needed here too
            find_weights(settings["model"]["weights"], settings["model"].get("width_mult"))
        if command == "fit":
            settings["ckpt_path"] = None  # config.yaml says what is trained, from the start or resumed
        self.config = parser.parse_object({"subcommand": command, command: settings})
        self._check(command, self.config[command])

    def _check(self, command: str, given: Namespace) -> None:
        """Raise InputError for options that the trainer would refuse later, and in other words."""
        trainer, seed = given.trainer, given.seed_everything
        if trainer.max_epochs == -1 and trainer.max_steps == -1 and not trainer.max_time:
            raise InputError(
                "--trainer.max_epochs -1 has no end for the learning rate to fall to; give --epochs or --time."
            )
        for name in ("max_epochs", "max_steps", "accumulate_grad_batches"):
            if trainer[name] == 0:
                raise InputError(f"--trainer.{name} is 0; it must be 1 or more.")
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise InputError(f"--seed is {seed}; it must be from 0 to {2**32 - 1}.")
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        there = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}
        if not there.get(trainer.accelerator, True):
            raise InputError(
                f"--device {trainer.accelerator}: torch finds no such device here; auto takes what there is."
            )
        if self.checkpoint and command == "fit" and trainer.max_epochs is not None:
            with as_written(self.checkpoint_path):
                done: int = self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            if 0 < trainer.max_epochs < done:
                had = count_of(done, "epoch")
                raise InputError(f"--epochs {trainer.max_epochs}: {self.checkpoint_path} has had {had}; give more.")

    def _parse_ckpt_path(self) -> None:
        """Keep Lightning from letting the checkpoint override the command line."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config: Namespace = self._get(self.config_init, "trainer")
        root = Path(config.get("default_root_dir") or "runs")
        config["default_root_dir"] = str(root)
        self.writes_nothing = bool(config.fast_dev_run)
        self.run_dir = root / self.task / "none"  # in a process that writes nothing
        if not (getattr(rank_zero_only, "rank", 0) or self.writes_nothing):
            self.run_dir = self._own_run or self._run.enter_context(new_run(self.task, root, "--out"))
            self._run.enter_context(in_use(self.run_dir))
            self._together.run = self.run_dir
        head = self.model.head
        self.best = BestCheckpoint(self.run_dir / "checkpoints", f"val/{head.monitor}", head.mode, self.checkpoint_path)
        self.stop = StopBetweenSteps()
        self.last = LastCheckpoint(self.run_dir / "checkpoints", self.stop)
        callbacks = config.get("callbacks") or []
        config["callbacks"] = [self._together, SameData(), *(callbacks if isinstance(callbacks, list) else [callbacks])]
        config["callbacks"] += [self.best, self.last, self.stop, ValidateLastEpoch()]
        if config.get("enable_progress_bar") is not False:
            pace = Pace(self._runs or 1.0)
            config["callbacks"] += [pace, progress_bar(self.best.monitor or "", pace)]
        if (given := config.get("logger")) is not False:  # a logger of the user's comes beside ours
            if isinstance(given, str):
                given = logger_of(given, self.run_dir)
            given = [] if given in (None, True) else given if isinstance(given, list) else [given]
            config["logger"] = [CSVLogger(root, name=self.task, version=self.run_dir.name), *given]
            if self._own_run and self.checkpoint and self.run_dir == self._own_run:
                with as_written(self.checkpoint_path):  # the step as it is logged, which a resumption puts up by one
                    logged = self.checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
                keep_rows(config["logger"][0], logged)
            config["callbacks"].append(ValidationImages())
        config["plugins"] = [*(config.get("plugins") or []), AtomicCheckpointIO()]
        if job_step() and not any(isinstance(each, ClusterEnvironment) for each in config["plugins"]):
            config["plugins"].append(SLURMEnvironment(auto_requeue=False))  # its own would save within a step
        accelerator = config.accelerator
        if accelerator in ("auto", "gpu"):
            mps = torch.backends.mps.is_available()
            accelerator = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if accelerator == "cpu":
            retain_freed_memory()
        if config.get("precision") in (None, "auto") or (config.precision == "16-mixed" and accelerator == "cpu"):
            config["precision"] = best_precision(accelerator)
        if accelerator == "cuda" and config.get("benchmark") is None and not config.get("deterministic"):
            config["benchmark"] = True  # all batches have one size, for which cuDNN then finds the fastest algorithms
        self.config[self.subcommand]["trainer"]["precision"] = config["precision"]  # as it decides the figures
        use_started_devices(config)
        try:
            trainer = super().instantiate_trainer(**kwargs)
            # Lightning's own handler of SIGTERM calls a collective operation, in whatever else is going on. Ours is in
            # runs.py.
            subprocess_script._launch_process_observer = self._together.observe  # type: ignore[assignment]
            end_with_parent()
            trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
            return trainer
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:  # a GPU that is not there
            raise InputError(f"the --trainer options are invalid: {' '.join(str(error).split())}") from error

    def after_instantiate_classes(self) -> None:
        check_classes(self.checkpoint, self.datamodule)
        if self.checkpoint:  # early, as it may contradict the options; when it is loaded it is asked again
            with as_written(self.checkpoint_path):
                self.model.on_load_checkpoint(self.checkpoint)
        self.datamodule.setup(self.subcommand)  # finds what is wrong with the data before anything is written
        if self.subcommand == "fit":
            for each in self.trainer.callbacks:  # type: ignore[attr-defined]  # Trainer does not declare it
                if isinstance(each, _SaveConfig):
                    each.resumed_from = resumed_path(self._own_run) if self._own_run else self.checkpoint_path
            root = self.datamodule.hparams["root"]
            if root is not None and self.datamodule.records("train").layout:
                say(f"to see the labels as they are read: python -m tasks.{self.task} check --data {root}")
            self.model.prepare(self.datamodule)
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[str(self.subcommand)]
        counts = [f"{len(self.datamodule.records(split)):,} {_SPLITS[split]}" for split in splits]
        batch = self.datamodule.hparams["batch_size"]
        say(f"{_machine(self.trainer, self.datamodule)}, batch {batch}, {' and '.join(counts)} images")

    def fit(self, model: TaskModule, **kwargs: Any) -> None:
        if self.checkpoint is None and model.hparams["weights"] is None and self.datamodule.source:
            say("starting from random weights; ImageNet's, by --weights imagenet, need far fewer images")
        path = self.checkpoint_path and str(self.checkpoint_path)
        self._stop_if_finished()
        self._guarded(self.trainer.fit, model, **{**kwargs, "ckpt_path": path})
        if not self.writes_nothing:
            if self.trainer.is_global_zero:
                write_curves(self.run_dir, self.best.monitor or "")
            if self.checkpoint and self.trainer.global_step == self.checkpoint["global_step"]:
                self._end_again(model, self.checkpoint, **{**kwargs, "ckpt_path": path})
            best = self.best.best_model_path
            if not best:  # stopped by max_steps or max_time before any validation: the last weights are the best
                self.trainer.save_checkpoint(best := str(self.run_dir / "checkpoints" / "best.ckpt"))
            self._guarded(self.trainer.validate, model, verbose=False, **{**kwargs, "ckpt_path": best})
        self._finish()

    def _stop_if_finished(self) -> None:
        """End here, with no new run, where a checkpoint has had all its epochs or steps and its run its validation."""
        trainer, checkpoint = self.trainer, self.checkpoint
        if not checkpoint or not self.checkpoint_path or trainer.world_size > 1 or self.writes_nothing:
            return
        with as_written(self.checkpoint_path):
            epochs: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            over = time_was_over(trainer, checkpoint)
        steps: int = checkpoint["global_step"]
        run = self.checkpoint_path.parents[1]
        all_done = over or epochs >= (trainer.max_epochs or 0) >= 0 or 0 <= trainer.max_steps <= steps
        if all_done and (run / "metrics.json").is_file():
            done = f"{count_of(epochs, 'epoch')}, {count_of(steps, 'step')}"
            how = "nothing is left to do; give a larger --epochs or --time to go on"
            print(printed(f"{self.checkpoint_path} is trained to its end ({done}): {how}"))
            print(printed(f"run: {run}"))
            raise SystemExit(0)

    def _end_again(self, model: TaskModule, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Of a run that was stopped after its last step: its end, and the validation that it may not have come to."""
        folder = self.run_dir / "checkpoints"
        if self.trainer.is_global_zero:
            copy_whole(Path(str(self.checkpoint_path)), folder / "last.ckpt")
        self._guarded(self.trainer.validate, model, verbose=False, **kwargs)
        value = self.trainer.callback_metrics.get(f"val/{model.head.monitor}")
        if value is not None and self.best.is_better(value):
            model.on_save_checkpoint(checkpoint)  # what was chosen in this validation
            self.best.best_model_path = str(folder / "best.ckpt")
            if self.trainer.is_global_zero:
                AtomicCheckpointIO().save_checkpoint(checkpoint, self.best.best_model_path)

    def validate(self, model: TaskModule, **kwargs: Any) -> None:
        self._guarded(self.trainer.validate, model, verbose=False, **kwargs)
        self._finish()

    def test(self, model: TaskModule, **kwargs: Any) -> None:
        self._guarded(self.trainer.test, model, verbose=False, **kwargs)
        self._finish()

    def _guarded(self, function: Any, model: TaskModule, **kwargs: Any) -> None:
        """Call a method of the trainer; turn a signal, and a checkpoint that does not fit, into plain words."""
        try:
            with self.stop:
                function(model, weights_only=True, **kwargs)
                if self.stop.signal:  # one that came too late to be heard otherwise
                    raise KeyboardInterrupt
        except (SystemExit, KeyboardInterrupt):
            last = self.run_dir / "checkpoints" / "last.ckpt"
            again = self.subcommand == "fit" and job_step() and self.stop.signal == signal.SIGUSR1
            if self.trainer.is_global_zero and last.is_file() and self.subcommand == "fit":
                saved = "saved" if self.last.saved_at_the_end else "the last whole checkpoint is kept"
                with contextlib.suppress(InputError):  # of a full disk
                    write_curves(self.run_dir, self.best.monitor or "")
                print(f"\ninterrupted, {saved}")
                if self._runs is None and not again:
                    say_next([self.task, "fit", "--resume", self.run_dir, *self._teacher()])
            elif self.trainer.is_global_zero:
                print("\ninterrupted")
            if self.trainer.is_global_zero and again:  # also before the first checkpoint
                say(queue_again())
            raise SystemExit(128 + (self.stop.signal or signal.SIGINT)) from None  # as a shell reports it
        except Exception as error:
            if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
                reason = str(error).split("\n")[1].strip()
                raise InputError(
                    f"--ckpt_path {kwargs['ckpt_path']} does not fit the model ({reason}); leave out the "
                    "--model options that change its shape."
                ) from None
            if sentence := explained(error, f"a file of {self.run_dir}"):
                raise InputError(f"{sentence}{self._kept()}") from error
            raise
        finally:
            if self.trainer.is_global_zero and self.run_dir.is_dir():
                if sys.exc_info()[0] and {path.name for path in self.run_dir.iterdir()} <= _BEGUN:
                    for path in self.run_dir.iterdir():  # it failed before its first step or figure
                        path.unlink()
                if listed := self.datamodule.bad_images.listed:
                    rows = [f"{escaped(name)}\t{escaped(reason)}\n" for name, reason in listed]
                    write_whole(self.run_dir / "bad_images.txt", "".join(rows))
                if (self.run_dir / "checkpoints").is_dir() and any((self.run_dir / "checkpoints").iterdir()):
                    point_latest(self.run_dir)  # the newest that trained: of a test or a prediction nothing goes on

    def _kept(self) -> str:
        """What to add for the user where a run failed that had been saved before."""
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if not last.is_file() and self.subcommand == "fit" and self.checkpoint_path:
            last = self.checkpoint_path  # it went on from there, and came to no other
        return f" The last checkpoint is kept: {last}." if last.is_file() else ""

    def _finish(self) -> None:
        if not self.trainer.is_global_zero:
            return
        figures = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        for name, meaning in self.model.head.headline.items():
            for split in ("val", "test"):
                value = figures.get(f"{split}/{name}")
                if value is not None and math.isnan(value):
                    print(f"{meaning} not measured: the {_SPLITS[split]} images have {self.model.head.unmeasured}")
                elif value is not None:
                    print(f"{meaning} {value:.3f}  ({split}/{name})")
        if self.datamodule.bad_images.reasons:
            left_out = count_of(len(self.datamodule.bad_images.reasons), "image")
            print(f"{left_out} left out: {self.run_dir / 'bad_images.txt'}")
        if count := len(self.datamodule.bad_images.cut_short):
            print(f"{said_of_cut_short(count)}: {self.run_dir / 'bad_images.txt'}")
        if self.run_dir.is_dir():
            if (self.run_dir / "pictures").is_dir():
                print(f"pictures: {self.run_dir / 'pictures'}")
            for line in said_of_loggers(self.trainer.loggers):
                print(printed(line))
            if self._runs is None:
                say_next(*self._next())
            print(f"run: {self.run_dir}")

    def _teacher(self) -> list[str | Path]:
        """How a resumed fit names its teacher, which a checkpoint may not do."""
        return [] if self.model.hparams.get("teacher") is None else ["--config", self.run_dir / "config.yaml"]

    def _next(self) -> list[list[str | Path]]:
        """What can be done with this run, or with the checkpoint that it scored."""
        if self.subcommand == "fit":
            source: str | Path = self.run_dir
        elif self.checkpoint_path:
            source = run_or_file(self.checkpoint_path)
        else:
            source = str(self.model.hparams["weights"])
        of, trainer = ("--weights", source), self.trainer
        commands: list[list[str | Path]] = [["test", *of]] if self.subcommand != "test" else []
        commands.append(["predict", *of, "--source", "photo.jpg"])
        if self.subcommand == "fit":
            length: list[str | Path] = []  # twice what there was
            if trainer.max_steps != -1:
                length += ["--trainer.max_steps", str(2 * trainer.max_steps)]
            elif trainer.max_epochs not in (None, -1):
                length += ["--epochs", str(2 * trainer.max_epochs)]
            for timer in time_limits(trainer):
                length += ["--time", f"{round(2 * (timer.time_elapsed() + (timer.time_remaining() or 0.0)))}s"]
            commands.append(["fit", "--resume", source, *self._teacher(), *length])
        data = [] if self.subcommand == "fit" or self.checkpoint_path else ["--data", self.datamodule.hparams["root"]]
        commands.append(["export", *of, *data])  # others' weights know no images to be scored on
        return [[self.task, *words] for words in commands]


def _machine(trainer: Trainer, data: Any) -> str:
    """Device, precision and loading processes of a run."""
    device, count = trainer.strategy.root_device, trainer.world_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else count_of(torch.get_num_threads(), "thread")
    devices = f"device {device.type} ({name})" if count == 1 else f"{count} devices {device.type} ({name} each)"
    return f"{devices}, precision {trainer.precision}, {count_of(data.num_workers, 'loading process')}"


_SPLITS = {"train": "training", "val": "validation", "test": "test"}  # in words
_BEGUN = {"config.yaml"}  # of a run that has come to no step and no figure

# Lightning's remarks to programmers; each is on purpose here.
_NOT_FOR_USERS = (
    ".*does not have many workers.*",  # --data.num_workers auto takes what there is
    ".*This DataLoader will create .* worker processes.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # the validation after a fit
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*The number of training batches .* is smaller than the logging interval.*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # the figures are those of all processes already
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*The dirpath has changed from .*",  # a resumed run has a folder of its own
    ".*your dataloader is not resumable.*",  # it is: data/loading.py starts where the checkpoint stands
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    ".*Found .* module\\(s\\) in eval mode at the start of training.*",  # frozen norms, a trunk that waits for its head
)


def _classes(categories: dict[int, str], others: dict[int, str]) -> str:
    """Their number, and first those that the others have not under the same id."""
    different = {number: name for number, name in categories.items() if others.get(number) != name} or categories
    names = [f"{shown(name)} (id {number})" for number, name in different.items()]
    more = ", ..." if len(categories) > min(8, len(names)) else ""
    return f"{count_of(len(categories), 'class')}: {', '.join(names[:8])}{more}"
