"""`python -m data.convert SRC DST`: images with boxes, in any layout that detection reads, written as COCO's JSON."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import Arguments, InputError, exit_code, until_unread
from backbone.files import disk_error, not_written, room_beside
from backbone.names import printed
from data.folders import count_of, existing_folder
from data.layouts import read_boxes
from data.records import SPLITS, Records


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Arguments(
        prog="python -m data.convert",
        description="Write images with boxes as COCO's JSON: annotations/instances_<split>.json in DST. Images of no "
        "split are training images. SRC is never written to.",
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="a folder in any layout that detection reads")
    parser.add_argument("target", type=Path, metavar="DST", help="a new or an empty folder")
    parser.add_argument("--copy", action="store_true", help="also copy the images, to DST/images")
    parser.add_argument("--version", default="", help="which of COCO's files in SRC, such as 2017")
    options = parser.parse_args(args)
    return exit_code(lambda: convert(**vars(options)), "stopped; nothing was written")


def convert(source: Path, target: Path, *, copy: bool = False, version: str = "") -> None:
    """Write `source` as COCO into `target`, whole or not at all, and print what was odd.

    `file_name` counts from the deepest folder that holds all images, or with `copy` from `target/images`. Images that
    cannot be used and boxes of zero area are left out, and counted. Raises InputError.
    """
    _check_target(source.parent if source.is_file() else existing_folder(source, "SRC"), target)
    records = read_boxes(source, version)
    folder, names, good = _usable(records)
    for line in (*records.notes, *(f"{source}: {issue}" for issue in records.issues)):
        print(printed(line))
    try:
        with room_beside(target.absolute()) as room:
            made = room / "coco"
            (made / "annotations").mkdir(parents=True)
            lines = []
            for number, split in enumerate(SPLITS):
                chosen = good & (records["split"].clip(min=0) == number)
                if chosen.any():
                    content = _content(records.take(chosen), names[chosen])
                    (made / f"annotations/instances_{split}.json").write_text(json.dumps(content))
                    images, boxes = (len(content[key]) for key in ("images", "annotations"))
                    counts = f"{count_of(images, 'image')}, {count_of(boxes, 'box')}"
                    lines.append(f"{split}: {counts} of {count_of(len(records.classes), 'class')}")
            if copy:
                _copy(folder, names[good], made / "images")
            made.rename(target)
    except OSError as error:
        raise InputError(f"{target} {not_written(disk_error(error) or error)}") from error
    left = int((~good).sum())
    if left:
        lines.append(
            f"{count_of(left, 'image')} left out, as they cannot be used (the first: {_first_bad(records, good)})"
        )
    where = target / "images" if copy else folder
    lines.append(f"{target / 'annotations'}: `file_name` counts from {where}" + ", where the images stay" * (not copy))
    for line in lines:
        print(printed(line))


def _check_target(source: Path, target: Path) -> None:
    """Raise InputError where `target` holds anything, is no folder, or lies in `source`, which is never written to."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"DST {target} is there already and not empty; give a new or an empty folder.")
    if not target.absolute().parent.is_dir():
        raise InputError(f"DST {target}: there is no folder {target.absolute().parent}; create it first.")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"DST {target} lies in SRC, which is not written to; give a folder elsewhere.")


def _usable(records: Records) -> tuple[Path, np.ndarray, np.ndarray]:
    """The folder of all images that can be used, the names from it, str (N,), and which these are, bool (N,)."""
    names = [os.path.normpath(os.fsdecode(name)) for name in records.file_names.tolist()]
    as_text = np.array([not any("\udc80" <= letter <= "\udcff" for letter in name) for name in names], dtype=bool)
    good = (records["problem"] == b"") & as_text  # JSON has no name that is not text
    if not good.any():
        first = _first_bad(records, good)
        raise InputError(f"{records.folder}: none of its {len(records):,} images can be used (the first: {first}).")
    folders = {os.path.dirname(name) for name, fine in zip(names, good.tolist(), strict=True) if fine}  # noqa: PTH120
    common = os.path.commonpath([os.path.abspath(records.folder / one) for one in folders])  # noqa: PTH100
    start = os.path.relpath(common, records.folder)
    return records.folder / start, np.array([os.path.relpath(name, start) for name in names], dtype=object), good


def _first_bad(records: Records, good: np.ndarray) -> str:
    row = int(np.argmin(good))
    reason = os.fsdecode(records["problem"][row]) or "its name is not UTF-8"
    return f"{records.path(row)}: {reason}"


def _content(records: Records, names: np.ndarray) -> dict[str, Any]:
    """The JSON of one split."""
    boxes = records.boxes
    assert boxes is not None
    image = boxes.images
    real = np.flatnonzero((boxes.xywh[:, 2:] > 0).all(axis=1))
    ids = np.array(records.class_ids)
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name, (height, width) in zip(
            records["image_ids"].tolist(), names.tolist(), records["sizes"].tolist(), strict=True
        )
    ]
    columns = (
        records["image_ids"][image[real]],
        ids[boxes.labels[real]],
        boxes.xywh[real].round(4),
        boxes.areas[real].round(4),
        boxes.crowd[real].astype(int),
    )
    annotations = [
        {"id": number, "image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image_id, label, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    categories = [{"id": one, "name": name} for one, name in zip(records.class_ids, records.classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _copy(folder: Path, names: np.ndarray, to: Path) -> None:
    for parent in {os.path.dirname(name) for name in names.tolist()}:  # noqa: PTH120
        (to / parent).mkdir(parents=True, exist_ok=True)
    for name in names.tolist():
        shutil.copyfile(folder / name, to / name)


if __name__ == "__main__":
    sys.exit(until_unread(main))
