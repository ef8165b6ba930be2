"""What `python -m tasks.detection predict` writes: the objects it found as COCO results, and the images with boxes."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments, InputError
from backbone.files import replacing
from tasks.predict import Describe, Described, Finish, PredictCommand, writable_names

if TYPE_CHECKING:
    from tasks.predictor import Predictor

_LEAST_SCORE = 0.01  # in predictions.json: COCO's figures look at doubtful boxes too


def load(path: str | Path, device: str = "cpu") -> "Predictor":
    """The predictor of a checkpoint, or of another project's detector: an image in, a DetectionResult out.

    `path` is a file or what `--model.weights` takes: a name is fetched once, and then found in the cache. An image is
    a path, a PIL image or an array. InputError where the file is neither.
    """
    from backbone.weights import find_weights
    from tasks.detection.module import DetectionModule
    from tasks.predictor import Predictor
    from tasks.run_folders import checkpoint_at

    file = checkpoint_at(find_weights(path).file)
    if file.suffix == ".ckpt":
        return Predictor.from_checkpoint(DetectionModule, file, device)
    return Predictor(DetectionModule.as_it_comes(file).to(device), central_fraction=None)


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--model.weights", dest="weights", type=Path, metavar="FILE", help="another project's detector")
    parser.add_argument(
        "--min_score", type=float, default=0.3, help="least score of a drawn box (default: %(default)s)"
    )
    parser.add_argument(
        "--class_agnostic", action="store_true", help="suppress overlapping boxes over all classes, not by class"
    )


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> tuple[Describe, Finish]:
    import numpy as np
    from PIL import Image

    from tasks.detection.metrics import coco_results, stack_detections
    from tasks.plotting import class_color, draw_boxes

    min_score = options.min_score
    if not 0 <= min_score <= 1:
        raise InputError(f"--min_score is {min_score}; it must be from 0 to 1.")
    ids: list[int] = list(predictor.module.hparams["categories"])
    suppression = {"class_agnostic": True} if options.class_agnostic else {}
    image_ids, pictures = numbered(options.images), run / "pictures"
    # They keep their ending, so that a.jpg and a.png beside each other have a picture each.
    names = dict(zip(options.images, writable_names(path.name for path in options.images), strict=True))

    def describe(path: Path, image: np.ndarray, number: int) -> Described:
        result = predictor(image, min_score=_LEAST_SCORE, **suppression)
        classes = np.searchsorted(ids, result.category_ids)
        found = stack_detections([result.boxes_xyxy], [result.scores], [classes])
        rows = coco_results(found, np.array([image_ids[path]]), ids)
        drawn = np.flatnonzero(result.scores >= min_score)
        labels = [f"{result.names[i]} {result.scores[i]:.2f}" for i in drawn]
        tile = draw_boxes(image, result.boxes_xyxy[drawn], labels, [class_color(k) for k in classes[drawn].tolist()])
        pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(pictures / f"{names[path]}.jpg", quality=92)
        objects = [
            {"name": result.names[i], "score": float(result.scores[i]), "box_xyxy": result.boxes_xyxy[i].tolist()}
            for i in drawn
        ]
        return Described({"objects": objects}, "", kept=[{**row, "file_name": path.name} for row in rows])

    def finish(done: int, rows: Iterator[tuple[dict[str, Any], Any]]) -> Sequence[str]:
        results, count, between = run / "predictions.json", 0, "["
        with replacing(results) as beside, beside.open("w") as file:
            for row, coco_rows in rows:
                count += len(row["objects"])
                for coco_row in coco_rows:
                    file.write(between + json.dumps(coco_row))
                    between = ", "
            file.write("]" if between == ", " else "[]")
        return [f"{count} objects of score {min_score:g} or more", f"COCO results: {results}"]

    return describe, finish


def numbered(images: list[Path]) -> dict[Path, int]:
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
)
