"""`python -m tasks.geolocalization partition`: divide the Earth into cells by where photographs were taken."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import Arguments, InputError

if TYPE_CHECKING:  # --help answers at once
    import numpy as np

    from tasks.geolocalization.cells import Partition

_SAMPLE = 1_000_000  # photographs that the figures are of, evenly along S2's curve, where there are more


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the photographs or an option cannot be used."""
    parser = Arguments(
        prog="python -m tasks.geolocalization partition",
        description="Divide the Earth into cells by where photographs were taken, as PlaNet does; print how many cells "
        "of which size there are, and how well a classifier over them could do at best; draw them on a map.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="F", help="table of photographs, of any size; none is opened")
    source.add_argument("--root", type=Path, metavar="DIR", help="photographs, as for `fit --data.root`")
    split = parser.add_argument_group(
        "which columns and which photographs",
        "As the options of `fit --data.` of these names; where they are the same, so are the training photographs, and "
        "of no others is anything taken. For training photographs alone give both fractions as 0.",
    )
    split.add_argument(
        "--preset", metavar="NAME", help="columns of a known data set: yfcc100m, osv5m, mp16, im2gps, ..."
    )
    for name in ("path_column", "latitude_column", "longitude_column", "group"):
        split.add_argument(f"--{name}", metavar="COLUMN")
    split.add_argument("--val_fraction", type=float, default=0.1, metavar="X", help="default: %(default)s")
    split.add_argument("--test_fraction", type=float, default=0.1, metavar="X", help="default: %(default)s")
    split.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="P.npz", help="file to write; the map is P.png")
    parser.add_argument(
        "--max_photos",
        type=int,
        nargs="+",
        default=[10_000],
        metavar="N",
        help="split a cell of more; several numbers make a hierarchy, in the files P_N.npz (default: 10000, as PlaNet)",
    )
    parser.add_argument(
        "--min_photos", type=int, default=50, metavar="N", help="drop a cell of fewer (default: %(default)s, as PlaNet)"
    )
    parser.add_argument(
        "--max_level", type=int, default=18, metavar="0-30", help="do not split beyond (default: %(default)s, 35 m)"
    )
    parser.add_argument(
        "--points",
        choices=("mean", "centre"),
        default="mean",
        help="a cell's answer: the mean direction of its photographs, or its centre (default: %(default)s)",
    )
    _partition(parser.parse_args(args))
    return 0


def _partition(options: argparse.Namespace) -> None:
    from tasks.geolocalization.cells import partitions_of
    from tasks.geolocalization.maps import draw_partition

    files = _files(options.out, sorted(options.max_photos))
    leaves = _leaves(options)
    partitions = partitions_of(
        leaves, options.max_photos, min_photos=options.min_photos, max_level=options.max_level, points=options.points
    )
    for file, partition in zip(files, partitions, strict=True):
        print(f"{figures(partition, leaves)}\n")
        partition.save(file)
        of_cells = f"Cells of {partition.min_photos:,} to {partition.max_photos:,} photographs"
        draw_partition(file.with_suffix(".png"), partition, of_cells)
        print(f"partition: {file}\nmap: {file.with_suffix('.png')}")


def _files(out: Path, max_photos: list[int]) -> list[Path]:
    """One file a partition, fine to coarse. Raises InputError where one is there or could not be written."""
    if out.suffix != ".npz":
        raise InputError(f"--out is {out}; it must end in .npz, as the map is written beside it as .png.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; create it first.")
    files = [out] if len(max_photos) == 1 else [out.with_stem(f"{out.stem}_{number}") for number in max_photos]
    for file in files:
        for each in (file, file.with_suffix(".png")):
            if each.exists():
                raise InputError(f"--out {out}: {each} exists already; move it away, or give another name.")
    return files


def _leaves(options: argparse.Namespace) -> np.ndarray:
    """Leaf ids of the training photographs; says what was left out."""
    from data.coordinates import LeftOut
    from data.coordinates_columns import choose_columns, has_places_alone
    from data.geotagged_splits import check_drawing, training_coordinates
    from tasks.geolocalization.cells import collect_leaves

    columns = choose_columns(
        options.preset, options.path_column, options.latitude_column, options.longitude_column, options.group
    )
    split = {name: getattr(options, name) for name in ("val_fraction", "test_fraction", "seed")}
    check_drawing(**split, options="--")
    if options.csv is None:
        from data.geotagged import read_geotagged  # here, as it imports torch

        data = read_geotagged(options.root, columns, **split)
        for note in data.notes:
            print(note)
        return collect_leaves([data.splits["train"].latlng])
    if options.val_fraction + options.test_fraction and has_places_alone(options.csv, columns):
        print(
            f"{options.csv} has coordinates alone, by which nothing can be set aside: all its rows are taken, whatever "
            "--val_fraction and --test_fraction are"
        )
    left_out = LeftOut()
    leaves = collect_leaves(training_coordinates(options.csv, columns, left_out, **split))
    for line in left_out.lines("row", options.csv):
        print(line)
    return leaves


def figures(partition: Partition, leaves: np.ndarray) -> str:
    """What is to know of a partition of photographs, given by sorted leaf ids (N,): a table for people.

    Cells by level; the share of photographs in them; and the best that any classifier over them could do, on the very
    photographs that they were built from: the share within 1, 25, 200, 750 and 2500 km and the median distance.
    """
    import numpy as np

    from tasks.geolocalization import s2
    from tasks.geolocalization.cells import nearest_point_km, own_cell_km
    from tasks.geolocalization.maps import cell_width_text
    from tasks.geolocalization.metrics import THRESHOLDS_KM
    from tasks.geolocalization.sphere import haversine_km

    kept, every = int(partition.counts.sum()), -(-len(leaves) // _SAMPLE)
    levels = s2.levels(partition.ids)
    lines = [
        f"{partition.total:,} training photographs, {len(partition):,} cells",
        f"{100 * kept / partition.total:.2f} % of the photographs are in a cell, {partition.total - kept:,} in none",
        "",
        f"{'level':>7} {'about':>9} {'cells':>9} {'photographs':>13} {'share':>8}",
    ]
    for level in np.unique(levels).tolist():
        of_level = levels == level
        photographs = int(partition.counts[of_level].sum())
        lines.append(
            f"{level:>7} {cell_width_text(level):>9} {of_level.sum():>9,} {photographs:>13,} "
            f"{100 * photographs / partition.total:>6.1f} %"
        )
    sample = s2.centres(leaves[every // 2 :: every])
    most = partition.latlng[np.argmax(partition.counts)]
    lines += ["", f"{'% within':>30}" + "".join(f"{limit:>9} km" for limit in THRESHOLDS_KM) + f"{'median':>12}"]
    for name, distance in (
        ("at best: nearest cell's point", nearest_point_km(partition, sample)),
        ("always the right cell", own_cell_km(partition, sample)),
        ("always the most frequent cell", haversine_km(sample, most)),
    ):
        shares = "".join(f"{100 * (distance <= limit).mean():>12.1f}" for limit in THRESHOLDS_KM)
        lines.append(f"{name:>30}{shares}{np.median(distance):>9,.1f} km")
    if every > 1:
        lines.append(f"measured on one photograph in {every}, {len(sample):,} of {len(leaves):,}")
    return "\n".join(lines)
