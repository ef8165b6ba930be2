"""The classifier's LightningModule: its options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backbone import InputError, read_pretrained
from backbone.errors import check_options
from backbone.timm_trunk import TimmTrunk
from backbone.trunk import timm_classifier
from tasks.classification.head import ClassificationHead
from tasks.distillation.module import DistilledLogitsModule
from tasks.mixing import mix
from tasks.module import TRUNK_OPTIONS


class ClassificationModule(DistilledLogitsModule):
    """A classifier, trained on labels, on a teacher's logits or on both.

    Args:
        categories: Label to name; the data say it.
        input_size: (height, width) in pixels; the data say it.
        head: A new one for the data's classes, or the 1,000-way ImageNet classifier that comes with `weights`; the
            data's classes are then found among ImageNet's by name. `test --weights` without a checkpoint is so.
        dropout: Of the pooled features.
        label_smoothing: Part of each label that all classes share; not of a teacher's targets.
        class_weights: balanced gives each class equal weight in the labels' loss, by the numbers of its images.
        lr: Peak learning rate.
        weight_decay: Never on norms, biases and depthwise filters.

    """

    task = "classification"
    kind = "softmax"
    shape_options = (*TRUNK_OPTIONS, "head")
    seen_as_trained = ("image_size", "central_fraction", "interpolation")
    head: ClassificationHead

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        head: Literal["new", "imagenet"] = "new",
        dropout: float = 0.2,
        label_smoothing: float = 0.1,
        class_weights: Literal["none", "balanced"] = "none",
        lr: float = 0.001,
        weight_decay: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, **options)
        names, of_imagenet = tuple(categories.values()), head == "imagenet"
        weights, is_timm = self.hparams["weights"], isinstance(self.trunk, TimmTrunk)
        network = ClassificationHead(
            self.trunk.channels,
            names,
            imagenet_classes=of_imagenet,
            dropout=dropout,
            label_smoothing=label_smoothing,
            weighted=class_weights == "balanced",
            layers=timm_classifier(self.trunk, weights) if of_imagenet and is_timm else None,
        )
        if of_imagenet and not is_timm and weights:
            network.load_classifier(read_pretrained(weights))
        self.attach(network)

    def prepare(self, data: Any) -> None:
        """Also see that what weighs the labels is not given where a teacher alone is learnt from."""
        given, rule = self.hparams["class_weights"], "none where --model.teacher_weight is 1, as labels are not used"
        check_options("model", ("class_weights", given, given == "none" or self.teacher_weight < 1, rule))
        super().prepare(data)

    @classmethod
    def is_whole(cls, model: Mapping[str, Any]) -> bool:
        """Weights of another project bring their own classifier along, unless a config asks for a new one."""
        return bool(model.get("weights")) and model.get("head", "imagenet") == "imagenet"

    @classmethod
    def resolve(cls, command: str, model: dict[str, Any], data: dict[str, Any], runs: Path) -> None:
        """Also: a whole classifier is scored as it is; it sees images as it was trained to."""
        if command != "fit" and cls.is_whole(model):
            model["head"] = "imagenet"
        if model.get("head") == "imagenet" and not model.get("weights") and not model.get("numerics"):
            raise InputError("--model.head imagenet takes the classifier of --weights; name a file that has one.")
        super().resolve(command, model, data, runs)
        if command != "fit" and cls.is_whole(model):
            cls.see_as_trained(model, data)

    def mix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Mix images, and their labels alike."""
        alphas = self.hparams["mixup_alpha"], self.hparams["cutmix_alpha"]
        images, targets = mix(batch["images"], self.head.targets(batch), len(self.head.names), *alphas)
        return {**batch, "images": images, "targets": targets}
