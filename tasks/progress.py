"""What is seen of a run while it goes on: a bar on a terminal, elsewhere a line an epoch, and how long it takes."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar
from torch import Tensor

from data.folders import count_of
from tasks.optim import time_limits

_WARM_UP = 5  # steps that are not measured: the first ones start processes and fill caches
_STEPS, _SECONDS = 10, 2.0  # that are measured before the time is told
_FORWARD = 1 / 3  # of a training step: a batch without the way back through the network, where none was measured
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """In words, as exact as an estimate is: "50 seconds", "4 minutes", "2 h 10 min", "3 days 4 h"."""
    if seconds < 95:
        return count_of(max(1, round(seconds) if seconds < 20 else 10 * round(seconds / 10)), "second")
    if seconds < 90 * _MINUTE:
        return f"{round(seconds / _MINUTE)} minutes"
    if seconds < 2 * _DAY:
        tens = round(seconds / (10 * _MINUTE))
        return f"{tens // 6} h" + (f" {tens % 6 * 10} min" if tens % 6 else "")
    hours = round(seconds / _HOUR)
    return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")


def steps_left(trainer: Trainer) -> float:
    """The optimizer steps from now to the end of a fit, by its epochs or its steps, whichever end it sooner."""
    of_steps = math.inf if trainer.max_steps == -1 else trainer.max_steps - trainer.global_step
    if trainer.max_epochs in (None, -1):
        return of_steps
    return min(of_steps, (trainer.max_epochs - trainer.current_epoch) * steps_per_epoch(trainer) - _done(trainer)[1])


def steps_per_epoch(trainer: Trainer) -> int:
    """The optimizer steps of an epoch."""
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def _done(trainer: Trainer) -> tuple[int, int]:
    """The batches and the optimizer steps of this epoch so far."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    whole = progress.processed >= trainer.num_training_batches
    steps = steps_per_epoch(trainer) if whole else progress.processed // trainer.accumulate_grad_batches
    return progress.processed, steps


def validations_left(trainer: Trainer) -> int:
    """How often the validation images are scored from now on, the last time after a fit's end.

    Right after the batch that one follows, it is taken to be done.
    """
    left, every, often = steps_left(trainer), trainer.val_check_batch or math.inf, trainer.check_val_every_n_epoch
    if not validation_batches(trainer) or math.isinf(left):
        return 0
    if often is None:
        return math.ceil(left * trainer.accumulate_grad_batches / every) + 1
    batches, steps = _done(trainer)
    first, end = trainer.current_epoch, trainer.current_epoch + math.ceil((left + steps) / steps_per_epoch(trainer))
    epochs = end // often - first // often + (end % often > 0)  # the last one always has a validation
    passed = int(batches // every) if (first + 1) % often == 0 or first + 1 == end else 0
    return epochs * max(1, int(trainer.num_training_batches // every)) - passed + 1


def validation_batches(trainer: Trainer) -> int:
    """The batches of a validation, also before the first one."""
    if not trainer.num_val_batches:
        batches = len(trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]
        limit = trainer.limit_val_batches
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return int(sum(trainer.num_val_batches))


class Pace(Callback):
    """How long a fit takes, which it says once, from its first steps.

    `runs` is how many times as long all runs take of which this is the first; `clock` gives seconds.
    """

    def __init__(self, runs: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs, self._clock = runs, clock
        self._said = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began, steps, per_epoch = self._clock(), steps_left(trainer), steps_per_epoch(trainer)
        self._of = count_of(int(steps), "step") if math.isfinite(steps) else ""
        if math.isfinite(steps) and trainer.max_epochs not in (None, -1):
            self._of = f"{count_of(math.ceil(steps / per_epoch), 'epoch')} of {count_of(per_epoch, 'step')}"
        self._validations_in_all = validations_left(trainer)
        self._first, self._validations = trainer.global_step + _WARM_UP, 0
        self._from: float | None = None  # when the steps began that are measured
        self._validating = 0.0  # seconds since then
        self._alone = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Measure; once it is known well enough, say how long it takes."""
        step, now, alone = trainer.global_step, self._clock(), _head_alone(pl_module) > 0
        if self._alone and not alone:  # the trunk has joined in: its steps take longer
            self._from, self._first = None, step
        self._alone = alone
        if step < self._first:
            return
        if self._from is None:
            self._from, self._first, self._validating = now, step, 0.0
        elif not self._said and step - self._first >= _STEPS and now - self._from >= _SECONDS:
            self._said = True
            if bar := trainer.progress_bar_callback:
                bar.print(self._sentence(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when it began."""
        self._validation_from = self._clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave it out of what a step takes."""
        if trainer.state.fn == "fit":
            self._validating += self._clock() - self._validation_from
            self._validation = self._clock() - self._validation_from
            self._validations += 1

    def step_seconds(self, trainer: Trainer) -> float:
        """What a step takes, with its share of what comes between epochs; NaN before it is known."""
        if self._from is None or trainer.global_step == self._first:
            return math.nan
        return (self._clock() - self._from - self._validating) / (trainer.global_step - self._first)

    def seconds_left(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """From now to the end of a fit and of the validation that follows it; NaN before it is known."""
        return min(self._by_steps(trainer, pl_module), _time_limit(trainer))

    def _by_steps(self, trainer: Trainer, pl_module: LightningModule) -> float:
        each, steps, waiting = self.step_seconds(trainer), steps_left(trainer), _head_alone(pl_module)
        whole = each / _FORWARD if waiting else each  # a step of the whole network
        training = each * min(steps, waiting) + whole * max(0, steps - waiting)
        validation = self._validation if self._validations else whole * _FORWARD * validation_batches(trainer)
        return training + validation * validations_left(trainer)

    def _sentence(self, trainer: Trainer, pl_module: LightningModule) -> str:
        left, limit = self._by_steps(trainer, pl_module), _time_limit(trainer)
        seconds, each = self._clock() - self._began + min(left, limit), self.step_seconds(trainer)
        length, validations = duration(seconds), count_of(self._validations_in_all, "validation")
        line = f"about {length}: {self._of}, {each:.2g} s each, and {validations}"
        if limit < left:
            line = f"about {length}, as --time says: some {limit / each:,.0f} more steps, {each:.2g} s each"
        return line if self._runs == 1 else f"{line}; with the runs that follow about {duration(seconds * self._runs)}"


def _head_alone(module: Any) -> int:
    """The steps that are left of those in which the head alone learns."""
    return max(0, (module.head_steps or 0) - module.global_step)


def _time_limit(trainer: Trainer) -> float:
    return min((cast(float, limit.time_remaining()) for limit in time_limits(trainer)), default=math.inf)


class Bar(TQDMProgressBar):
    """The bar of a terminal, the same whether or not rich happens to be installed."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Without the run folder's name, cut short."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(ProgressBar):
    """A line for each epoch, for a log: mean loss, the figure `monitor` where it was validated, time taken and left."""

    def __init__(self, monitor: str, pace: Pace) -> None:
        super().__init__()
        self._monitor, self._pace = monitor, pace
        self._speaks = True

    def disable(self) -> None:
        """Say nothing."""
        self._speaks = False

    def enable(self) -> None:
        """Speak again."""
        self._speaks = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line; one process alone does."""
        if self._speaks:
            print(*args, **kwargs, flush=True)  # a log is read while it grows

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch's sums."""
        self._began, self._validated = time.monotonic(), False
        self._losses: list[Tensor] = []

    on_train_start = on_train_epoch_start  # which a run that is resumed within an epoch does not come to

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Keep the loss, on its device: to ask for its value would wait for it."""
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is a new figure."""
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not self._losses:
            return
        words = [f"epoch {trainer.current_epoch + 1}"]
        if trainer.max_epochs not in (None, -1):
            words[0] += f"/{trainer.max_epochs}"
        elif trainer.max_steps != -1:
            words.append(f"step {trainer.global_step:,}/{trainer.max_steps:,}")
        words.append(f"loss {float(sum(self._losses) / len(self._losses)):.3f}")
        if self._validated and (value := trainer.callback_metrics.get(self._monitor)) is not None:
            words.append(f"{self._monitor} {float(value):.3f}")
        words.append(f"{time.monotonic() - self._began:.1f} s")
        seconds = self._pace.seconds_left(trainer, pl_module)
        words += [f"{duration(seconds)} left"] if steps_left(trainer) and math.isfinite(seconds) else []
        self.print("  ".join(words))


def progress_bar(monitor: str, pace: Pace) -> ProgressBar:
    """A bar where the output is a terminal, else lines."""
    return Bar() if sys.stdout.isatty() else EpochLines(monitor, pace)
