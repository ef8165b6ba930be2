"""Training and evaluation of the classifier: wiring only."""

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from backbone import InputError, normalize
from data import imagenet
from tasks import steps
from tasks.classification.loss import cross_entropy
from tasks.classification.metrics import compare, evaluate, fit_temperature
from tasks.classification.model import load_classifier
from tasks.classification.report import write_report
from tasks.distillation.lessons import Distiller, TeacherOption
from tasks.mixing import drawing, mix
from tasks.optim import asked_optimizer, check_training, freeze, total_steps
from tasks.pooled import PooledClassifier
from tasks.trunk import build_trunk


class ClassificationModule(LightningModule):
    """A classifier, taught by labels, by a teacher or by both, and its evaluation.

    Args:
        categories: Label to name; the data say it.
        input_size: (height, width) in pixels; the data say it.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start the trunk from: timm's, Keras', Hugging Face's, or a checkpoint of this project.
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        head: A new one for the data's classes, or the 1,000-way ImageNet classifier that comes with `weights`; the
            data's classes are then found among ImageNet's by name. `test --model.weights` without a checkpoint is so.
        dropout: Of the pooled features.
        label_smoothing: Part of each label that all classes share; not of a teacher's answers.
        teacher: What answers: a checkpoint (x.ckpt), "torchvision:NAME" or "timm:NAME" in a list with `weights`, a
            program (x.pt, x.pt2), "package.module:function", or a list of several with shares. None: labels alone. Its
            classes are found by name, or by `names` given in a list.
        teacher_weight: The teacher's part of the loss; the rest is the labels'. At 1, the default with a teacher, no
            label is looked at.
        temperature: Softens both sides of the teacher's loss.
        distance: From the teacher: divergence of the classes' probabilities, or squared error of the logits.
        cache: Folder to keep the teacher's answers in; needs --data.views.
        cache_only: Take all answers from the cache; the teacher, where it can be loaded, is to be the cache's own.
        mixup_alpha: Blend images, for student and teacher alike, and labels by a part drawn from Beta(alpha, alpha).
        cutmix_alpha: The same with rectangles; where both are given they take turns.
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Learning rate at its height.
        weight_decay: Never on norms, biases and depthwise filters.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        head_steps: Steps at the start in which the head alone learns; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        layer_decay: Each block's rate as a multiple of the next one's; 1 gives all the same.
        freeze_norms: Keep the norms' statistics as `weights` have them, for small data or small batches.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.

    """

    output_of_label: Tensor  # the data's labels as the head counts them
    monitor = "val/top1"
    headline = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"}  # noqa: RUF012

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        head: Literal["new", "imagenet"] = "new",
        dropout: float = 0.2,
        label_smoothing: float = 0.1,
        teacher: TeacherOption = None,
        teacher_weight: float | None = None,
        temperature: float = 1.0,
        distance: Literal["kl", "mse_logits"] = "kl",
        cache: str | None = None,
        cache_only: bool = False,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.001,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        head_steps: int = 0,
        trunk_lr_mult: float = 1.0,
        layer_decay: float = 1.0,
        freeze_norms: bool = False,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_training(self.hparams)
        trunk, pretrained = build_trunk(self.hparams)
        names = tuple(categories.values())
        self.class_names = imagenet.class_names() if head == "imagenet" else names  # of the head's outputs
        self.distiller = Distiller(self.hparams, self.class_names, "softmax")
        self.model = PooledClassifier(trunk, len(self.class_names), dropout)
        if head == "imagenet" and numerics is None:
            load_classifier(self.model, pretrained, weights)
        self.model.to(memory_format=torch.channels_last)
        outputs = _among_imagenet(names) if head == "imagenet" else range(len(names))
        self.register_buffer("output_of_label", torch.tensor(outputs), persistent=False)
        self.temperature: float | None = (
            None  # of calibration, not the teacher's; fitted on the validation images; travels in the checkpoint
        )
        self._head_steps: int | None = None  # known when the run's length is, and then kept by its checkpoints
        self._found: dict[int, np.ndarray] = {}  # logits by position in the split, and the teacher's beneath them
        self.train()

    _data = property(steps.datamodule_of)

    def prepare_fit(self, data: Any) -> None:
        """Load the teacher, and find what contradicts the data, before anything is written. Raises InputError."""
        self.distiller.prepare(data.hparams["views"])

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
        asked, model = self.hparams, self.model
        labels = self.output_of_label[batch["labels"]]
        with drawing(self, batch_idx):
            images, targets = mix(
                batch["images"], labels, len(self.class_names), asked["mixup_alpha"], asked["cutmix_alpha"]
            )
            # Not by requires_grad: DistributedDataParallel would never synchronise what it was wrapped without.
            with torch.set_grad_enabled(not (self._head_alone() and self.trainer.world_size == 1)):
                features = model.pool(normalize(images, model.trunk.preprocessing))
            logits = model.classify(features)
        loss, parts = self.distiller.weigh(
            batch, images, logits, lambda: cross_entropy(logits, targets, asked["label_smoothing"])
        )
        return steps.log_loss(self, loss, batch, parts if self.distiller.teaches else {})

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep the logits of the batch's images, and outside `fit` the teacher's."""
        if steps.any_readable(self, batch):
            logits, files = self.model(batch["images"]), steps.files_of(self, batch)
            both = self.distiller.beside(batch["images"], logits, files)  # (B, 1 or 2, outputs)
            self._found.update(zip(batch["positions"].tolist(), both, strict=True))

    test_step = validation_step

    def on_validation_start(self) -> None:
        """Load the teacher for a comparison, where it is at hand."""
        if self.trainer.state.fn != "fit":
            self.distiller.compare(self.device)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Score the validation images, and fit the temperature on them."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test images."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log the figures; outside `fit`, write metrics, tables and pictures into the run folder too."""
        found, self._found = steps.gather_answers(self._found, split), {}
        positions = list(found)
        both = np.stack(list(found.values()))  # (N, 1 or 2, outputs)
        logits = both[:, 0]
        labels = self.output_of_label.cpu().numpy()[self._data.labels(split, positions)]  # (N,)
        if split == "val":
            self.temperature = fit_temperature(logits, labels)
        scores = evaluate(logits, labels, self.temperature or 1.0)
        if self.temperature is None:  # another project's classifier, for which none was fitted
            scores.figures.update(dict.fromkeys(("temperature", "nll_calibrated", "ece_calibrated"), float("nan")))
        if both.shape[1] == 2:
            scores.figures.update(compare(logits, both[:, 1], labels))
        steps.log_figures(self, split, scores.figures)
        if (folder := steps.report_folder(self)) is None:
            return
        overlap, pretrained = self._data.imagenet_overlap(split), self.hparams["imagenet_pretrained"]
        if overlap and pretrained:
            print(
                f"imagenet_overlap {overlap:.2f}: that part of the {split} images is ImageNet's own, which pretrained "
                "weights may have seen"
            )
        write_report(
            folder,
            split=split,
            scores=scores,
            logits=logits,
            labels=labels,
            class_names=self.class_names,
            files=[self._data.file(split, position) for position in positions],
            open_image=lambda i: self._data.photograph(split, positions[i]),
            extra={
                "imagenet_overlap": overlap,
                "imagenet_pretrained": float(pretrained),
                "temperature_fitted_on_these": float(split == "val" or self._data.tests_on_validation),
            },
        )

    def _head_alone(self) -> bool:
        return self.global_step < (self._head_steps or 0)

    def train(self, mode: bool = True) -> "ClassificationModule":
        """Set the mode of all but a trunk that is frozen or waits, and norms that keep their statistics."""
        super().train(mode)
        if self.hparams["trunk_lr_mult"] == 0:
            freeze(self.model.trunk)
        elif self._trainer is not None and self._head_alone():
            self.model.trunk.eval()
        elif self.hparams["freeze_norms"]:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the trunk join in when the head has warmed up."""
        if self._head_steps and self.model.trunk.training == self._head_alone():
            self.train()

    def configure_optimizers(self) -> Any:
        """Warm up, then follow a cosine to 0 at the last step of the run."""
        asked = self.hparams
        if self._head_steps is None:  # a resumed run, of another length maybe, has it from its checkpoint
            at_most = total_steps(self.trainer) // 5
            self._head_steps = min(asked["head_steps"], at_most) if asked["trunk_lr_mult"] > 0 else 0
        return asked_optimizer(self, asked["layer_decay"], self._head_steps)

    configure_callbacks = steps.common_callbacks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, and keep the temperature and how long the head was alone."""
        checkpoint["task"] = "classification"
        checkpoint["temperature"] = self.temperature
        checkpoint["head_steps"] = self._head_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what was found with these weights."""
        self.temperature = checkpoint["temperature"]
        self._head_steps = checkpoint["head_steps"]
        self.hparams["imagenet_pretrained"] = checkpoint["hyper_parameters"]["imagenet_pretrained"]


def _among_imagenet(names: tuple[str, ...]) -> list[int]:
    """Each class's label among ImageNet's 1,000. Raises InputError for a name that is not among them, or twice."""
    found = imagenet.find_classes(names)
    for i, (name, label) in enumerate(zip(names, found, strict=True)):
        if label is None:
            raise InputError(
                f"the class {name!r} of the data is none of ImageNet's 1,000; name its folder as ImageNet does, as "
                "beagle or n02088364-beagle (an id alone is known where all 1,000 are there), or train a head of your "
                "own with `fit`."
            )
        if label in found[:i]:
            raise InputError(
                f"the classes {names[found.index(label)]!r} and {name!r} of the data are one class of ImageNet, "
                f"{imagenet.class_names()[label]!r}; put their pictures into one folder."
            )
    return [label for label in found if label is not None]
