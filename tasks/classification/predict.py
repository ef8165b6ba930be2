"""`python -m tasks.classification predict`: name what is in any picture or folder of pictures."""

import argparse
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tasks.commands import predict_arguments


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the source or the weights cannot be used."""
    parser = predict_arguments(
        "classification",
        "Classify pictures; write the likeliest classes as predictions.jsonl, and sheets of the pictures.",
        "its test images",
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
    _predict(options)
    return 0


def _predict(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from data.images import open_image
    from tasks.accelerator import keep_freed_memory
    from tasks.classification.inference import PhotoClassifier
    from tasks.predicting import pictures_at, write_answers
    from tasks.runs import new_run, newest_checkpoint

    keep_freed_memory()
    file = options.weights or options.ckpt_path or newest_checkpoint("classification", options.runs)
    classify = PhotoClassifier.from_file(file, "cuda" if torch.cuda.is_available() else "cpu")
    if classify.of_boxes:
        print("note: this net learnt from pictures cut to the dog's box (--data.crop bbox); give it such pictures")
    pictures = pictures_at(options.source) if options.source else _of_the_sample(file)

    def answer(path: Path) -> tuple[np.ndarray, dict[str, Any], str]:
        image = open_image(path, at_least=classify.at_least)
        found = classify(image, top_k=options.top_k)
        answers = list(zip(found.names, found.probabilities.tolist(), strict=True))
        row = {"classes": [{"name": name, "probability": p} for name, p in answers]}
        return image, row, "\n".join(f"{name} {p:.2f}" for name, p in answers[:3])

    write_answers(new_run("classification", options.runs), pictures, answer, f"What {file} says")


def _of_the_sample(file: Path) -> list[Path]:
    """The test images of the built-in sample, where the net was trained on it."""
    from data.classification import read_labelled
    from data.samples import built_in_sample
    from tasks.predicting import need_sample

    if file.suffix != ".ckpt":
        raise InputError("name pictures to classify with --source.")
    need_sample(file, "classification", "classify")
    images = read_labelled(built_in_sample("dogs"), "full", 0.1, 0.1, 0).splits["test"]
    return [images.path(i) for i in range(len(images))]
