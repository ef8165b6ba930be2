"""`python -m tasks.classification`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.classification
from tasks import commands
from tasks.classification.predict import PREDICT
from tasks.short_options import TaskHelp

_HELP = TaskHelp(
    "DIR holds a folder of images for each class, also below train/, val/ and test/; or it is a CSV of path,label. "
    "`check --data DIR` shows how it is read.",
    {
        "model.mixup_alpha A": "mix pairs of training images (mixup); --model.cutmix_alpha A pastes parts",
        "model.label_smoothing P": "part of each label that all classes share (default: 0.1)",
        "data.min_crop_area P": "smallest part of an image in a training crop; small details need 0.6",
    },
)


def _classes() -> tuple[Any, Any]:
    from data.classification import ClassificationDataModule
    from tasks.classification.module import ClassificationModule

    return ClassificationModule, ClassificationDataModule


def _check(args: list[str]) -> int:
    from data.layouts import read_classes
    from tasks.check import main

    return main("classification", read_classes, args, sample="dogs")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.classification --help`."""
    return commands.main(
        "classification", tasks.classification.__doc__ or "", _classes, PREDICT, args, check=_check, of_task=_HELP
    )


if __name__ == "__main__":
    sys.exit(main())
