"""Training and evaluation of face embeddings: wiring only."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from backbone import InputError
from backbone.errors import check_options
from tasks import steps
from tasks.distillation.lessons import NOT_COMPARED, Lessons, at_hand, check_lessons, count_answers
from tasks.distillation.losses import cosine, squared_error
from tasks.distillation.teachers import Teacher
from tasks.face_embeddings.metrics import evaluate, pairs_among
from tasks.face_embeddings.report import write_report
from tasks.face_embeddings.teacher import TeacherOption, load_embedder, size_kept, teacher_of_the_sample
from tasks.optim import asked_optimizer, check_training, train_unfrozen
from tasks.pooled import PooledClassifier
from tasks.trunk import build_trunk


class FaceEmbeddingsModule(LightningModule):
    """A net that learns a teacher's embedding of a face, and its evaluation on pairs of faces.

    What it answers is brought to length 1 where it is used. Where the teacher's embedding has another number of
    numbers, a linear layer between the two is learned as well, and left behind with the training.

    Args:
        categories: None; the data say it.
        input_size: (height, width) in pixels; the data say it.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start the trunk from: timm's, Keras', Hugging Face's, or a checkpoint of this project.
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        embedding_size: How many numbers an embedding has; FaceNet's has 128.
        teacher: Whose embedding is learned: a checkpoint (x.ckpt; of a classifier the features that its head sees), a
            program (x.pt, x.pt2), "package.module:function", or a mapping of `source`, as "timm:NAME", and `weights`,
            `mean`, `std`, `image_size`, `output`. On the built-in sample by default the newest run of face_attributes.
        teacher_size: How many numbers its embedding has; it is asked.
        distance: From the teacher's embedding of length 1: squared error, the paper's, or one less the cosine.
        cache: Folder to keep the teacher's answers in; needs --data.views.
        cache_only: Take all answers from the cache; the teacher, where it can be loaded, is to be the cache's own.
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Learning rate at its height.
        weight_decay: Never on norms, biases and depthwise filters; the paper needs none with a teacher.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.

    """

    monitor = "val/cosine"
    headline = {"verification_accuracy": "verification accuracy", "cosine": "mean cosine to the teacher"}  # noqa: RUF012

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        embedding_size: int = 128,
        teacher: TeacherOption = None,
        teacher_size: int | None = None,
        distance: Literal["squared_error", "cosine"] = "squared_error",
        cache: str | None = None,
        cache_only: bool = False,
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        trunk_lr_mult: float = 1.0,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_options("model", ("embedding_size", embedding_size, embedding_size >= 2, "2 or more"))
        check_training(self.hparams)
        if cache_only:  # the teacher is not there in validation either
            self.monitor = "val/verification_accuracy"
        trunk, _ = build_trunk(self.hparams)
        self.model = PooledClassifier(trunk, embedding_size)
        self.model.to(memory_format=torch.channels_last)
        self.projector: nn.Module = nn.Identity()
        if teacher_size is not None:
            self._project(teacher_size)
        self.threshold: float | None = None  # squared distance up to which a pair is of one person; in the checkpoint
        self._teacher: Teacher | None = None
        self._lessons: Lessons | None = None
        self._found: dict[int, tuple[np.ndarray, ...]] = {}  # by position in the split; see validation_step
        self._wanted: dict[int, np.ndarray] = {}  # of the validation images, by position
        self.train()

    _data = property(steps.datamodule_of)

    def _project(self, teacher_size: int) -> None:
        """Go on from the embedding to the teacher's, where it has another size."""
        self.hparams["teacher_size"] = teacher_size
        if teacher_size != self.hparams["embedding_size"]:
            self.projector = projector = nn.Linear(self.hparams["embedding_size"], teacher_size)
            # Of the run's seed alone: whether a teacher was loaded before, which draws numbers too, changes nothing.
            own = torch.Generator().manual_seed(torch.initial_seed())
            nn.init.trunc_normal_(projector.weight, std=self.hparams["embedding_size"] ** -0.5, generator=own)
            nn.init.zeros_(projector.bias)

    def prepare_fit(self, data: Any) -> None:
        """Load the teacher, and find what contradicts the data, before anything is written. Raises InputError."""
        asked = self.hparams
        if asked["teacher"] is None and not asked["cache_only"]:
            if data.hparams["root"] is not None:
                raise InputError(
                    "there is no --model.teacher to learn embeddings from; name one: a checkpoint, a program (.pt, "
                    ".pt2) or package.module:function."
                )
            runs = "runs" if self._trainer is None else self._trainer.default_root_dir
            asked["teacher"] = teacher_of_the_sample(Path(runs))
            print(f"teacher: {asked['teacher']}, the newest net of face attributes")
        check_lessons({**asked, "teacher_weight": 1.0, "mixup_alpha": 0.0}, data.hparams["views"])
        if asked["cache_only"]:
            if data.pairs("val") is None:
                raise InputError(
                    "--model.cache_only leaves nothing to choose the best epoch by, as there are no validation pairs "
                    "and the teacher is not asked; leave it out."
                )
            size = size_kept(asked["cache"])
        else:
            self._teacher = load_embedder(asked["teacher"])
            size = count_answers(self._teacher, data.input_size)
        if asked["teacher_size"] is None:
            self._project(size)
        elif asked["teacher_size"] != size:
            raise InputError(
                f"--model.teacher_size is {asked['teacher_size']}, but the teacher's embedding has {size} numbers; go "
                "on with the teacher that the run began with."
            )

    def setup(self, stage: str) -> None:
        """Load the teacher, where the command has not."""
        if stage != "fit" or self._teacher is not None:
            return
        if self.hparams["teacher_size"] is None:  # the average of the weights is made by now, without a projector
            raise RuntimeError("call data.setup('fit') and module.prepare_fit(data) before Trainer.fit")
        self.prepare_fit(self._data)

    def on_fit_start(self) -> None:
        """Fill the teacher's cache."""
        self._wanted = {}
        asked, teacher = self.hparams, self._teacher
        cache = {name: asked[name] for name in ("cache", "cache_only")}
        if asked["cache_only"] and asked["teacher"] is not None:
            teacher = at_hand(lambda: load_embedder(asked["teacher"]), NOT_COMPARED)
        self._lessons = Lessons(teacher, asked["teacher_size"], self._data, self.device, **cache)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; 0 where no image of it could be read."""
        if not steps.any_readable(self, batch):
            return steps.no_loss(self)
        assert self._lessons is not None  # since on_fit_start
        images = batch["images"]
        answers, wanted = self._answers(self.model(images)), self._lessons(batch, images)
        if self.hparams["distance"] == "cosine":
            loss = cosine(answers, wanted)
        else:
            loss = squared_error(answers, wanted, unit_teacher=True)
        return steps.log_loss(self, loss, batch)

    def _answers(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, D) in the teacher's space, float32 (B, T)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.projector(embeddings.float())

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep the embeddings of the batch's images and, where the teacher is at hand, both nets' in its space."""
        if not steps.any_readable(self, batch):
            return
        embeddings = self.model(batch["images"])
        kept = [embeddings.float()]
        positions = batch["positions"].tolist()
        if self._teacher is not None:
            kept += [self._answers(embeddings), self._of_teacher(batch)]
            if kept[1].shape != kept[2].shape:
                raise InputError(
                    f"the teacher's embedding has {kept[2].shape[1]} numbers, but this net learned one of "
                    f"{kept[1].shape[1]}; give the --model.teacher that it learned from."
                )
        self._found.update(zip(positions, zip(*(part.cpu().numpy() for part in kept), strict=True), strict=True))

    test_step = validation_step

    def _of_teacher(self, batch: dict[str, Any]) -> Tensor:
        """Its embeddings (B, T) of a batch; in `fit` it is asked once, as the images are the same in every epoch."""
        assert self._teacher is not None  # asked by validation_step
        positions = batch["positions"].tolist()
        if self.trainer.state.fn != "fit":  # other images may be at these positions
            return self._teacher(batch["images"], steps.files_of(self, batch))
        if any(position not in self._wanted for position in positions):
            answers = self._teacher(batch["images"], steps.files_of(self, batch))
            self._wanted.update(zip(positions, answers.cpu().numpy(), strict=True))
            return answers
        return torch.from_numpy(np.stack([self._wanted[position] for position in positions]))

    def on_validation_start(self) -> None:
        """Load the teacher for a comparison, where it is at hand."""
        if self._teacher is None and self.trainer.state.fn != "fit" and self.hparams["teacher"] is not None:
            asked = self.hparams["teacher"]
            self._teacher = at_hand(lambda: load_embedder(asked), "without the teacher's figures")
        if self._teacher is not None:
            self._teacher.to(self.device)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Score the validation images, and choose the threshold on their pairs."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test images."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log the figures; outside `fit`, write metrics, tables and pictures into the run folder too."""
        found, self._found = steps.gather_answers(self._found, split), {}
        positions = list(found)
        embeddings, *both = (np.stack(part) for part in zip(*found.values(), strict=True))
        listed = self._data.pairs(split)
        pairs = None if listed is None else pairs_among(listed, positions)
        scores = evaluate(embeddings, pairs, *both)
        figures = scores.figures
        if listed is not None and pairs is not None and len(pairs.same) < len(listed.same):
            figures["pairs_left_out"] = float(len(listed.same) - len(pairs.same))
        if split == "val":
            best = None if scores.student is None else scores.student.best_threshold
            self.threshold = best if best is not None and np.isfinite(best) else None
        steps.log_figures(self, split, figures)
        if (folder := steps.report_folder(self)) is None:
            return
        write_report(
            folder,
            split=split,
            scores=scores,
            files=[self._data.file(split, position) for position in positions],
            open_image=lambda i: self._data.photograph(split, positions[i]),
        )

    train = train_unfrozen
    configure_optimizers = asked_optimizer
    configure_callbacks = steps.common_callbacks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, and keep the threshold."""
        checkpoint["task"] = "face_embeddings"
        checkpoint["threshold"] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the threshold that was chosen with these weights."""
        self.threshold = checkpoint["threshold"]
