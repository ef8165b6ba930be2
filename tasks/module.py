"""Training, evaluation and checkpoint of one trunk with a head; every task's LightningModule is a thin subclass."""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from backbone import InputError, Preprocessing, normalize, trunk_from, trunk_settings
from backbone.folded import folded_norms, unfold_norms
from backbone.trunk import OURS
from data.folders import say
from data.records import Split
from tasks.head import Head
from tasks.optim import (
    EMA,
    WARM_UP,
    GivenLearningRate,
    build_optimizer,
    check_training,
    freeze,
    parameter_groups,
    time_spent,
    total_steps,
    warmup_cosine,
)
from tasks.processes import ShareBadImages, of_all
from tasks.runs import as_written, read_checkpoint

TRUNK_OPTIONS = ("trunk", "width_mult", "numerics")  # that say its shape
_SEEN = {"image_size": "image_size", "central_fraction": "crop_fraction", "interpolation": "interpolation"}


class TaskModule(LightningModule):
    """A trunk and a head, trained together; a subclass names its options, and builds and attaches its head.

    Args:
        trunk: mobilenetv1, or a network of timm's as timm:NAME; by default that of `weights`, or mobilenetv1.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start from: a file (timm's, Keras', Hugging Face's, TensorFlow's, a checkpoint of ours),
            `imagenet`, `coco`, a name that `python -m backbone weights` lists, or hub:OWNER/NAME[/FILE].
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Peak learning rate.
        weight_decay: Never on norms, biases and depthwise filters.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        head_steps: Steps at the start in which the head alone learns; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        layer_decay: Each block's rate as a multiple of the next one's; 1 gives all the same.
        freeze_norms: Keep the norms' statistics as `weights` have them, for small data or small batches.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.
        compile: Train with the trunk compiled by torch.compile. auto: no; on a CPU it was slower (0.79 of the eager
            bf16 step), and on a GPU it has not been measured.

    """

    task: ClassVar[str]  # the name of its package, in every checkpoint
    # Options that say the shape of the network: with a checkpoint they are the checkpoint's, whatever a config says.
    shape_options: ClassVar[tuple[str, ...]] = TRUNK_OPTIONS
    seen_as_trained: ClassVar[tuple[str, ...]] = ()  # options of the data, among _SEEN, that weights of timm's say
    head: Head

    def __init__(
        self,
        *,
        trunk: str | None = None,
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        head_steps: int = 0,
        trunk_lr_mult: float = 1.0,
        layer_decay: float = 1.0,
        freeze_norms: bool = False,
        ema_decay: float = 0.99,
        compile: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_training(self.hparams)
        self.trunk: Any = trunk_from({name: self.hparams[name] for name in (*TRUNK_OPTIONS, "weights")})
        self.head_steps: int | None = None  # known when the run's length is, and then kept by its checkpoints
        self._time_spent = 0.0  # of --trainer.max_time
        self._prepared = False

    def attach(self, head: Head) -> None:
        """Take the head that a subclass built."""
        self.head = head.to(memory_format=torch.channels_last)
        self.train()

    @classmethod
    def resolve(cls, command: str, model: dict[str, Any], data: dict[str, Any], runs: Path) -> None:
        """Complete the options of a command before anything is built: what was not given and can be found out.

        `model` and `data` hold what was given by command line, config and checkpoint, and are changed in place; `runs`
        is the folder of the runs. Raises InputError.
        """
        settings = trunk_settings(model)
        model.update({name: settings[name] for name in TRUNK_OPTIONS})
        if model.get("weights") and settings["trunk"] != OURS:
            cls.see_as_trained(model, data)

    @classmethod
    def see_as_trained(cls, model: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Let the data show images as the weights were trained to see them, in all that was not given."""
        preprocessing = Preprocessing.from_dict(model["numerics"])
        for name in cls.seen_as_trained:
            data.setdefault(name, getattr(preprocessing, _SEEN[name]))

    @classmethod
    def is_whole(cls, model: Mapping[str, Any]) -> bool:
        """Whether these options name a model that can be evaluated without a checkpoint of ours."""
        return False

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> tuple[Self, dict[str, Any]]:
        """The module of a checkpoint, in evaluation mode with its EMA weights, and the checkpoint's contents.

        InputError as `read_checkpoint`.
        """
        checkpoint = read_checkpoint(path, cls.task)
        options = {name: value for name, value in checkpoint["hyper_parameters"].items() if name[0] != "_"}
        with as_written(path):
            module = cls(**{**options, **rebuilt(checkpoint)})
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
        return module.eval().to(device), checkpoint

    def to_export(self) -> Self:
        """The module that a file is made of, where the data decide a part of this one."""
        return self

    # --- the pass through the network -------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Any:
        """The head's raw outputs for uint8 (B, 3, H, W) RGB images."""
        return self.head(self.trunk.features(normalize(images, self.trunk.preprocessing)))

    def mix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch that a training step sees, where images are mixed; drawn from the step's own random numbers."""
        return batch

    def losses(self, outputs: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The parts of the training loss by name; their sum is minimised."""
        return self.head.loss(outputs, batch)

    def evaluated(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch that an evaluation step sees, where something is added for the head's `update`."""
        return batch

    # --- steps ------------------------------------------------------------------------------------------------------

    @property
    def evaluated_size(self) -> tuple[int, int]:
        """(height, width) px of the images that `forward` takes in evaluation."""
        height, width = self.hparams["input_size"]
        return height, width

    @property
    def data(self) -> Any:
        """The DataModule that the module is trained or scored on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Trainer does not declare it

    def prepare(self, data: Any) -> None:
        """Before a fit, and before anything is written, find what contradicts the data. Raises InputError.

        Who trains without the command calls this before Trainer.fit: an average of the weights starts before setup.
        """
        compilers = os.environ.get("CXX", "c++"), "g++", "clang++", "cl"
        if self.hparams["compile"] is True and not any(map(shutil.which, compilers)):
            raise InputError(
                "--model.compile true: torch.compile needs a C++ compiler, and finds none; install g++, or give false."
            )
        self.head.start(data)
        if self.hparams["weights"] and folded_norms(self):
            count = unfold_norms(self, self, evaluation_images(data, "train", 128))
            say(f"{count} batch norms that had been folded got their statistics from the training images")
        self._prepared = True

    def setup(self, stage: str) -> None:
        """Prepare, where the command has not."""
        if stage == "fit" and not self._prepared:
            self.prepare(self.data)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; 0 where no image of it could be read."""
        if not self._any_readable(batch):
            # Not a plain 0: on several devices each waits for the gradients of all.
            return 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        with self._seeded_draws(batch_idx):
            batch = self.mix(batch)
            # Not by requires_grad: DistributedDataParallel would never synchronise what it was wrapped without.
            with torch.set_grad_enabled(not (self._head_alone() and self.trainer.world_size == 1)):
                maps = self._features(normalize(batch["images"], self.trunk.preprocessing))
            outputs = self.head(maps)
        losses = self.losses(outputs, batch)
        loss = torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
        if not loss.isfinite():
            files = [self.data.file("train", position) for position in batch["positions"].tolist()]
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step} on images {files}; look at these images, or "
                "train with a lower --model.lr."
            )
        count = len(batch["images"])
        self.log("train/loss", loss, prog_bar=True, batch_size=count)
        self.log_dict({f"train/loss_{name}": value for name, value in losses.items()}, batch_size=count)
        rates = [group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        self.log("train/lr", max(rates), batch_size=count)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients; InputError where one is not finite, before it is in the weights and in their average.

        Not by Lightning, which would measure the norm once more, and refuses to clip for a fused optimizer.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])  # type: ignore[misc]
        if not (self._scaled or norm.isfinite()):
            raise InputError(f"the gradients are not finite at step {self.global_step}; train with a lower --model.lr.")
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        elif gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    @property
    def _scaled(self) -> bool:
        """Whether losses are scaled (16-mixed), which leaves out a step whose gradients are not finite by itself."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    @functools.cached_property
    def _features(self) -> Callable[[Tensor], dict[int, Tensor]]:
        """What a training step sees of the trunk; compiled it is a function, so that checkpoints are the same."""
        return torch.compile(self.trunk.features) if self.hparams["compile"] is True else self.trunk.features

    @contextlib.contextmanager
    def _seeded_draws(self, batch_idx: int) -> Iterator[None]:
        """Draw dropout and mixing from seed, step and batch, so that a resumed run draws what it would have drawn."""
        trainer = self.trainer
        # several accumulated batches share a step
        place = (self.data.hparams["seed"], trainer.global_rank, trainer.global_step, batch_idx)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            yield

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Let the head keep what is scored of the batch."""
        if self._any_readable(batch):
            self.head.update(self(batch["images"]), self.evaluated(batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score the validation images."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test images."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log the head's figures; outside `fit`, let it write its report into the run folder too."""
        head, trainer = self.head, self.trainer
        if not any(of_all(len(head.predictions))):  # every image of a split so small was bad, which its limit allows
            raise InputError(f"none of the {split} images could be read; see --data.max_bad_fraction.")
        figures = head.compute(self.data.records(split), split)
        self.log_dict({f"{split}/{name}": value for name, value in figures.items() if name != head.monitor})
        if head.monitor in figures:
            self.log(f"{split}/{head.monitor}", figures[head.monitor], prog_bar=True)
        folder = trainer.log_dir  # on every rank: it is a broadcast
        if trainer.state.fn != "fit" and trainer.logger and trainer.is_global_zero:
            head.report(Path(cast(str, folder)), split, self.data, {**self.hparams, **self.trunk.settings})

    def _any_readable(self, batch: Mapping[str, Any]) -> bool:
        """Note which images of a batch could not be read; say whether any could."""
        self.data.bad_images.note(batch["bad"], batch["cut_short"])
        return len(batch["images"]) > 0

    # --- what is trained, and how -----------------------------------------------------------------------------------

    def _head_alone(self) -> bool:
        return self.global_step < (self.head_steps or 0) and self._time_spent < WARM_UP

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but a trunk that is frozen or waits, and norms that keep their statistics."""
        super().train(mode)
        if self.hparams["trunk_lr_mult"] == 0:
            freeze(self.trunk)
        elif self._trainer is not None and self._head_alone():
            self.trunk.eval()
        elif self.hparams["freeze_norms"]:
            for module in self.trunk.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the trunk join in when the head has warmed up."""
        if self.head_steps and self.trunk.training == self._head_alone():
            self.train()

    def configure_optimizers(self) -> Any:
        """Warm up, then follow a cosine to 0 at the last step of the run; the trunk has a rate of its own."""
        options, steps = self.hparams, total_steps(self.trainer)
        self._time_spent = time_spent(self.trainer)  # of a resumed run the clock is restored by now
        if self.head_steps is None:  # a resumed run, of another length maybe, has it from its checkpoint
            self.head_steps = int(min(options["head_steps"], steps * WARM_UP)) if options["trunk_lr_mult"] > 0 else 0
        rates = options["trunk_lr_mult"], options["weight_decay"], options["layer_decay"]
        groups = parameter_groups(self, self.trunk, *rates)
        # a fused step would undo the scale after the clipping
        fused = self.device.type in ("cpu", "cuda") and not self._scaled
        optimizer = build_optimizer(options["optimizer"], groups, options["lr"], fused)
        spent = functools.partial(getattr, self, "_time_spent")
        scheduler = warmup_cosine(optimizer, options["warmup_steps"], steps, self.head_steps, spent)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Look at the clock first, by which the rate falls too where the time is limited."""
        self._time_spent = time_spent(self.trainer)
        super().lr_scheduler_step(scheduler, metric)

    def on_train_batch_end(self, *args: Any) -> None:
        """Validate where the time is over, whatever the epoch; the limit's callback comes before this."""
        if self.trainer.should_stop and self.trainer.check_val_every_n_epoch is not None:
            self.trainer.check_val_every_n_epoch = 1

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights, keep the rate asked for, share the list of bad images."""
        return [EMA(self.hparams["ema_decay"]), GivenLearningRate(), ShareBadImages()]

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights mean nothing without: whose they are, the trunk's settings and the head's state."""
        checkpoint["task"] = self.task
        checkpoint["trunk"] = self.trunk.settings
        checkpoint["head"] = self.head.state
        checkpoint["head_steps"] = self.head_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what was found with these weights."""
        self.trunk.settings = checkpoint["trunk"]
        self.head.state = checkpoint["head"]
        self.head_steps = checkpoint["head_steps"]


def evaluation_images(data: Any, split: Split, most: int) -> Iterator[Tensor]:
    """Up to so many images of a split as in evaluation, evenly over it: batches of uint8 (B, 3, H, W)."""
    dataset = data.dataset(split, train=False)
    positions = np.linspace(0, len(dataset) - 1, min(len(dataset), most)).astype(int).tolist()
    for start in range(0, len(positions), 16):
        images = type(data).collate([dataset[0, position] for position in positions[start : start + 16]])["images"]
        if len(images):
            yield images


def rebuilt(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The options that rebuild a checkpoint's trunk, whose weights come with it."""
    return {**{name: checkpoint["trunk"][name] for name in TRUNK_OPTIONS}, "weights": None}
