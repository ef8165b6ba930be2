"""`python -m tasks.detection predict`: detect in any picture or folder of pictures."""

import argparse
import json
from pathlib import Path

from backbone.errors import InputError
from tasks.commands import predict_arguments


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the source or the checkpoint cannot be used."""
    parser = predict_arguments(
        "detection",
        "Detect in pictures; write COCO results as predictions.json, and the pictures with their boxes.",
        "its test images",
    )
    parser.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    parser.add_argument(
        "--min_score", type=float, default=0.3, help="least score of a drawn box (default: %(default)s)"
    )
    parser.add_argument(
        "--class_agnostic", action="store_true", help="suppress overlapping boxes over all classes, not by class"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    options = parser.parse_args(args)
    if not 0 <= options.min_score <= 1:
        raise InputError(f"--min_score {options.min_score}: a score lies between 0 and 1.")
    run = _predict(options)
    print(f"run: {run}")
    return 0


def _predict(options: argparse.Namespace) -> Path:
    import numpy as np
    import torch
    from PIL import Image

    from data.images import open_image
    from data.samples import built_in_sample
    from tasks.accelerator import keep_freed_memory
    from tasks.detection.inference import Detector
    from tasks.detection.metrics import Detections, to_coco_results
    from tasks.plotting import class_color, draw_boxes
    from tasks.predicting import for_each, need_sample, pictures_at
    from tasks.runs import new_run, newest_checkpoint, point_latest

    keep_freed_memory()
    checkpoint = options.ckpt_path or newest_checkpoint("detection", options.runs)
    detect = Detector.from_checkpoint(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    if options.source is None:
        need_sample(checkpoint, "detection", "detect in")
        options.source = built_in_sample("detection") / "test"
    pictures = pictures_at(options.source)
    detect.class_agnostic |= options.class_agnostic
    colors = {category_id: class_color(i) for i, category_id in enumerate(detect.categories)}
    ids = dict(zip(pictures, _image_ids(pictures), strict=True))
    run = new_run("detection", options.runs)
    results: list[dict] = []

    def predict(path: Path) -> None:
        image = open_image(path)
        found = detect(image, min_score=0.01)
        rows = to_coco_results(ids[path], Detections(found.boxes_xyxy, found.scores, found.category_ids))
        results.extend({**row, "file_name": path.name} for row in rows)
        drawn = np.flatnonzero(found.scores >= options.min_score)
        labels = [f"{found.names[i]} {found.scores[i]:.2f}" for i in drawn]
        picture = draw_boxes(image, found.boxes_xyxy[drawn], labels, [colors[found.category_ids[i]] for i in drawn])
        (run / "pictures").mkdir(parents=True, exist_ok=True)
        # The name keeps its ending, so that a.jpg and a.png beside each other have a picture each.
        Image.fromarray(picture).save(run / "pictures" / f"{path.name}.jpg", quality=92)

    done = for_each(pictures, predict)
    (run / "predictions.json").write_text(json.dumps(results))
    point_latest(run)
    confident = sum(row["score"] >= options.min_score for row in results)
    print(f"{confident} objects of score {options.min_score} or more in {done} pictures")
    print(f"results: {run / 'predictions.json'}\npictures: {run / 'pictures'}")
    return run


def _image_ids(pictures: list[Path]) -> list[int]:
    """COCO names a picture by its id, 000000000139.jpg; where any name is no number, they count from 1 in order."""
    if all(path.stem.isdecimal() for path in pictures) and len({int(path.stem) for path in pictures}) == len(pictures):
        return [int(path.stem) for path in pictures]
    return list(range(1, len(pictures) + 1))
