"""`python -m tasks.detection`."""

import sys
from collections.abc import Sequence

import tasks.detection
from tasks.commands import dispatch


def _train(args: list[str]) -> int:
    from data.coco import CocoDataModule
    from tasks.cli import run
    from tasks.detection.module import DetectionModule

    return run("detection", DetectionModule, CocoDataModule, args)


def _predict(args: list[str]) -> int:
    from tasks.detection.predict import main

    return main(args)


def _evaluate(args: list[str]) -> int:
    from tasks.detection.evaluate import main

    return main(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.detection --help`."""
    commands = {
        "fit": ("train; with no further argument, on the built-in sample", lambda rest: _train(["fit", *rest])),
        "validate": ("score a checkpoint on the validation images", lambda rest: _train(["validate", *rest])),
        "test": ("score a checkpoint on the test images, with pictures", lambda rest: _train(["test", *rest])),
        "predict": ("detect in any picture or folder of pictures", _predict),
        "evaluate": ("score any COCO results file, from any detector", _evaluate),
    }
    return dispatch("python -m tasks.detection", tasks.detection.__doc__ or "", commands, args)


if __name__ == "__main__":
    sys.exit(main())
