"""Options of training, parameter groups, the rate's course, and the average of the weights, for every task."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Timer, WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from backbone.errors import check_options
from tasks.processes import agreed

WARM_UP = 0.2  # of a run at most, in steps and in time: a short one is not spent on warming up

# RMSprop is the paper's optimizer (section 3.2); decay 0.9, momentum 0.9 and eps 1 are TensorFlow's SSD-MobileNet's.
_OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}),
    "adamw": (torch.optim.AdamW, {}),
}

_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "dropout": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "label_smoothing": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "mixup_alpha": (lambda value: value >= 0, "0 (none) or more"),
    "cutmix_alpha": (lambda value: value >= 0, "0 (none) or more"),
    "lr": (lambda value: value > 0, "above 0"),
    "weight_decay": (lambda value: value >= 0, "0 or more"),
    "warmup_steps": (lambda value: value >= 0, "0 or more"),
    "head_steps": (lambda value: value >= 0, "0 or more"),
    "trunk_lr_mult": (lambda value: value >= 0, "0 (frozen) or more"),
    "layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "ema_decay": (lambda value: 0 <= value < 1, "from 0 to below 1"),
}


def check_training(options: Mapping[str, Any]) -> None:
    """Raise InputError for the first option of training, of those that a module has, that is not what it must be."""
    rules = ((name, test, wanted) for name, (test, wanted) in _RULES.items() if name in options)
    check_options("model", *((name, options[name], test(options[name]), wanted) for name, test, wanted in rules))


def parameter_groups(
    model: nn.Module, trunk: nn.Module, trunk_lr_mult: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Sort a model's trainable parameters by rate (`lr_mult`) and by decay.

    The head learns at 1; the trunk's last block at `trunk_lr_mult * layer_decay`, and each block before it at
    `layer_decay` times the rate of the next (BEiT, Bao et al. 2021, appendix).
    Norms and biases are not decayed, and neither are depthwise filters: "little or no weight decay (l2
    regularization) on the depthwise filters since there are so few parameters in them" (paper, section 3.2).
    """
    parts = _parts(trunk)  # stem, block 1, block 2, ...
    rates = {
        id(parameter): trunk_lr_mult * layer_decay ** (len(parts) - i)
        for i, part in enumerate(parts)
        for parameter in part.parameters()
    }
    decayed = {
        id(module.weight)
        for module in model.modules()
        if (isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear)
    }
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = id(parameter) in rates, rates.get(id(parameter), 1.0), id(parameter) in decayed
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "of_trunk": of_trunk,
            "lr_mult": rate,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for (of_trunk, rate, is_decayed), parameters in groups.items()
    ]


def _parts(module: nn.Module) -> list[nn.Module]:
    """What a trunk runs one after the other: its children, and of a row of blocks each block."""
    parts: list[nn.Module] = []
    for child in module.children():
        parts += _parts(child) if _is_row(child) else [child] if any(True for _ in child.parameters()) else []
    return parts


def _is_row(module: nn.Module) -> bool:
    """Whether it holds blocks in a row: a list of modules that have parts, or a stage with such a list in it.

    Convolution, norm and activation in a Sequential are one block, and so are MobileOne's, whose lists are of branches.
    """
    inner = list(module.children())
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return any(list(part.children()) for part in inner)
    return any(isinstance(part, nn.Sequential) and _is_row(part) for part in inner)


def build_optimizer(name: str, groups: Iterable[dict], lr: float, fused: bool = False) -> Optimizer:
    """Build "sgd", "rmsprop" or "adamw" over `parameter_groups`, each at `lr` times its `lr_mult`.

    `fused` steps in one kernel where torch has one, which it has not of RMSprop.
    """
    optimizer_class, options = _OPTIMIZERS[name]
    options = {**options, "fused": True} if fused and name != "rmsprop" else options
    return optimizer_class([{**group, "lr": lr * group["lr_mult"]} for group in groups], **options)


def total_steps(trainer: Trainer) -> float:
    """Count the optimizer steps of the whole run, infinitely many where time alone ends it; ValueError without an end.

    Not `trainer.estimated_stepping_batches`: that starts the loader before a resumed run has its counters back, and
    its workers then replay epoch 0 (Lightning #21938).
    """
    if trainer.max_epochs in (None, -1):
        if trainer.max_steps == -1 and not time_limits(trainer):
            raise ValueError(
                "a run without an end has no learning rate to fall to: give max_epochs, max_steps or max_time"
            )
        return math.inf if trainer.max_steps == -1 else trainer.max_steps
    batches, limit = len(trainer.datamodule.train_dataloader()), trainer.limit_train_batches  # type: ignore[attr-defined]
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def time_spent(trainer: Trainer) -> float:
    """The part of `max_time` that has been trained, also before a resumption; on all processes the same. 0 without."""
    parts = [0.0]
    for timer in time_limits(trainer):
        spent, left = timer.time_elapsed(), cast(float, timer.time_remaining())
        parts.append(spent / (spent + left) if spent + left else 1.0)
    return agreed(round(1e6 * max(parts))) / 1e6 if len(parts) > 1 else 0.0


def time_was_over(trainer: Trainer, checkpoint: Mapping[str, Any]) -> bool:
    """Whether the training of a checkpoint took the time that this trainer is given, before it has begun."""
    spent: float = checkpoint["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    return any(spent >= cast(float, each.time_remaining()) for each in time_limits(trainer))


def time_limits(trainer: Trainer) -> list[Timer]:
    """What ends the training by time: of `max_time`, or of a config."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Trainer does not declare it
    return [each for each in callbacks if isinstance(each, Timer) and each.time_remaining() is not None]


def warmup_cosine(
    optimizer: Optimizer,
    warmup_steps: int,
    total_steps: float,
    head_steps: int = 0,
    spent: Callable[[], float] = lambda: 0.0,
) -> LambdaLR:
    """Raise the rates linearly over `warmup_steps`, then lower them to 0 along half a cosine; step it every batch.

    In the first `head_steps` the trunk's rate is 0; its own warm-up follows. The steps come to their end with the part
    of the time that is `spent`, where that is ahead of them: at 1 the rate is 0.
    """
    warmup_steps = int(min(warmup_steps, total_steps * WARM_UP))

    def factor(step: int, wait: int) -> float:
        time = spent()
        if step < wait and time < WARM_UP:
            return 0.0
        warm_by_time = time / WARM_UP - (1 if wait else 0)
        warm = max((step - wait + 1) / (warmup_steps + 1), warm_by_time)
        if warm < 1:
            return warm
        start = wait + warmup_steps
        done = max((step - start) / max(1, total_steps - start), time)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))

    waits = [head_steps if group["of_trunk"] else 0 for group in optimizer.param_groups]
    return LambdaLR(optimizer, [functools.partial(factor, wait=wait) for wait in waits])


class GivenLearningRate(Callback):
    """Let the `lr` that a resumed run was given win over the one in its checkpoint."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the rates of all groups."""
        [optimizer], [config] = trainer.optimizers, trainer.lr_scheduler_configs
        set_rates(optimizer, cast(LambdaLR, config.scheduler), pl_module.hparams["lr"])


def set_rates(optimizer: Optimizer, scheduler: LambdaLR, lr: float) -> None:
    """Set every group's rate at the scheduler's step to that of a run with this `lr`."""
    for i, group in enumerate(optimizer.param_groups):
        scheduler.base_lrs[i] = group["initial_lr"] = lr * group["lr_mult"]
        group["lr"] = scheduler.base_lrs[i] * scheduler.lr_lambdas[i](scheduler.last_epoch)


def freeze(module: nn.Module) -> None:
    """Hold a module as it is: no gradients, and norms that use their statistics. Call it from every `train()`."""
    module.eval().requires_grad_(False)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def move_average(averaged: list[Tensor], current: list[Tensor], decay: float, count: int) -> None:
    """Move an average of `count` values, in place, towards the current ones; one of none, and integers, are copied."""
    moved = [bool(count) and each.is_floating_point() for each in averaged]
    for moves in {*moved}:
        ours, theirs = ([*itertools.compress(each, (one == moves for one in moved))] for each in (averaged, current))
        if moves:
            torch._foreach_lerp_(ours, theirs, 1 - min(decay, (1 + count) / (10 + count)))
        else:  # the first values, and counters of the norms
            torch._foreach_copy_(ours, theirs)


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validated, saved as `state_dict` and left in the model at the end.

    The decay grows as (1 + n) / (10 + n) up to `decay`, so that a short run is not averaged with its random start
    (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay, self._swapped = decay, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the average to the module's device, and keep its counter, which is read in every step, on the CPU.

        Lightning makes the average before it moves the module, and all weights would go to the CPU in every step.
        """
        average = cast(AveragedModel, self._average_model)
        average.module.to(pl_module.device)
        average.n_averaged = average.n_averaged.cpu()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average once for each optimizer step, without waiting for the device."""
        if trainer.global_step > self._latest_update_step:
            average = cast(AveragedModel, self._average_model)
            move_average(_tensors(average.module), _tensors(pl_module), self._decay, int(average.n_averaged))
            average.n_averaged += 1
            self._latest_update_step = trainer.global_step

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore average and live weights for training; a test needs only `state_dict`, which is the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the live weights back when a validation is interrupted, before the checkpoint is saved."""
        if self._swapped:
            self._swap_models(pl_module)

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped
