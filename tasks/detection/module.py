"""The detector's LightningModule: its options."""

from typing import Any, Literal

from tasks.detection.head import DetectionHead
from tasks.module import TaskModule


class DetectionModule(TaskModule):
    """An SSD, trained and scored as COCO does.

    Args:
        categories: Original id to name; the data say it.
        input_size: (height, width) in pixels; the data say it.
        head: The paper's 1x1 predictors, or MobileNetV2's depthwise separable ones.
        loss: Softmax with hard-negative mining (the paper's), or sigmoid focal loss.
        class_agnostic: Suppress overlapping boxes over all classes, not by class.
        weight_decay: Never on norms, biases and depthwise filters.

    """

    task = "detection"
    shape_options = ("width_mult", "numerics", "head", "loss")
    head: DetectionHead

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        head: Literal["ssd", "ssdlite"] = "ssd",
        loss: Literal["multibox", "focal"] = "multibox",
        class_agnostic: bool = False,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(weight_decay=weight_decay, **options)
        size = input_size[0], input_size[1]
        channels = self.trunk.channels
        self.attach(DetectionHead(channels, categories, size, design=head, loss=loss, class_agnostic=class_agnostic))
