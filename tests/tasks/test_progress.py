import re
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from tasks.cli import ValidateLastEpoch
from tasks.progress import Bar, EpochLines, Pace, duration, progress_bar, steps_left, validations_left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.2, "1 second"), (7.4, "7 seconds"), (43, "40 seconds"), (94, "90 seconds"), (96, "2 minutes")),
        *((89.4 * 60, "89 minutes"), (91 * 60, "1 h 30 min"), (3600 * 7.01, "7 h"), (3600 * 47.9, "47 h 50 min")),
        *((86400 * 3 + 3600 * 4, "3 days 4 h"), (86400 * 2, "2 days")),
    ],
)
def test_a_time_is_said_as_exactly_as_it_is_known(seconds, words):
    assert duration(seconds) == words


class Module(BoringModel):
    head_steps = 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_end(self):
        self.log("val/figure", float(self.current_epoch) / 8)


class Note(Callback):
    """What is said to be left at the end of each batch, and what in truth came."""

    def __init__(self):
        self.said, self.steps, self.validations = [], [], []

    def on_train_batch_end(self, trainer, *args):
        self.said.append((steps_left(trainer), validations_left(trainer)))
        self.steps.append(trainer.global_step)
        self.validations.append(self.count)

    count = 0

    def on_validation_end(self, trainer, pl_module):
        self.count += 1


@pytest.mark.parametrize(
    "length",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 3, "limit_train_batches": 8},
        {"max_epochs": 4, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "val_check_interval": 0.5},
        {"max_steps": 12, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"max_steps": 10, "max_epochs": 100},
    ],
    ids=str,
)
def test_what_is_left_is_what_then_comes(tmp_path, length):
    note = Note()
    given = {"limit_train_batches": 5, "limit_val_batches": 2, **length}
    training = trainer(tmp_path, callbacks=[note, ValidateLastEpoch()], **given)
    training.fit(Module(), BoringDataModule())
    assert [steps for steps, _ in note.said] == [training.global_step - done for done in note.steps]
    for now, then, (_, said) in zip(note.validations, note.validations[1:], note.said, strict=False):
        if now == then:  # else one begins just now
            assert said == note.count - now + 1  # with the one that follows a fit


class Simulated:
    """A fit by a made-up clock: `step(number)` and `validation` seconds; `between` epochs, something else."""

    def __init__(self, step, validation=0.0, *, per_epoch=20, epochs=10, every=5, batches=6, between=0.0, **more):
        self.now, self.lines, self.left = 100.0, [], []
        self.step, self.validation, self.between = step, validation, between
        current = SimpleNamespace(processed=0)
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=current)))
        self.current = current
        bar = SimpleNamespace(print=lambda line: self.lines.append((self.trainer.global_step, line)))
        self.trainer = SimpleNamespace(
            **{"max_steps": -1, "max_epochs": epochs, "global_step": 0, "current_epoch": 0, "callbacks": []},
            **{"num_training_batches": per_epoch, "accumulate_grad_batches": 1, "val_check_batch": per_epoch},
            **{"check_val_every_n_epoch": every, "num_val_batches": [batches], "fit_loop": loop},
            **{"progress_bar_callback": bar, "state": SimpleNamespace(fn="fit")},
        )
        self.module = SimpleNamespace(head_steps=more.get("head_steps", 0), global_step=0)
        vars(self.trainer).update(more)

    def run(self, **options):
        pace, trainer = Pace(clock=lambda: self.now, **options), self.trainer
        pace.on_train_start(trainer, self.module)
        for epoch in range(trainer.max_epochs):
            trainer.current_epoch, self.current.processed = epoch, 0
            for _ in range(trainer.num_training_batches):
                self.now += self.step(trainer.global_step)
                self.current.processed += 1
                trainer.global_step += 1
                self.module.global_step += 1
                pace.on_train_batch_end(trainer, self.module)
            if (epoch + 1) % trainer.check_val_every_n_epoch == 0:
                self.validate(pace)
            self.now += self.between
            self.left.append((self.now, pace.seconds_left(trainer, self.module)))
        self.now += self.validation
        return self.lines, self.now - 100

    def validate(self, pace):
        pace.on_validation_start(self.trainer, self.module)
        self.now += self.validation
        pace.on_validation_end(self.trainer, self.module)


def test_how_long_a_fit_takes_is_said_once_from_steps_that_were_warm():
    lines, took = Simulated(lambda number: 4.0 if number < 5 else 0.3, 0.6).run()
    assert lines == [(15, "about 80 seconds: 10 epochs of 20 steps, 0.3 s each, and 3 validations")]
    assert took == pytest.approx(5 * 4 + 195 * 0.3 + 3 * 0.6)  # 80.3 s


def test_short_steps_are_measured_for_two_seconds():
    [(step, _)], _ = Simulated(lambda number: 0.01, per_epoch=1000, epochs=2, every=2).run()
    assert 205 <= step <= 207


def test_what_is_left_is_true_once_a_validation_was_seen_also_with_time_between_epochs():
    fit = Simulated(lambda number: 0.25, validation=9.0, between=2.0)
    fit.run()
    for now, left in fit.left[5:]:  # the mean of a step has a share of what is between epochs
        assert now + left == pytest.approx(fit.now, rel=0.02)


def test_steps_of_the_head_alone_are_not_taken_for_those_of_all():
    [(_, line)], took = Simulated(lambda number: 0.2 if number < 60 else 0.6, head_steps=60, batches=0).run()
    assert took == pytest.approx(96)  # 60 x 0.2 + 140 x 0.6
    assert line.startswith("about 2 minutes: 10 epochs of 20 steps, 0.2 s each")


@pytest.mark.parametrize(("seconds", "start"), [(30, "about 30 seconds, as --time"), (900, "about 70")])
def test_the_smaller_of_steps_and_time_is_said(monkeypatch, seconds, start):
    fit = Simulated(lambda number: 0.35, batches=0)
    timer = SimpleNamespace(time_remaining=lambda: 100 + seconds - fit.now)
    monkeypatch.setattr("tasks.progress.time_limits", lambda trainer: [timer])
    [(_, line)], _ = fit.run()
    assert line.startswith(start)


def test_without_any_number_of_steps_the_time_alone_is_said(monkeypatch):
    fit = Simulated(lambda number: 0.5)
    monkeypatch.setattr("tasks.progress.time_limits", lambda trainer: [SimpleNamespace(time_remaining=lambda: 600.0)])
    pace, fit.trainer.max_epochs = Pace(clock=lambda: fit.now), -1
    pace.on_train_start(fit.trainer, fit.module)
    for _ in range(30):
        fit.now += 0.5
        fit.trainer.global_step += 1
        pace.on_train_batch_end(fit.trainer, fit.module)
    assert fit.lines == [(15, "about 10 minutes, as --time says: some 1,200 more steps, 0.5 s each")]


def test_of_several_runs_the_time_of_all_is_said():
    [(_, line)], _ = Simulated(lambda number: 0.5, batches=0).run(runs=6.0)
    assert line.endswith("; with the runs that follow about 10 minutes")


def test_a_log_has_a_line_for_each_epoch_and_no_control_codes(tmp_path, capsys):
    torch.manual_seed(0)
    losses, pace = [], Pace()

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            losses.append(float(outputs["loss"]) * 2)

    lines = EpochLines("val/figure", pace)
    given = {"max_epochs": 4, "limit_train_batches": 4, "limit_val_batches": 1, "check_val_every_n_epoch": 2}
    given |= {"accumulate_grad_batches": 2, "enable_progress_bar": True}
    training = trainer(tmp_path, callbacks=[pace, lines, Losses()], **given)
    training.fit(Module(), BoringDataModule())
    training.validate(Module(), BoringDataModule(), verbose=False)
    output = capsys.readouterr().out
    assert not re.search(r"[\r\x1b]", output)
    rows = [re.split("  +", line) for line in output.splitlines()]
    assert [row[0] for row in rows] == [f"epoch {number}/4" for number in (1, 2, 3, 4)]
    means = [sum(losses[start : start + 4]) / 4 for start in range(0, 16, 4)]
    assert [row[1] for row in rows] == [f"loss {mean:.3f}" for mean in means]
    assert [row[2] for row in rows][1::2] == ["val/figure 0.125", "val/figure 0.375"]
    assert not any("val/figure" in word for row in rows[::2] for word in row)


@pytest.mark.parametrize("make", [lambda pace: Bar(), lambda pace: EpochLines("val/figure", pace), None])
def test_the_time_is_said_once_beside_a_bar_and_among_lines_and_not_where_all_is_silent(
    tmp_path, monkeypatch, capsys, make
):
    monkeypatch.setattr("tasks.progress._SECONDS", 0.0)
    pace = Pace()
    given = {"max_epochs": 3, "limit_train_batches": 10, "enable_progress_bar": bool(make)}
    trainer(tmp_path, callbacks=[pace, *([make(pace)] if make else [])], **given).fit(Module(), BoringDataModule())
    assert re.findall(r"about \d+ seconds?: (.*), \S+ s each", capsys.readouterr().out) == (
        ["3 epochs of 10 steps"] if make else []
    )


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bar), (False, EpochLines)])
def test_a_terminal_alone_has_a_bar(monkeypatch, terminal, kind):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert type(progress_bar("val/figure", Pace())) is kind
