"""`python -m tasks.geolocalization`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.geolocalization
from tasks import commands
from tasks.geolocalization import partition
from tasks.geolocalization.predict import PREDICT


def _classes() -> tuple[Any, Any]:
    from data.geotagged import GeotaggedDataModule
    from tasks.geolocalization.module import GeolocalizationModule

    return GeolocalizationModule, GeotaggedDataModule


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.geolocalization --help`."""
    more = {"partition": ("divide the Earth into cells by where images were taken", partition.main)}
    about = tasks.geolocalization.__doc__ or ""
    return commands.main("geolocalization", about, _classes, PREDICT, args, more)


if __name__ == "__main__":
    sys.exit(main())
