"""`python -m tasks.geolocalization`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tasks.geolocalization
from tasks import commands
from tasks.geolocalization import partition
from tasks.geolocalization.predict import PREDICT
from tasks.short_options import TaskHelp

_HELP = TaskHelp(
    "DIR holds photographs with their positions in EXIF, or a CSV of path,latitude,longitude. "
    "`check --data DIR` shows how it is read.",
    {
        "data.preset NAME": "columns of a known CSV: yfcc100m, osv5m, mp16, im2gps, ...",
        "model.max_images N": "a cell of more images is split (default: 10000)",
        "model.min_images N": "a cell of fewer is dropped, with its images (default: 50)",
    },
)


def _classes() -> tuple[Any, Any]:
    from data.geotagged import GeotaggedDataModule
    from tasks.geolocalization.module import GeolocalizationModule

    return GeolocalizationModule, GeotaggedDataModule


def _read(
    root: Path,
    preset: str | None = None,
    path_column: str | None = None,
    latitude_column: str | None = None,
    longitude_column: str | None = None,
    group: str | None = None,
) -> Any:
    from data.layouts import read_places
    from data.readers.coordinates_csv import choose_columns

    return read_places(root, choose_columns(preset, path_column, latitude_column, longitude_column, group))


def _check(args: list[str]) -> int:
    from tasks.check import main

    return main("geolocalization", _read, args, sample="places")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.geolocalization --help`."""
    more = {"partition": ("divide the Earth into cells by where images were taken", partition.main)}
    about = tasks.geolocalization.__doc__ or ""
    return commands.main("geolocalization", about, _classes, PREDICT, args, more, check=_check, of_task=_HELP)


if __name__ == "__main__":
    sys.exit(main())
