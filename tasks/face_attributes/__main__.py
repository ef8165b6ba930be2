"""`python -m tasks.face_attributes`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.face_attributes
from tasks import commands
from tasks.face_attributes.predict import PREDICT


def _classes() -> tuple[Any, Any]:
    from data.attributes import AttributesDataModule
    from tasks.face_attributes.module import FaceAttributesModule

    return FaceAttributesModule, AttributesDataModule


def _experiment(args: list[str]) -> int:
    from tasks.face_attributes.experiment import main

    return main(args)


def _check(args: list[str]) -> int:
    from data.layouts import read_attributes
    from tasks.check import main

    return main("face_attributes", read_attributes, args, sample="faces")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.face_attributes --help`."""
    more = {"experiment": ("train students of several shapes by one teacher, as in Table 12", _experiment)}
    return commands.main(
        "face_attributes", tasks.face_attributes.__doc__ or "", _classes, PREDICT, args, more, check=_check
    )


if __name__ == "__main__":
    sys.exit(main())
