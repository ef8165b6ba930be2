"""`python -m tasks.classification`."""

import sys
from collections.abc import Sequence

import tasks.classification
from tasks.commands import dispatch


def _train(args: list[str]) -> int:
    from data.classification import ClassificationDataModule
    from tasks.classification.module import ClassificationModule
    from tasks.cli import run

    given = {arg.split("=")[0] for arg in args}
    # Weights of another project, and no checkpoint: their own classifier is what is to be scored.
    as_it_is = args[0] != "fit" and "--model.weights" in given and "--ckpt_path" not in given
    if as_it_is:
        args = [*args, "--model.head", "imagenet", *_size_of_weights(args, given)]
    return run("classification", ClassificationModule, ClassificationDataModule, args, needs_checkpoint=not as_it_is)


def _size_of_weights(args: list[str], given: set[str]) -> list[str]:
    """The option of the image size that the weights were trained at, unless there is one."""
    from backbone import read_pretrained
    from tasks.cli import option

    weights = option(args, "model.weights")
    if weights is None or given & {"--data.image_size", "--config", "-c", "--data"}:
        return []
    return ["--data.image_size", str(read_pretrained(weights).numerics.preprocessing.image_size)]


def _predict(args: list[str]) -> int:
    from tasks.classification.predict import main

    return main(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.classification --help`."""
    commands = {
        "fit": ("train; with no further argument, on the built-in sample", lambda rest: _train(["fit", *rest])),
        "validate": ("as test, on the validation images", lambda rest: _train(["validate", *rest])),
        "test": ("score a checkpoint, or an ImageNet classifier by --model.weights, on the test images", _test),
        "predict": ("name what is in any picture or folder of pictures", _predict),
    }
    return dispatch("python -m tasks.classification", tasks.classification.__doc__ or "", commands, args)


def _test(args: list[str]) -> int:
    return _train(["test", *args])


if __name__ == "__main__":
    sys.exit(main())
