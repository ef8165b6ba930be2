"""`python -m tasks.detection`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.detection
from tasks import commands
from tasks.detection.evaluate import main as evaluate
from tasks.detection.predict import PREDICT
from tasks.short_options import TaskHelp

_HELP = TaskHelp(
    "DIR holds images with boxes as YOLO, COCO, Pascal VOC or a CSV has them, or is their data.yaml, JSON or CSV. "
    "`check --data DIR` shows how it is read.",
    {
        "model.head ssd|ssdlite": "the paper's predictors, or MobileNetV2's smaller ones",
        "model.loss multibox|focal": "hard-negative mining, or the focal loss",
        "data.crop_probability P": "part of the training images that zoom in (default: 0.85)",
    },
    ("fit", "fit --data DIR --weights coco --epochs 50 --batch 16", "fit --resume"),
)


def _classes() -> tuple[Any, Any]:
    from data.detection import DetectionDataModule
    from tasks.detection.module import DetectionModule

    return DetectionModule, DetectionDataModule


def _check(args: list[str]) -> int:
    from data.layouts import read_boxes
    from tasks.check import main

    return main("detection", read_boxes, args, sample="detection", test_fraction=0.0)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.detection --help`."""
    more = {"evaluate": ("score any COCO results file, from any detector", evaluate)}
    return commands.main(
        "detection", tasks.detection.__doc__ or "", _classes, PREDICT, args, more, check=_check, of_task=_HELP
    )


if __name__ == "__main__":
    sys.exit(main())
