"""Training and evaluation of face attributes: wiring only."""

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from backbone import InputError
from data.folders import say
from tasks import steps
from tasks.distillation.lessons import Distiller, TeacherOption
from tasks.distillation.losses import masked_bce
from tasks.face_attributes.metrics import by_subgroup, choose_thresholds, evaluate
from tasks.face_attributes.origins import Origin, find_origins, licences, origin_of, told, unique
from tasks.face_attributes.report import write_model_card, write_report
from tasks.mixing import drawing, mix
from tasks.optim import asked_optimizer, check_training, train_unfrozen
from tasks.pooled import PooledClassifier
from tasks.trunk import build_trunk


class FaceAttributesModule(LightningModule):
    """A net of K attributes, taught by labels, by a teacher or by both, and its evaluation.

    Args:
        categories: Number to name of the attributes; the data say it.
        input_size: (height, width) in pixels; the data say it.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start the trunk from: timm's, Keras', Hugging Face's, or a checkpoint of this project.
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        dropout: Of the pooled features; the paper needs no regularisation where a teacher answers.
        teacher: What answers: a checkpoint (x.ckpt), "torchvision:NAME" or "timm:NAME" in a list with `weights`, a
            program (x.pt, x.pt2), "package.module:function", or a list of several with shares. None: labels alone.
        teacher_weight: The teacher's part of the loss; the rest is the labels'. At 1, the default with a teacher, no
            label is looked at.
        temperature: Softens both sides of the teacher's loss.
        distance: From the teacher: divergence of each attribute's probability, or squared error of the logits.
        cache: Folder to keep the teacher's answers in; needs --data.views.
        cache_only: Take all answers from the cache; the teacher, where it can be loaded, is to be the cache's own.
        mixup_alpha: Blend pictures, for student and teacher alike, by a part drawn from Beta(alpha, alpha).
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Learning rate at its height.
        weight_decay: Never on norms, biases and depthwise filters; the paper needs none with a teacher.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.

    """

    monitor = "val/map"
    headline = {"map": "mean AP", "balanced_accuracy": "balanced accuracy"}  # noqa: RUF012

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        dropout: float = 0.0,
        teacher: TeacherOption = None,
        teacher_weight: float | None = None,
        temperature: float = 1.0,
        distance: Literal["kl", "mse_logits"] = "kl",
        cache: str | None = None,
        cache_only: bool = False,
        mixup_alpha: float = 0.0,
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        trunk_lr_mult: float = 1.0,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_training(self.hparams)
        self.names = tuple(categories.values())
        self.distiller = Distiller(self.hparams, self.names, "sigmoid")
        if mixup_alpha > 0 and self.distiller.weight < 1:
            raise InputError(
                f"--model.mixup_alpha is {mixup_alpha}, but labels of blended faces mean nothing; it needs a "
                "--model.teacher and --model.teacher_weight 1."
            )
        trunk, _ = build_trunk(self.hparams)
        self.model = PooledClassifier(trunk, len(self.names), dropout)
        self.model.to(memory_format=torch.channels_last)
        self.thresholds = np.full(len(self.names), 0.5)  # of probability; chosen on validation, in the checkpoint
        self.origins: list[Origin] = []  # what it was trained on; in the checkpoint, as it may be tested on other data
        self.taught_by: list[str] = []  # whose answers it learned; a test may compare it with another teacher
        self._found: dict[int, np.ndarray] = {}  # logits by position in the split, and the teacher's beneath them
        self.train()

    _data = property(steps.datamodule_of)

    def prepare_fit(self, data: Any) -> None:
        """Load the teacher, and find what contradicts the data, before anything is written. Raises InputError."""
        if not self.distiller.teaches:
            data.need_labels("without a --model.teacher")
        elif self.distiller.weight < 1:
            data.need_labels(f"with --model.teacher_weight {self.distiller.weight}")
        self.distiller.prepare(data.hparams["views"])
        self.origins = unique([*self.origins, *find_origins(data, self.hparams)])
        if self.distiller.weight > 0:
            teacher = self.hparams["teacher"] or f"whoever gave the answers kept in {self.hparams['cache']}"
            self.taught_by = list(dict.fromkeys([*self.taught_by, str(teacher)]))

    def setup(self, stage: str) -> None:
        """Prepare, where the command has not."""
        if stage == "fit":
            self.prepare_fit(self._data)

    def on_fit_start(self) -> None:
        """Fill the teacher's cache."""
        self.distiller.start(self._data, self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; 0 where no image of it could be read."""
        if not steps.any_readable(self, batch):
            return steps.no_loss(self)
        images = batch["images"]
        with drawing(self, batch_idx):
            if self.hparams["mixup_alpha"] > 0:  # for the teacher alone, so of labels there is one for all
                alike = torch.zeros(len(images), dtype=torch.int64, device=images.device)
                images, _ = mix(images, alike, 1, self.hparams["mixup_alpha"], 0.0)
            logits = self.model(images)
        loss, parts = self.distiller.weigh(batch, images, logits, lambda: masked_bce(logits, batch["targets"]))
        return steps.log_loss(self, loss, batch, parts)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep the logits of the batch's images, and outside `fit` the teacher's."""
        if not steps.any_readable(self, batch):
            return
        logits = self.model(batch["images"])
        both = self.distiller.beside(batch["images"], logits, steps.files_of(self, batch))  # (B, 1 or 2, K)
        self._found.update(zip(batch["positions"].tolist(), both, strict=True))

    test_step = validation_step

    def on_validation_start(self) -> None:
        """Load the teacher for a comparison, where it is at hand."""
        if self.trainer.state.fn != "fit":
            self.distiller.compare(self.device)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Score the validation images, and choose the thresholds on them."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test images."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log the figures; outside `fit`, write metrics, tables, pictures and a model card into the run folder too."""
        found, self._found = steps.gather_answers(self._found, split), {}
        positions = list(found)
        answers = np.stack(list(found.values()))  # (N, 1 or 2, K)
        logits, teacher = answers[:, 0], answers[:, 1] if answers.shape[1] == 2 else None
        targets = self._data.targets(split, positions)
        if split == "val":
            self.thresholds = choose_thresholds(logits, targets)
        scores = evaluate(logits, targets, self.thresholds, teacher)
        steps.log_figures(self, split, scores.figures)
        if self.trainer.state.fn == "fit" and np.isnan(scores.figures["map"]) and not self.trainer.sanity_checking:
            say("no validation image has labels to be scored by: the newest weights are kept as the best")
        if (folder := steps.report_folder(self)) is None:
            return
        asked = self.hparams
        write_report(
            folder,
            split=split,
            scores=scores,
            logits=logits,
            targets=targets,
            attributes=self.names,
            files=[self._data.file(split, position) for position in positions],
            thresholds=self.thresholds,
            open_image=lambda i: self._data.photograph(split, positions[i]),
            teacher=teacher,
        )
        groups = self._data.subgroups(split, positions)
        scored = origin_of(self._data)
        height, width = asked["input_size"]
        write_model_card(
            folder / "model_card.md",
            model=f"A MobileNet of width {asked['width_mult']:g} for pictures of {height} x {width} px.",
            data=f"{told(self.origins)} Scored on {len(positions):,} pictures of {scored['data']}.",
            licence=licences([*self.origins, scored]),
            split=self._data.hparams["test_split"] if split == "test" else split,
            scores=scores,
            attributes=self.names,
            subgroups={name: by_subgroup(logits, targets, has, self.thresholds) for name, has in groups.items()},
            teacher=f"{' and '.join(self.taught_by)}." if self.taught_by else None,
        )

    train = train_unfrozen
    configure_optimizers = asked_optimizer
    configure_callbacks = steps.common_callbacks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, and keep the thresholds and what the net was trained on."""
        checkpoint["task"] = "face_attributes"
        checkpoint["thresholds"] = self.thresholds.tolist()
        checkpoint["origins"] = self.origins
        checkpoint["taught_by"] = self.taught_by

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the thresholds that were chosen with these weights, and what they were trained on."""
        self.thresholds = np.array(checkpoint["thresholds"])
        self.origins = checkpoint.get("origins", [])
        self.taught_by = checkpoint.get("taught_by", [])
