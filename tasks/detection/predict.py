"""What `python -m tasks.detection predict` writes: the objects it found as COCO results, and the images with boxes."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

from backbone.errors import Arguments
from backbone.files import replacing, write_whole
from tasks.outputs import counted, write_video
from tasks.predict import FORMATS, Described, OpenImage, PredictCommand, Rows, Started

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.predictor import Predictor
    from tasks.sources import Item


def load(path: str | Path, device: str = "auto") -> "Predictor":
    """The predictor of a checkpoint, or of another project's detector: an image in, a DetectionResult out.

    `path` is a file or what `--weights` takes: a name is fetched once, and then found in the cache. An image is
    a path, a PIL image or an array. InputError where the file is neither.
    """
    from backbone.weights import find_weights
    from tasks.detection.module import DetectionModule
    from tasks.predictor import Predictor, device_of
    from tasks.run_folders import checkpoint_at

    file = checkpoint_at(find_weights(path).file)
    if file.suffix == ".ckpt":
        return Predictor.from_checkpoint(DetectionModule, file, device)
    return Predictor(DetectionModule.as_it_comes(file).to(device_of(device)), central_fraction=None)


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "--conf",
        type=float,
        default=0.3,
        metavar="P",
        help="least score of what is drawn and written, 0 to 1 "
        "(default: %(default)s; for COCO's mAP of the results .01, or `test`)",
    )
    parser.add_argument(
        "--class_agnostic", action="store_true", help="suppress overlapping boxes over all classes, not by class"
    )
    parser.add_argument("--save-crops", action="store_true", help="cut the objects out, into crops/CLASS/")


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> Started:
    import numpy as np
    from PIL import Image

    from data.folders import count_of
    from tasks.detection.metrics import coco_results, stack_detections
    from tasks.plotting import class_color, draw_boxes
    from tasks.sources import writable_name

    categories: dict[int, str] = predictor.module.hparams["categories"]
    ids = list(categories)
    suppression = {"class_agnostic": True} if options.class_agnostic else {}
    image_ids = None if options.sources.videos else numbered(options.sources.files)

    def describe(item: "Item", size: tuple[int, int], result: Any, number: int) -> Described:
        image_id = item.number if image_ids is None else image_ids[item.path]
        found = stack_detections([result.boxes_xyxy], [result.scores], [np.searchsorted(ids, result.category_ids)])
        rows = coco_results(found, np.array([image_id]), ids)
        names = {"file_name": item.file_name}
        results = [{**row, "category_name": categories[row["category_id"]], **names} for row in rows]
        row = {"image_id": image_id, **_row(result, size)}
        return Described(
            row, counted(result.names) or "nothing", kept={"place": str(item.place), **names, "results": results}
        )

    def write(item: "Item", image: OpenImage, result: Any, number: int) -> None:
        boxes, classes = result.boxes_xyxy, np.searchsorted(ids, result.category_ids).tolist()
        if not options.no_images:
            labels = [f"{name} {score:.2f}" for name, score in zip(result.names, result.scores, strict=True)]
            _save(draw_boxes(image(), boxes, labels, list(map(class_color, classes))), run / "pictures", item.place)
        if options.save_crops and len(boxes):
            pixels = image()
            for i, (name, box) in enumerate(zip(result.names, boxes, strict=True), 1):
                left, top = np.floor(box[:2]).astype(int).clip(0).tolist()
                right, bottom = np.ceil(box[2:]).astype(int).clip(0).tolist()
                crop = pixels[top:bottom, left:right]
                if crop.size:
                    _save(crop, run / "crops" / writable_name(name), item.place.with_name(f"{item.place.name}_{i}"))

    def _save(pixels: np.ndarray, folder: Path, place: PurePath) -> None:
        path = folder / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=92)

    def finish(count: int, rows: Rows) -> Sequence[str]:
        results = run / "predictions.json"
        with replacing(results) as beside, beside.open("w") as file:
            _write_list(file, (one for _, kept in rows for one in kept["results"]))
        objects = sum(len(row["objects"]) for row, _ in rows)
        lines = [f"{count_of(objects, 'object')} of score {options.conf:g} or more", f"COCO results: {results}"]
        if options.save_crops:
            lines.append(f"crops: {run / 'crops'}")
        if options.sources.videos and not options.no_images:
            lines += _videos(run / "pictures", rows)
        return lines

    def table(row: Mapping[str, Any]) -> Iterator[Sequence[object]]:
        for one in row["objects"]:
            yield [one["name"], one["category_id"], one["score"], *one["box_xyxy"]]

    return Started(
        describe,
        {"conf": options.conf, **suppression},
        write,
        found=lambda row: (one["name"] for one in row["objects"]),
        finish=finish,
        columns=("name", "category_id", "score", "x1", "y1", "x2", "y2"),
        table=table,
        formats={"coco": lambda rows: _coco(rows, run, categories), "yolo": lambda rows: _yolo(rows, run, categories)},
    )


def _row(result: Any, size: tuple[int, int]) -> dict[str, Any]:
    columns = (result.names, result.category_ids.tolist(), result.scores.tolist(), result.boxes_xyxy.tolist())
    keys = ("name", "category_id", "score", "box_xyxy")
    objects = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    return {"height": size[0], "width": size[1], "objects": objects}


def _fields(names: Sequence[str]) -> "dict[str, pa.DataType]":
    import pyarrow as pa

    found = {"name": pa.string(), "category_id": pa.int64(), "score": pa.float32(), "box_xyxy": pa.list_(pa.float32())}
    return {"height": pa.int32(), "width": pa.int32(), "objects": pa.list_(pa.struct(found))}


def _options(predictor: "Predictor", given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not False}  # else it is as it was trained


def _write_list(file: TextIO, values: Iterable[Any]) -> None:
    """Write a JSON list of values that need not all be in memory."""
    between = "["
    for value in values:
        file.write(between + json.dumps(value))
        between = ", "
    file.write("]" if between == ", " else "[]")


def _coco(rows: Rows, run: Path, categories: Mapping[int, str]) -> Path:
    """Write a whole COCO file, to be read as labels: images, annotations, categories."""
    results = (one for _, kept in rows for one in kept["results"])
    images = (
        {"id": row["image_id"], "file_name": kept["file_name"], "width": row["width"], "height": row["height"]}
        for row, kept in rows
    )
    annotations = (
        {
            "id": i,
            **{key: one[key] for key in ("image_id", "category_id", "bbox", "score")},
            "area": one["bbox"][2] * one["bbox"][3],
            "iscrowd": 0,
        }
        for i, one in enumerate(results, 1)
    )
    path = run / "coco.json"
    with replacing(path) as beside, beside.open("w") as file:
        for name, values in (('{"images": ', images), (', "annotations": ', annotations)):
            file.write(name)
            _write_list(file, values)
        file.write(f', "categories": {json.dumps([{"id": i, "name": name} for i, name in categories.items()])}}}')
    return path


def _yolo(rows: Rows, run: Path, categories: Mapping[int, str]) -> Path:
    """Write a text for each image, a line for each object: class, middle, width, height as fractions, score."""
    import yaml

    from data.folders import count_of, say

    index = {number: i for i, number in enumerate(categories)}
    renamed = []
    for row, kept in rows:
        lines = []
        for one in row["objects"]:
            x1, y1, x2, y2 = one["box_xyxy"]
            middle = (x1 + x2) / 2 / row["width"], (y1 + y2) / 2 / row["height"]
            parts = *middle, (x2 - x1) / row["width"], (y2 - y1) / row["height"], one["score"]
            lines.append(f"{index[one['category_id']]} {' '.join(f'{part:.6f}' for part in parts)}\n")
        path = run / "labels" / f"{kept['place']}.txt"
        if "frame" not in row and path.stem != Path(row["file"]).stem:
            renamed.append(f"{row['file']} has {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    if renamed:
        say(f"note: the labels of {count_of(len(renamed), 'image')} have another name, as one was taken: {renamed[0]}")
    names = list(categories.values())
    write_whole(run / "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in names))
    hint = "# Put the images into images/ beside labels/; Ultralytics wants train: and val: here too.\n"
    write_whole(run / "data.yaml", hint + yaml.safe_dump({"names": dict(enumerate(names))}, allow_unicode=True))
    return run / "labels"


def _videos(pictures: Path, rows: Rows) -> list[str]:
    """Join the pictures of each video's frames to a video; what to say of it."""
    frames: dict[str, list[tuple[Path, float]]] = {}
    for row, kept in rows:
        if "frame" in row:
            frames.setdefault(row["file"], []).append((pictures / f"{kept['place']}.jpg", row["seconds"]))
    lines = []
    for read in frames.values():
        paths, path = [path for path, _ in read], read[0][0].parent
        path = path.with_name(f"{path.name}.mp4")
        if all(one.is_file() for one in paths):  # else a call before this has joined them
            duration = read[-1][1] - read[0][1]
            if not write_video(paths, path, (len(read) - 1) / duration if duration > 0 else 10.0):
                lines.append(f"note: OpenCV cannot write MP4 here; the frames are in {paths[0].parent}")
                continue
        lines.append(f"video: {path}")
    return lines


def numbered(images: Sequence[Path]) -> dict[Path, int]:
    """COCO names an image by its id, 000000000139.jpg; where any name is no number, they count from 1 in order."""
    if all(path.stem.isdecimal() for path in images) and len({int(path.stem) for path in images}) == len(images):
        return {path: int(path.stem) for path in images}
    return {path: i for i, path in enumerate(images, 1)}


PREDICT = PredictCommand(
    "Detect objects in images; write COCO results as predictions.json, and the images with their boxes.",
    _add_arguments,
    _start,
    load,
    sheets=False,
    formats=(*FORMATS, "coco", "yolo"),
    row=_row,
    fields=_fields,
    of_results=("conf", "class_agnostic"),
    adjust=_options,
)
