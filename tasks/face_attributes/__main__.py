"""`python -m tasks.face_attributes`."""

import sys
from collections.abc import Sequence

import tasks.face_attributes
from tasks.commands import dispatch


def _train(args: list[str]) -> int:
    from data.attributes import AttributesDataModule
    from tasks.cli import run
    from tasks.face_attributes.module import FaceAttributesModule

    return run("face_attributes", FaceAttributesModule, AttributesDataModule, args)


def _predict(args: list[str]) -> int:
    from tasks.face_attributes.predict import main

    return main(args)


def _experiment(args: list[str]) -> int:
    from tasks.face_attributes.experiment import main

    return main(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.face_attributes --help`."""
    commands = {
        "fit": ("train; with no further argument, on the built-in sample", lambda rest: _train(["fit", *rest])),
        "validate": ("score a checkpoint on the validation images", lambda rest: _train(["validate", *rest])),
        "test": ("score a checkpoint on the test images, with a model card", lambda rest: _train(["test", *rest])),
        "predict": ("describe the face in any picture, or a folder of pictures", _predict),
        "experiment": ("train students of several shapes by one teacher, as in Table 12", _experiment),
    }
    return dispatch("python -m tasks.face_attributes", tasks.face_attributes.__doc__ or "", commands, args)


if __name__ == "__main__":
    sys.exit(main())
