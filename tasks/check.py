"""`python -m tasks.<task> check`, the same for every task: what the data are taken for, before anything is trained.

It answers whether the labels are read as they are meant: by counts, and by a picture of 16 labelled images. No torch.
"""

import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import Arguments, InputError
from backbone.files import write_whole
from backbone.names import printed, shown
from data import overview
from data.bad_images import BadImages
from data.copies import MOST_COMPARED
from data.folders import count_of, existing_folder
from data.images import open_image, take_cut_short
from data.readers import celeba, shards
from data.readers.box_checks import clip_boxes
from data.readers.boxes import LOST, MISSING
from data.records import NAMED, SPLITS, UNSPLIT, Issue, Records, issue_of
from data.samples import built_in_sample
from data.splits import assign_splits
from tasks.next_steps import say_next
from tasks.run_folders import new_run

_CLASSES = 20  # that are listed, the largest and the smallest
_TILES, _COLUMNS, _TILE = 16, 4, 360  # of the sheet; px
_MAX_BAD_FRACTION = 0.01  # as of `fit`
_NO_SPLIT = "no split"  # of images that are too few for a part to be set aside
_NAMED_BARS = 12
_SMALL = 0.03  # of an image's side: 9 px of 300


def main(task: str, read: Callable[..., Records], args: list[str], *, sample: str, test_fraction: float = 0.1) -> int:
    """Run the command of a task whose data `read(root, ...)` gives; its other arguments are options, too.

    Returns the exit code. Raises InputError where the data cannot be read.
    """
    parser = Arguments(
        prog=f"python -m tasks.{task} check",
        description="Say what a data set is taken for: layout, splits, classes, sizes, what is odd and what training "
        "leaves out; and draw 16 labelled images. Nothing is written into the data.",
    )
    parser.add_argument(
        "--data", "--data.root", dest="root", metavar="DIR", help="the data; default: the built-in sample"
    )
    names = list(inspect.signature(read).parameters)[1:]
    for name in names:
        parser.add_argument(f"--data.{name}", dest=name, metavar=name.upper(), help="as of `fit`")
    fractions = {"val_fraction": 0.1, "test_fraction": test_fraction}
    for name, default in fractions.items():
        parser.add_argument(f"--data.{name}", dest=name, type=float, default=default, metavar="P", help="as of `fit`")
    parser.add_argument("--seed", "--data.seed", dest="seed", type=int, default=0, metavar="S", help="as of `fit`")
    parser.add_argument("--decode", action="store_true", help="decode every image, where else its header is read")
    help = "where run folders go (default: %(default)s)"
    parser.add_argument("--out", "--runs", dest="runs", type=Path, metavar="DIR", default=Path("runs"), help=help)
    options = parser.parse_args(args)
    root = built_in_sample(sample) if options.root is None else Path(options.root)
    root = root if root.is_file() else existing_folder(root)
    records = read(root, **{name: value for name in names if (value := getattr(options, name)) is not None})
    if options.root is None:
        records = celeba.without_terms(records)
    records = _with_splits(records, root, options)
    report, sizes = _describe(records, root, decode=options.decode)
    with new_run(task, options.runs, "--runs") as run:
        folder = run / "check"
        folder.mkdir()
        _draw_sheet(records, folder / "labels.png", f"{root}: how its labels are read", options.seed)
        _draw_sizes(records, sizes, folder / "sizes.png")
        write_whole(folder / "check.txt", "\n".join(map(printed, report)) + "\n")
        for line in report:
            print(printed(line))
        print(f"{count_of(min(len(records), _TILES), 'image')} with their labels: {folder / 'labels.png'}")
        print(f"histograms: {folder / 'sizes.png'}")
    of_fit = [name for name in (*names, *fractions, "seed") if getattr(options, name) != parser.get_default(name)]
    given = [word for name in of_fit for word in (f"--data.{name}", str(getattr(options, name)))]
    say_next([task, "fit", *([] if options.root is None else ["--data", options.root]), *given])
    return 0


def _with_splits(records: Records, root: Path, options: Any) -> Records:
    """The records with their splits as `fit` draws them."""
    split = records.columns.get("split", np.full(len(records), UNSPLIT, np.int8))
    if (split > 0).all():
        return records  # nothing to draw from
    labels = records.columns.get("labels")
    return assign_splits(
        records,
        val_fraction=options.val_fraction,
        test_fraction=0.0 if labels is not None and (split != UNSPLIT).any() else options.test_fraction,
        seed=options.seed,
        source=root,
        strata=labels,
        find_copies="latlng" not in records.columns,
    )


# --- in words -------------------------------------------------------------------------------------------------------


def _describe(records: Records, root: Path, *, decode: bool) -> tuple[list[str], np.ndarray]:
    """The lines of the report, and the sizes of the images, int64 (N, 2) (height, width) px, 0 unknown."""
    sizes, problems = overview.looked_at(records, decode=decode)
    lines = [f"{root}: {records.layout}", *_splits_table(records), *_classes_table(records)]
    lines += _sizes_in_words(records, sizes, "decoded" if decode else "by their headers")
    lines += [f"note: {note}" for note in records.notes]
    issues = [*_joined(records.issues), *overview.shared_files(records)]
    kinds: dict[str, list[str]] = {}
    for row, reason in problems.items():
        if (kind := re.sub(r"\d[\d.,]*", "...", reason)) not in map(os.fsdecode, (MISSING, LOST)):  # told by the reader
            name = os.fsdecode(records.file_names[row])
            kinds.setdefault(kind, []).append(name if kind == reason else f"{name}: {reason}")
    for kind, places in kinds.items():
        issues += issue_of(f"images cannot be used: {kind}", np.arange(len(places)), places.__getitem__)
    cut = [f"{os.path.relpath(file, records.folder)}: {how_far}" for file, how_far in sorted(take_cut_short())]
    issues += issue_of("images without their last bytes, used as far as they go", np.arange(len(cut)), cut.__getitem__)
    if len(records) > MOST_COMPARED:
        lines.append("not looked for in so many images: copies, byte for byte, in other splits")
    lines.append("odd:" if issues else "odd: nothing")
    for issue in issues:
        lines.append(f"  {issue.counted}")
        lines += [f"    {place}" for place in (issue.first, *issue.more) if place]
    train = records.of_split("train")
    left = [count_of(sum(records["split"][row] == 0 for row in problems), "image")]
    if train.boxes is not None:
        left += [count_of(int((~clip_boxes(train).usable & ~train.boxes.crowd).sum()), "box")]
        left += [count_of(int(train.boxes.crowd.sum()), "crowd region")]
    lines.append(f"training leaves out: {', '.join(left)}")
    return [*lines, *_refusals(records, problems)], sizes


def _refusals(records: Records, problems: dict[int, str]) -> list[str]:
    """Why `fit` would refuse these data, as far as can be told without training."""
    lines, bad_images = [], BadImages(_MAX_BAD_FRACTION)
    for split in ("train", "val"):
        rows = np.flatnonzero(records["split"] == SPLITS.index(split))
        bad = {os.fsdecode(records.file_names[row]): problems[row] for row in rows.tolist() if row in problems}
        bad = {file: reason for file, reason in bad.items() if reason != os.fsdecode(LOST)}  # left out by itself
        try:
            bad_images.start(split, (), len(rows), bad)
        except InputError as error:
            lines.append(f"fit would refuse this: {error}")
        if not len(rows):
            lines.append(f"fit would refuse this: it has no {split} images, and too few to set some aside.")
    return lines


def _joined(issues: Sequence[Issue]) -> list[Issue]:
    """Each kind once, where a file for each split has its own."""
    kinds: dict[str, list[Issue]] = {}
    for issue in issues:
        kinds.setdefault(issue.what, []).append(issue)
    joined = []
    for what, same in kinds.items():
        first, *more = [place for issue in same for place in (issue.first, *issue.more) if place] or [""]
        joined.append(Issue(what, sum(issue.count for issue in same), first, tuple(more[: NAMED - 1])))
    return joined


def _splits_table(records: Records) -> list[str]:
    counts: dict[str, Callable[[Records], int]] = {"images": len}
    if records.boxes is not None:
        counts["boxes"] = lambda part: len(overview.memberships(part)[0])
        counts["without boxes"] = lambda part: len(part) - len(np.unique(overview.memberships(part)[0]))
    if "identities" in records.columns:
        counts["people"] = lambda part: len(np.unique(part["identities"][part["identities"] >= 0]))
    if "latlng" in records.columns:
        counts["squares of one degree"] = lambda part: len(np.unique(np.round(part["latlng"]), axis=0))
    parts: list[tuple[str, Records]] = [(split, records.of_split(split)) for split in SPLITS]
    if (unsplit := records["split"] == UNSPLIT).any():
        parts.append((_NO_SPLIT, records.take(unsplit)))
    rows = [[split, *(f"{count(part):,}" for count in counts.values())] for split, part in parts]
    return _table(["split", *counts], rows)


def _classes_table(records: Records) -> list[str]:
    if not records.classes:
        return []
    splits = [*range(len(SPLITS)), *([UNSPLIT] if (records["split"] == UNSPLIT).any() else [])]
    heads = [SPLITS[split] if split != UNSPLIT else _NO_SPLIT for split in splits]
    counts = np.stack([overview.class_counts(records.take(records["split"] == split)) for split in splits], axis=1)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    names = [shown(name) for name in records.classes]
    names = [
        name if drawn == shown(name, 60) else f"{name} (drawn as {drawn})"
        for name, drawn in zip(names, _drawn_names(records), strict=True)
    ]
    rows = [[names[i], *(f"{count:,}" for count in counts[i])] for i in order.tolist()]
    if len(rows) > _CLASSES:
        half = _CLASSES // 2
        rows = [*rows[:half], [f"... {len(rows) - 2 * half:,} more", *[""] * len(heads)], *rows[-half:]]
    kind = _kind(records)
    of = "boxes" if records.boxes is not None else "images"
    return [f"{count_of(len(records.classes), kind)}, by {of}:", *_table([kind, *heads], rows)]


def _kind(records: Records) -> str:
    return "attribute" if "attributes" in records.columns else "class"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = []
    for name, *numbers in (head, *rows):
        right = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join([f"  {name.ljust(widths[0])}", *right]))
    return lines


def _sizes_in_words(records: Records, sizes: np.ndarray, how: str) -> list[str]:
    sizes = sizes[sizes[:, 0] > 0]
    if not len(sizes):
        return []
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    small, middle, large = (f"{w} x {h}" for h, w in sizes[order[[0, len(order) // 2, -1]]].tolist())
    lines = [f"images, {len(sizes):,} {how}: {small} px the smallest, {middle} the middle one, {large} the largest"]
    if len(sides := _box_sides(records)):
        low, half, high = np.quantile(sides, [0.1, 0.5, 0.9])
        tiny = int((sides < _SMALL).sum())
        lines.append(
            f"boxes: four of five have a side of {low:.0%} to {high:.0%} of the image's, the middle one {half:.0%}"
            + (f"; {tiny:,} are below {_SMALL:.0%}, which is {_SMALL * 300:.0f} px of 300" if tiny else "")
        )
    return lines


def _box_sides(records: Records) -> np.ndarray:
    """The root of each usable box's part of its image, float64 (M,), from 0 to 1."""
    if records.boxes is None:
        return np.zeros(0)
    clipped = clip_boxes(records)
    image = records.boxes.images
    known = (records["sizes"][image] > 0).all(axis=1)  # not of an image that is missing
    usable = clipped.usable & ~records.boxes.crowd & known
    corners = clipped.xyxy[usable]
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return np.sqrt(areas / records["sizes"][image[usable]].prod(axis=1))


# --- in pictures ----------------------------------------------------------------------------------------------------


def _draw_sheet(records: Records, path: Path, title: str, seed: int) -> None:
    from tasks.plotting import contact_sheet

    records = replace(records, classes=tuple(_drawn_names(records)))
    rows = overview.examples(records, _TILES, seed).tolist()
    tiles, captions = zip(*(_tile(records, row) for row in rows), strict=True)
    contact_sheet(tiles, captions, path, columns=_COLUMNS, title=title)


def _drawn_names(records: Records) -> list[str]:
    """The classes as they are drawn: "class 3" for letters that the font lacks."""
    from tasks.reporting import legible

    return legible(records.classes, _kind(records))


def _tile(records: Records, row: int) -> tuple[np.ndarray, str]:
    """An image with its labels as they are read, and the caption."""
    from tasks.plotting import class_color, draw_boxes, fit

    split = int(records["split"][row])
    name = f"{os.fsdecode(records.file_names[row])} ({_NO_SPLIT if split == UNSPLIT else SPLITS[split]})"
    height, width = records["sizes"][row].tolist() if "sizes" in records.columns else (0, 0)
    annotated = (height, width) if height else None  # the pixels as they were annotated, turned or not
    try:
        content = shards.content_of(records, row)
        image = open_image(records.path(row), annotated_size=annotated, at_least=(_TILE, _TILE), content=content)
    except InputError:
        return np.full((_TILE, _TILE, 3), 160, np.uint8), f"{name}\ncannot be read"
    tile, _ = fit(image, _TILE, _TILE)
    boxes = records.boxes
    if boxes is None:
        return tile, f"{name}\n{_label(records, row)}"
    rows = boxes.rows(row)
    corners = boxes.xyxy[rows] * np.tile([tile.shape[1] / max(width, 1), tile.shape[0] / max(height, 1)], 2)
    largest_first = np.argsort(-boxes.areas[rows], kind="stable")
    labels, crowd = boxes.labels[rows][largest_first].tolist(), boxes.crowd[rows][largest_first].tolist()
    words = [records.classes[label] + (" (crowd)" if many else "") for label, many in zip(labels, crowd, strict=True)]
    words = ["" if word in words[:i] else word for i, word in enumerate(words)]  # the colour tells the others
    return draw_boxes(tile, corners[largest_first], words, [class_color(label) for label in labels]), name


def _label(records: Records, row: int) -> str:
    """The label of an image in words."""
    columns, words = records.columns, []
    if "labels" in columns:
        words.append(records.classes[columns["labels"][row]])
    if "attributes" in columns:
        of = columns["attributes"][row]
        words.append(", ".join(records.classes[i] for i in np.flatnonzero(of == 1)) or "none of the attributes")
        words += [f"unknown: {(of == -1).sum()} of {len(of)}"] if (of == -1).any() else []
    if "latlng" in columns:
        words.append("{:.4f}, {:.4f}".format(*columns["latlng"][row]))
    if "identities" in columns and columns["identities"][row] >= 0:
        words.append(f"person {columns['identities'][row]}")
    return "; ".join(words)


def _draw_sizes(records: Records, sizes: np.ndarray, path: Path) -> None:
    """Histograms: the images' longer sides, and where there are classes or boxes, of these."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from tasks.reporting import BLUE, DPI, save_figure

    panels = [("longer side of an image, px", sizes.max(axis=1)[sizes[:, 0] > 0], "images")]
    if records.boxes is not None:
        panels.append(("side of a box, part of the image's", _box_sides(records), "boxes"))
    counts = overview.class_counts(records)
    order = np.argsort(-counts, kind="stable")
    counts = counts[order]
    width = len(panels) + bool(len(counts))
    figure = Figure(figsize=(5 * width, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, width, squeeze=False)[0]
    for ax, (label, values, of) in zip(axes, panels, strict=False):
        ax.hist(values, bins=40, color=BLUE)
        ax.set(xlabel=label, ylabel=of)
    if len(counts):
        axes[-1].bar(np.arange(len(counts)), counts, width=1.0 if len(counts) > 40 else 0.8, color=BLUE)
        axes[-1].set(xlabel=f"the {len(counts):,} classes, the largest first", ylabel="of each", ylim=(0, None))
        if len(counts) <= _NAMED_BARS:
            names = [_drawn_names(records)[i] for i in order]
            axes[-1].set_xticks(np.arange(len(counts)), names, rotation=30, ha="right", rotation_mode="anchor")
    for ax in axes:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path)
