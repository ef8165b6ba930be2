"""Training and evaluation of the detector: wiring only."""

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from tasks import steps
from tasks.detection.anchors import decode
from tasks.detection.loss import focal_loss, multibox_loss
from tasks.detection.matcher import match
from tasks.detection.metrics import Detections, evaluate, to_coco_results
from tasks.detection.model import SSD, set_class_prior
from tasks.detection.postprocess import Boxes, postprocess
from tasks.detection.report import write_report
from tasks.optim import asked_optimizer, check_training, train_unfrozen
from tasks.processes import gather
from tasks.trunk import build_trunk


class DetectionModule(LightningModule):
    """An SSD with its loss, optimizer and COCO evaluation.

    Args:
        categories: Original id to name; the data say it.
        input_size: (height, width) in pixels; the data say it.
        head: The paper's 1x1 predictors, or MobileNetV2's depthwise separable ones.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start the trunk from: timm's, Keras', Hugging Face's, or a checkpoint of this project.
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        loss: Softmax with hard-negative mining (the paper's), or sigmoid focal loss.
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Learning rate at its height.
        weight_decay: Never on norms, biases and depthwise filters.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.
        class_agnostic: Suppress overlapping boxes over all classes, not by class.

    """

    monitor = "val/map"
    headline = {"map": "COCO mAP", "map_50": "AP50   "}  # noqa: RUF012  what the command prints at its end

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        head: Literal["ssd", "ssdlite"] = "ssd",
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        loss: Literal["multibox", "focal"] = "multibox",
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        trunk_lr_mult: float = 1.0,
        ema_decay: float = 0.99,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_training(self.hparams)
        trunk, _ = build_trunk(self.hparams)
        self.category_ids = np.array(list(categories), dtype=np.int64)  # by label
        self.model = SSD(trunk, len(categories) + (loss == "multibox"), head)
        self.model.to(memory_format=torch.channels_last)
        if loss == "focal":
            set_class_prior(self.model, 0.01)
        self._found: dict[int, Detections] = {}
        self.train()

    _data = property(steps.datamodule_of)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; 0 where no image of it could be read."""
        if not steps.any_readable(self, batch):
            return steps.no_loss(self)
        answer = self.model(batch["images"])
        anchors_xyxy = decode(torch.zeros_like(answer.anchors), answer.anchors)
        matches = match(anchors_xyxy, batch["boxes_xyxy"], batch["crowd_xyxy"])
        loss_function = multibox_loss if self.hparams["loss"] == "multibox" else focal_loss
        truth = batch["boxes_xyxy"], batch["labels"]
        losses = loss_function(answer.class_logits, answer.box_codes, answer.anchors, matches, *truth)
        parts = {"train/loss_classes": losses.classes, "train/loss_boxes": losses.boxes}
        return steps.log_loss(self, losses.classes + losses.boxes, batch, parts)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Boxes]:
        """Detect in uint8 (B, 3, H, W) images; boxes in the pixels of photographs of (height, width) `sizes` (B, 2)."""
        return postprocess(
            self.model(images),
            len(self.category_ids),
            (images.shape[-2], images.shape[-1]),
            sizes.tolist(),
            class_agnostic=self.hparams["class_agnostic"],
        )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep what is found in the batch's images."""
        if steps.any_readable(self, batch):
            for image_id, found in zip(batch["image_ids"], self.detect(batch["images"], batch["sizes"]), strict=True):
                boxes, scores, labels = (value.cpu().numpy() for value in found)
                self._found[image_id] = Detections(boxes, scores, self.category_ids[labels])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score the validation images."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test images."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log COCO's figures; outside `fit`, write metrics, tables and pictures into the run folder too."""
        found, self._found = gather(self._found), {}
        results = [row for image_id, boxes in found.items() for row in to_coco_results(image_id, boxes)]
        ground_truth = self._data.ground_truth(split)
        scores = evaluate(ground_truth, results, image_ids=found)
        steps.log_figures(self, split, scores.figures)
        if (folder := steps.report_folder(self)) is not None:
            write_report(
                folder,
                split=split,
                scores=scores,
                ground_truth=ground_truth,
                results=results,
                image_ids=found,
                open_image=lambda image_id: self._data.photograph(split, image_id),
            )

    train = train_unfrozen
    configure_optimizers = asked_optimizer
    configure_callbacks = steps.common_callbacks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is."""
        checkpoint["task"] = "detection"
