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


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.classification --help`."""
    return commands.main("classification", tasks.classification.__doc__ or "", _classes, PREDICT, args)


if __name__ == "__main__":
    sys.exit(main())
