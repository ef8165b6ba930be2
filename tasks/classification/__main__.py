"""`python -m tasks.classification`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.classification
from tasks import commands
from tasks.classification.predict import PREDICT


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
    return commands.main("classification", tasks.classification.__doc__ or "", _classes, PREDICT, args, check=_check)


if __name__ == "__main__":
    sys.exit(main())
