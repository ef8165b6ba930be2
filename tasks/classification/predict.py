"""`python -m tasks.classification predict`: name what is in any picture or folder of pictures."""

import argparse
import json
from pathlib import Path
from typing import Any

from backbone.errors import Arguments, InputError

_PRINTED = 20  # answers for more pictures are in the file alone
_TILES = 60  # on a sheet


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the source or the weights cannot be used."""
    parser = Arguments(
        prog="python -m tasks.classification predict",
        description="Classify pictures; write the likeliest classes as predictions.jsonl, and sheets of the pictures.",
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE-or-FOLDER",
        help="default, for a net trained on the sample: its test images",
    )
    of = parser.add_mutually_exclusive_group()
    of.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    of.add_argument(
        "--model.weights", dest="weights", type=Path, metavar="FILE", help="another project's ImageNet classifier"
    )
    parser.add_argument("--top_k", type=int, default=5, help="classes for each picture (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    options = parser.parse_args(args)
    if options.top_k < 1:
        raise InputError(f"--top_k {options.top_k}: give 1 or more.")
    run = _predict(options)
    print(f"run: {run}")
    return 0


def _predict(options: argparse.Namespace) -> Path:
    import numpy as np
    import torch

    from data.images import open_image
    from tasks.accelerator import keep_freed_memory
    from tasks.classification.inference import PhotoClassifier
    from tasks.plotting import contact_sheet, fit
    from tasks.predicting import for_each, pictures_at
    from tasks.runs import new_run, newest_checkpoint, point_latest

    keep_freed_memory()
    file = options.weights or options.ckpt_path or newest_checkpoint("classification", options.runs)
    classify = PhotoClassifier.from_file(file, "cuda" if torch.cuda.is_available() else "cpu")
    pictures = pictures_at(options.source) if options.source else _of_the_sample(file)
    run = new_run("classification", options.runs)
    folder = run / "pictures"
    rows: list[dict[str, Any]] = []
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    sheets = 0

    def predict(path: Path) -> None:
        image = open_image(path, at_least=classify.at_least)
        found = classify(image, top_k=options.top_k)
        answers = list(zip(found.names, found.probabilities.tolist(), strict=True))
        rows.append({"file": str(path), "classes": [{"name": name, "probability": p} for name, p in answers]})
        tiles.append(fit(image, 220, 220)[0])
        captions.append("\n".join([path.name, *(f"{name} {p:.2f}" for name, p in answers[:3])]))
        if len(tiles) == _TILES:
            write_sheet()

    def write_sheet() -> None:
        nonlocal sheets
        if tiles:
            sheets += 1
            folder.mkdir(parents=True, exist_ok=True)
            title = f"What {file} says, sheet {sheets}"
            contact_sheet(tiles, captions, folder / f"predictions_{sheets:03}.png", columns=6, title=title)
            tiles.clear()
            captions.clear()

    done = for_each(pictures, predict)
    write_sheet()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (run / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    point_latest(run)
    if done <= _PRINTED:
        print("\n".join(lines))
    print(f"{done} pictures classified\nresults: {run / 'predictions.jsonl'}\npictures: {folder}")
    return run


def _of_the_sample(file: Path) -> list[Path]:
    """The test images of the built-in sample, where the net was trained on it."""
    from data.classification import read_labelled
    from data.samples import built_in_sample
    from tasks.runs import read_checkpoint

    if file.suffix != ".ckpt":
        raise InputError("name pictures to classify with --source.")
    trained_on = read_checkpoint(file, "classification")["datamodule_hyper_parameters"]["root"]
    if trained_on is not None:
        raise InputError(f"{file} was trained on {trained_on}; name pictures to classify with --source.")
    images = read_labelled(built_in_sample("dogs"), "full", 0.1, 0.1, 0).splits["test"]
    return [images.path(i) for i in range(len(images))]
