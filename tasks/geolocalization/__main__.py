"""`python -m tasks.geolocalization`."""

import sys
from collections.abc import Sequence

import tasks.geolocalization
from tasks.commands import dispatch


def _train(args: list[str]) -> int:
    from data.geotagged import GeotaggedDataModule
    from tasks.cli import run
    from tasks.geolocalization.module import GeolocalizationModule

    return run("geolocalization", GeolocalizationModule, GeotaggedDataModule, args)


def _predict(args: list[str]) -> int:
    from tasks.geolocalization.predict import main

    return main(args)


def _partition(args: list[str]) -> int:
    from tasks.geolocalization.partition import main

    return main(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.geolocalization --help`."""
    commands = {
        "fit": ("train; with no further argument, on the built-in sample", lambda rest: _train(["fit", *rest])),
        "validate": ("score a checkpoint on the validation photographs", lambda rest: _train(["validate", *rest])),
        "test": ("score a checkpoint on the test photographs, with maps", lambda rest: _train(["test", *rest])),
        "predict": ("say where any picture, or a folder of pictures, was taken", _predict),
        "partition": ("divide the Earth into cells by where photographs were taken", _partition),
    }
    return dispatch("python -m tasks.geolocalization", tasks.geolocalization.__doc__ or "", commands, args)


if __name__ == "__main__":
    sys.exit(main())
