"""`python -m tasks.face_attributes predict`: describe the faces in pictures."""

import argparse
from pathlib import Path
from typing import Any

from tasks.commands import predict_arguments


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the source or the checkpoint cannot be used."""
    parser = predict_arguments(
        "face_attributes",
        "Describe pictures of one face each; write every attribute's probability as predictions.jsonl, and "
        "sheets of the pictures.",
        "its pictures",
    )
    parser.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    options = parser.parse_args(args)
    _predict(options)
    return 0


def _predict(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from data.images import open_image
    from data.samples import built_in_sample
    from tasks.accelerator import keep_freed_memory
    from tasks.face_attributes.inference import FaceAttributes
    from tasks.predicting import need_sample, pictures_at, write_answers
    from tasks.runs import new_run, newest_checkpoint

    keep_freed_memory()
    file = options.ckpt_path or newest_checkpoint("face_attributes", options.runs)
    describe = FaceAttributes.from_checkpoint(file, "cuda" if torch.cuda.is_available() else "cpu")
    if options.source is None:
        need_sample(file, "face_attributes", "describe")
        options.source = built_in_sample("faces") / "img_align_celeba"

    def answer(path: Path) -> tuple[np.ndarray, dict[str, Any], str]:
        image = open_image(path, at_least=describe.at_least)
        found = describe(image)
        probabilities = dict(zip(found.names, found.probabilities.tolist(), strict=True))
        present = [name for name, has in zip(found.names, found.present, strict=True) if has]
        caption = ", ".join(f"{name} {probabilities[name]:.2f}" for name in present)
        return image, {"attributes": probabilities, "present": present}, caption or "none"

    write_answers(new_run("face_attributes", options.runs), pictures_at(options.source), answer, f"What {file} says")
