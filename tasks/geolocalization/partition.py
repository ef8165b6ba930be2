"""`python -m tasks.geolocalization partition`: divide the Earth into cells by where images were taken."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import Arguments, InputError
from backbone.names import printed

if TYPE_CHECKING:  # --help answers at once
    import numpy as np


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the images or an option cannot be used."""
    parser = Arguments(
        prog="python -m tasks.geolocalization partition",
        usage="%(prog)s (--csv F | --root DIR) --out P.npz [options]",
        description="Divide the Earth into cells by where images were taken, as PlaNet does; print how many cells of "
        "which size there are, and how well a classifier over them could do at best; draw them on a map.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="F", help="table of images, of any size; none is opened")
    source.add_argument("--root", type=Path, metavar="DIR", help="images, as for `fit --data`")
    split = parser.add_argument_group(
        "which columns and which images",
        "As the options of `fit --data.` of these names; where they are the same, so are the training images, and no "
        "others are looked at. For training images alone give both fractions as 0.",
    )
    split.add_argument("--preset", metavar="NAME", help="columns of a known data set: yfcc100m, osv5m, mp16, ...")
    for name in ("path_column", "latitude_column", "longitude_column", "group"):
        split.add_argument(f"--{name}", metavar="COLUMN")
    for name, default in (("val_fraction", 0.1), ("test_fraction", 0.1), ("seed", 0)):
        split.add_argument(f"--{name}", type=type(default), default=default, metavar="X", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="P.npz", help="file to write; the map is P.png")
    parser.add_argument(
        "--max_images",
        type=int,
        nargs="+",
        default=[10_000],
        metavar="N",
        help="split a cell of more; several numbers make a hierarchy, in the files P_N.npz (default: 10000, as PlaNet)",
    )
    parser.add_argument(
        "--min_images", type=int, default=50, metavar="N", help="drop a cell of fewer (default: %(default)s, as PlaNet)"
    )
    parser.add_argument(
        "--points",
        choices=("mean", "centre"),
        default="mean",
        help="what is predicted for a cell: its images' mean direction, or its centre (default: %(default)s)",
    )
    _partition(parser.parse_args(args))
    return 0


def _partition(options: argparse.Namespace) -> None:
    from tasks.geolocalization.cells import partitions_of
    from tasks.geolocalization.maps import draw_partition
    from tasks.geolocalization.report import partition_figures

    files = _files(options.out, sorted(options.max_images))
    leaves = _leaves(options)
    partitions = partitions_of(leaves, options.max_images, min_images=options.min_images, points=options.points)
    for file, partition in zip(files, partitions, strict=True):
        print(f"{partition_figures(partition, leaves)}\n")
        partition.save(file)
        title = f"Cells of {partition.min_images:,} to {partition.max_images:,} images"
        draw_partition(file.with_suffix(".png"), partition, title)
        print(f"partition: {file}\nmap: {file.with_suffix('.png')}")


def _files(out: Path, max_images: list[int]) -> list[Path]:
    """One file a partition, fine to coarse. Raises InputError where one is there or could not be written."""
    if out.suffix != ".npz":
        raise InputError(f"--out is {out}; it must end in .npz, as the map is written beside it as .png.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; create it first.")
    files = [out] if len(max_images) == 1 else [out.with_stem(f"{out.stem}_{number}") for number in max_images]
    for file in (path.with_suffix(suffix) for path in files for suffix in (".npz", ".png")):
        if file.exists():
            raise InputError(f"--out {out}: {file} exists already; move it away, or give another name.")
    return files


def _leaves(options: argparse.Namespace) -> np.ndarray:
    """Leaf ids of the training images; prints what is odd in the data."""
    from data.coordinates import IssueCounts
    from data.readers.coordinates_csv import choose_columns, has_places_alone, training_coordinates
    from data.splits import assign_splits, check_fractions
    from tasks.geolocalization.cells import collect_leaves

    columns = choose_columns(
        options.preset, options.path_column, options.latitude_column, options.longitude_column, options.group
    )
    split = {name: getattr(options, name) for name in ("val_fraction", "test_fraction", "seed")}
    check_fractions(options.val_fraction, options.test_fraction)
    if options.csv is None:
        from data.geotagged import training_records  # here, as it imports torch
        from data.layouts import read_places

        records = read_places(options.root, columns)
        train = training_records(
            records, assign_splits(records, **split, source=options.root, find_copies=False), options.root
        )
        for line in (*train.notes, *(f"{options.root}: {issue}" for issue in train.issues)):
            print(printed(line))
        if not len(train):
            raise InputError(f"{options.root} has no image to train on among those that are there; add some.")
        return collect_leaves([train["latlng"]])
    if options.val_fraction + options.test_fraction and has_places_alone(options.csv, columns):
        print(
            f"{options.csv} has coordinates alone, by which nothing can be set aside: all its rows are taken, whatever "
            "--val_fraction and --test_fraction are"
        )
    issues = IssueCounts("row")
    leaves = collect_leaves(training_coordinates(options.csv, columns, issues, **split))
    for issue in issues.issues:
        print(printed(f"{options.csv}: {issue}"))
    return leaves
