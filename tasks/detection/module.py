"""The detector's LightningModule: its options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from backbone import InputError, read_pretrained
from backbone.pretrained import read_detector
from data.folders import say
from tasks.detection.head import DetectionHead
from tasks.detection.pretrained import categories_of, detector_of, load_detector, loss_of
from tasks.module import TRUNK_OPTIONS, TaskModule


class DetectionModule(TaskModule):
    """An SSD, trained and scored as COCO does.

    Args:
        categories: Original id to name; the data say it.
        input_size: (height, width) in pixels; the data say it.
        head: The paper's 1x1 predictors, or MobileNetV2's depthwise separable ones; pretrained is the detector that
            comes with `weights`, as it is. `test --weights` without a checkpoint is so.
        loss: Softmax with hard-negative mining (the paper's), or sigmoid focal loss.
        class_agnostic: Suppress overlapping boxes over all classes, not by class.
        class_weights: balanced gives each class equal weight in the loss, by the numbers of its boxes.
        weight_decay: Never on norms, biases and depthwise filters.

    """

    task = "detection"
    shape_options = (*TRUNK_OPTIONS, "head", "loss")
    head: DetectionHead

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        head: Literal["ssd", "ssdlite", "pretrained"] = "ssd",
        loss: Literal["multibox", "focal"] = "multibox",
        class_agnostic: bool = False,
        class_weights: Literal["none", "balanced"] = "none",
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(weight_decay=weight_decay, **options)
        size, whole = (input_size[0], input_size[1]), head == "pretrained"
        network = DetectionHead(
            self.trunk.channels,
            categories,
            size,
            design="ssdlite" if head == "ssdlite" else "ssd",
            loss=loss,
            class_agnostic=class_agnostic,
            weighted=class_weights == "balanced",
        )
        if pretrained := read_detector(self.hparams["weights"]):
            if head != "ssdlite":
                if line := load_detector(network, pretrained, whole=whole):
                    say(line)
            else:
                say(f"taken: trunk; new: extras, boxes and classes, as {pretrained.source} has ssd heads, not {head}")
        self.attach(network)

    def setup(self, stage: str) -> None:
        """Also say where a detector as it came is scored on images that it has probably been trained on."""
        super().setup(stage)
        if self.hparams["head"] == "pretrained":
            split = "test" if stage == "test" else "val"
            if any("train201" in self.data.file(split, position) for position in range(len(self.data.records(split)))):
                say("note: these look like COCO's training images, which a detector of COCO's has seen")

    @classmethod
    def as_it_comes(cls, weights: str | Path) -> Self:
        """Another project's detector with all its classes. InputError where the weights have none."""
        detector = detector_of(read_pretrained(weights))
        classes, size = categories_of(detector), detector.image_size
        return cls(classes, size, head="pretrained", loss=loss_of(detector), weights=str(weights))

    def to_export(self) -> Self:
        """Of a detector as it comes that with all its classes, not the data's alone."""
        if self.hparams["head"] != "pretrained" or not self.hparams["weights"]:
            return self
        whole = self.as_it_comes(self.hparams["weights"])
        whole.head.class_agnostic = self.head.class_agnostic
        return whole

    @classmethod
    def is_whole(cls, model: Mapping[str, Any]) -> bool:
        """Weights of another project may bring their own detector along, unless a config asks for a new head."""
        return model.get("head", "pretrained") == "pretrained" and read_detector(model.get("weights")) is not None

    @classmethod
    def resolve(cls, command: str, model: dict[str, Any], data: dict[str, Any], runs: Path) -> None:
        """Also: a whole detector is scored as it is, at the image size it was trained at."""
        if command != "fit" and cls.is_whole(model):
            detector = detector_of(read_pretrained(model["weights"]))
            model.update(head="pretrained", loss=loss_of(detector))
            data.setdefault("image_size", list(detector.image_size))
        elif model.get("head") == "pretrained":
            raise InputError(
                "--model.head pretrained is the detector of --weights as it is, for validate, test and predict; "
                "`fit` takes its parts by itself, with --model.head ssd."
            )
        super().resolve(command, model, data, runs)
