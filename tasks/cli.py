"""The only LightningCLI: `fit`, `validate` and `test` of every task, each in one new run folder."""

import difflib
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from backbone.errors import InputError
from tasks.accelerator import best_precision, keep_freed_memory
from tasks.runs import (
    AtomicCheckpointIO,
    BestCheckpoint,
    StopBetweenSteps,
    new_run,
    newest_checkpoint,
    point_latest,
    read_checkpoint,
)

CONFIGS = Path(__file__).parents[1] / "configs"
# What the data tell the model; never read from a checkpoint or the command line.
LINKS = ("categories", "input_size")


def run(
    task: str,
    module_class: type[LightningModule],
    datamodule_class: type[LightningDataModule],
    args: Sequence[str],
    *,
    needs_checkpoint: bool = True,
) -> int:
    """Run `fit`, `validate` or `test` of a task as given in `args`; return the exit code.

    Without a config and a data root it is the built-in sample. Settings count in this order: command line, config,
    checkpoint, default. Without `needs_checkpoint` a net whose weights come whole from elsewhere is evaluated as it
    is, not the newest run's. InputError where what the user gave cannot be used, before anything is written.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # their banners
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    command, *rest = args
    checkpoint_path = option(rest, "ckpt_path")
    if checkpoint_path and os.path.exists(checkpoint_path):  # noqa: PTH110  # not `latest`, which soon is another run
        checkpoint_path = os.path.realpath(checkpoint_path)
    has_config = bool({"-c", "--config"} & {arg.split("=")[0] for arg in rest})
    has_root = option(rest, "data.root") is not None or "--data" in rest
    if command == "fit":
        run_config = Path(checkpoint_path).parent.parent / "config.yaml" if checkpoint_path else None
        if run_config and not has_config and run_config.is_file():
            rest = ["--config", str(run_config), *rest]  # a resumed run is the same run
        elif not has_config and not checkpoint_path and not has_root:
            rest = ["--config", str(CONFIGS / task / "sample.yaml"), *rest]
    elif checkpoint_path is None and needs_checkpoint and not {"-h", "--help", "--print_config"} & set(rest):
        root = Path(option(rest, "trainer.default_root_dir") or "runs")
        checkpoint_path = str(newest_checkpoint(task, root))
        print(f"checkpoint: {checkpoint_path}")
        rest = [*rest, "--ckpt_path", checkpoint_path]
    checkpoint = read_checkpoint(checkpoint_path, task) if checkpoint_path else None
    try:
        _Cli(task, module_class, datamodule_class, checkpoint, checkpoint_path, [command, *rest])
    except SystemExit as stop:  # --help, a mistake in the arguments, Ctrl-C
        return int(stop.code or 0)
    return 0


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line, with the nearest name there is, and exit with 2."""
        message = " ".join(message.split()).rstrip(".") + "."
        hint = " The command's --help lists what there is."
        for word in message.replace('"', " ").replace("'", " ").split():
            group, _, option = word.strip(".,:").removeprefix("--").split("=")[0].partition(".")
            known = [name.partition(".")[2] for name in self._names() if name.startswith(f"{group}.")]
            near = difflib.get_close_matches(option, known, n=1)
            if near and near[0] != option:
                hint = f" Did you mean --{group}.{near[0]}?"
                break
        print(f"error: {message}{hint}", file=sys.stderr)
        raise SystemExit(2)

    def _names(self) -> set[str]:
        parsers = [self, *(getattr(self._subcommands_action, "_name_parser_map", {}) or {}).values()]
        return {action.dest for parser in parsers for action in parser._actions if action.dest}


class ValidateLastEpoch(Callback):
    """Validate after the last epoch, whatever `check_val_every_n_epoch`: the rate ends there, and so does the best."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for a validation at the end of the epoch that begins."""
        if trainer.max_epochs is not None and trainer.current_epoch == trainer.max_epochs - 1:
            trainer.check_val_every_n_epoch = 1


class _Progress(TQDMProgressBar):  # the same bar whether or not rich happens to be installed
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the run folder's name, cut short
        return metrics


class _Cli(LightningCLI):
    def __init__(
        self,
        task: str,
        module_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        checkpoint: dict[str, Any] | None,
        checkpoint_path: str | None,
        args: Sequence[str],
    ) -> None:
        self.task = task
        self.checkpoint = checkpoint
        self.checkpoint_path = checkpoint_path
        super().__init__(
            module_class,
            datamodule_class,
            parser_class=_Parser,
            parser_kwargs={"prog": f"python -m tasks.{task}"},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Its own precedence lets a checkpoint override the command line; ours is in `add_arguments_to_parser`.
            load_from_checkpoint_support=False,
            trainer_defaults={
                "max_epochs": 100,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "gradient_clip_val": 10.0,
                "use_distributed_sampler": False,  # the data modules shard by themselves, without padding in evaluation
                "enable_model_summary": False,
            },
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skip = {"model", "datamodule", "weights_only", "verbose"}
        return {
            "fit": skip | {"train_dataloaders", "val_dataloaders"},
            "validate": skip | {"dataloaders"},
            "test": skip | {"dataloaders"},
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Put what is ours first in --help, before the hundred options of the trainer."""
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in LINKS:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        if self.checkpoint:
            for room, key in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
                known = {action.dest for action in parser._actions}
                saved = {f"{room}.{name}": value for name, value in self.checkpoint.get(key, {}).items()}
                parser.set_defaults({n: v for n, v in saved.items() if n in known and n.split(".")[1] not in LINKS})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Keep Lightning from letting the checkpoint override the command line."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config.ckpt_path = self.checkpoint_path  # a config's own is that of the run it was written by
        if self.checkpoint:  # the numerics belong to the weights, which come from the checkpoint
            of_checkpoint = self.checkpoint["hyper_parameters"]
            config.model.numerics = of_checkpoint["numerics"]
            for name, value in of_checkpoint.items():  # what a config leaves to be found out was found out then
                if name not in LINKS and name in config.model and config.model[name] is None:
                    config.model[name] = value

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config: Namespace = self._get(self.config_init, "trainer")
        if config.max_epochs == -1 and config.max_steps == -1:
            raise InputError("--trainer.max_epochs -1 has no end for the learning rate to fall to; give a number.")
        for name in ("max_epochs", "max_steps", "accumulate_grad_batches"):
            if config[name] == 0:
                raise InputError(f"--trainer.{name} is 0; it must be 1 or more.")
        root = Path(config.get("default_root_dir") or "runs")
        config["default_root_dir"] = str(root)
        self.run_dir = new_run(self.task, root)
        self.writes_nothing = bool(config.fast_dev_run)
        resumed_from = Path(self.checkpoint_path) if self.checkpoint_path else None
        self.best = BestCheckpoint(self.run_dir / "checkpoints", self.model.monitor, resumed_from)
        last = ModelCheckpoint(
            self.run_dir / "checkpoints",
            "last",
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            save_on_exception=True,
            enable_version_counter=False,
        )
        callbacks = config.get("callbacks") or []
        config["callbacks"] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), self.best, last]
        self.stop = StopBetweenSteps()
        config["callbacks"] += [self.stop, ValidateLastEpoch()]
        if config.get("enable_progress_bar") is not False:
            config["callbacks"].append(_Progress())
        if (given := config.get("logger")) is not False:  # a logger of the user's comes beside ours
            given = [] if given in (None, True) else given if isinstance(given, list) else [given]
            config["logger"] = [CSVLogger(root, name=self.task, version=self.run_dir.name), *given]
        config["plugins"] = [*(config.get("plugins") or []), AtomicCheckpointIO()]
        accelerator = config.accelerator
        if accelerator in ("auto", "gpu"):
            mps = torch.backends.mps.is_available()
            accelerator = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if accelerator == "cpu":
            keep_freed_memory()
        if config.get("precision") is None:
            config["precision"] = best_precision(accelerator)
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:  # a GPU that is not there
            raise InputError(f"the --trainer options do not hold: {' '.join(str(error).split())}") from error

    def after_instantiate_classes(self) -> None:
        ours, theirs = self.datamodule.categories, (self.checkpoint or {}).get("hyper_parameters", {}).get("categories")
        if theirs is not None and ours != theirs:
            raise InputError(
                f"the checkpoint was trained for {_classes(theirs, ours)}, but the data under "
                f"{self.datamodule.hparams.root} have {_classes(ours, theirs)}; give the data it was trained for, or "
                "start from its trunk alone with --model.weights."
            )
        if self.checkpoint:  # early, as it may contradict the options; when it is loaded it is asked again
            self.model.on_load_checkpoint(self.checkpoint)
        self.datamodule.setup(self.subcommand)  # finds what is wrong with the data before a run folder is made
        if self.subcommand == "fit" and hasattr(self.model, "prepare_fit"):
            self.model.trainer = self.trainer  # which knows the folder of the runs
            self.model.prepare_fit(self.datamodule)
        if self.trainer.is_global_zero and not self.writes_nothing:
            try:
                self.run_dir.mkdir(parents=True)  # at once, so that two runs never share a folder
            except FileExistsError:
                raise InputError(f"{self.run_dir} was taken by a run of the same second; start again.") from None

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        if self.checkpoint is None and model.hparams["weights"] is None and self.datamodule.hparams["root"]:
            print("starting from random weights; ImageNet's, by --model.weights FILE, need far fewer pictures")
        self._guarded(self.trainer.fit, model, **kwargs)
        if not self.writes_nothing:
            if self.checkpoint and self.trainer.global_step == self.checkpoint["global_step"]:
                self._end_again(model, self.checkpoint, **kwargs)
            best = self.best.best_model_path
            if not best:  # stopped by max_steps or max_time before any validation: the last weights are the best
                self.trainer.save_checkpoint(best := str(self.run_dir / "checkpoints" / "best.ckpt"))
            self._guarded(self.trainer.validate, model, verbose=False, **{**kwargs, "ckpt_path": best})
        self._finish()

    def _end_again(self, model: LightningModule, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Of a run that was stopped after its last step: its end, and the validation that it may not have come to."""
        folder = self.run_dir / "checkpoints"
        if self.trainer.is_global_zero:
            folder.mkdir(exist_ok=True)
            shutil.copyfile(str(self.checkpoint_path), folder / "last.ckpt")
        self._guarded(self.trainer.validate, model, verbose=False, **kwargs)
        found, best = self.trainer.callback_metrics.get(str(model.monitor)), self.best.best_model_score
        if found is not None and (best is None or found > best):
            model.on_save_checkpoint(checkpoint)  # what was chosen in this validation
            self.best.best_model_path = str(folder / "best.ckpt")
            if self.trainer.is_global_zero:
                AtomicCheckpointIO().save_checkpoint(checkpoint, self.best.best_model_path)

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        self._guarded(self.trainer.validate, model, verbose=False, **kwargs)
        self._finish()

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        self._guarded(self.trainer.test, model, verbose=False, **kwargs)
        self._finish()

    def _guarded(self, function: Any, model: LightningModule, **kwargs: Any) -> None:
        """Call a method of the trainer; turn Ctrl-C and a checkpoint that does not fit into plain words."""
        try:
            with self.stop:
                function(model, weights_only=True, **kwargs)
        except SystemExit:
            last = self.run_dir / "checkpoints" / "last.ckpt"
            if self.trainer.interrupted and last.is_file():
                print(f"interrupted and saved; go on with: python -m tasks.{self.task} fit --ckpt_path {last}")
            raise SystemExit(128 + (self.stop.signal or signal.SIGINT)) from None  # as a shell reports it
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            reason = str(error).split("\n")[1].strip()
            raise InputError(
                f"--ckpt_path {kwargs['ckpt_path']} does not fit the model asked for ({reason}); leave out the "
                "--model options that change its shape."
            ) from None
        finally:
            if self.trainer.is_global_zero and self.run_dir.is_dir():
                if self.datamodule.bad_images.reasons:
                    rows = [
                        f"{name}\t{reason}\n" for name, reason in sorted(self.datamodule.bad_images.reasons.items())
                    ]
                    (self.run_dir / "bad_images.txt").write_text("".join(rows), "utf-8", "backslashreplace")
                point_latest(self.run_dir)

    def _finish(self) -> None:
        if not self.trainer.is_global_zero:
            return
        figures = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        for name, meaning in self.model.headline.items():
            for split in ("val", "test"):
                if f"{split}/{name}" in figures:
                    print(f"{meaning} {figures[f'{split}/{name}']:.3f}  ({split}/{name})")
        if self.datamodule.bad_images.reasons:
            print(f"{len(self.datamodule.bad_images.reasons)} images were left out: {self.run_dir / 'bad_images.txt'}")
        if self.run_dir.is_dir():
            print(f"pictures: {self.run_dir / 'pictures'}\nrun: {self.run_dir}")


# Lightning's remarks to programmers; each is on purpose here.
_NOT_FOR_USERS = (
    ".*does not have many workers.*",  # two cores are shared by loader and training
    ".*Checkpoint directory .* exists and is not empty.*",  # the validation after a fit
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*The number of training batches .* is smaller than the logging interval.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*The dirpath has changed from .*",  # a resumed run has a folder of its own
    ".*your dataloader is not resumable.*",  # it is: data/loading.py starts where the checkpoint stands
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    ".*Found .* module\\(s\\) in eval mode at the start of training.*",  # frozen norms, a trunk that waits for its head
    "[\\s\\S]*Dump of a value that does not round-trip.*",  # numerics' tuples, which Numerics.from_dict makes again
)


def option(args: Sequence[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, None where it is not given."""
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.split("=", 1)[1]
    return None


def _classes(categories: dict[int, str], others: dict[int, str]) -> str:
    """Their number, and first those that the others have not under the same id."""
    different = {number: name for number, name in categories.items() if others.get(number) != name} or categories
    names = [f"{' '.join(name.split())} (id {number})" for number, name in different.items()]
    return f"{len(categories)} classes: {', '.join(names[:8])}{', ...' if len(categories) > min(8, len(names)) else ''}"
