"""What `python -m tasks.face_embeddings predict` writes: embeddings, and how far they are from one more image's."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments
from tasks.predict import Describe, Described, Finish, PredictCommand

if TYPE_CHECKING:
    import numpy as np

    from tasks.predictor import Predictor

_PRINTED = 20  # of the nearest


def load(path: str | Path, device: str = "cpu") -> "Predictor":
    """The predictor of a checkpoint: an image of a face in, its embedding out, float32 (D,) of length 1.

    The squared distance of two embeddings, 0 to 4, is small where the faces are alike; `head.threshold` is the largest
    of one person. InputError where the file is not a checkpoint of this task.
    """
    from tasks.face_embeddings.module import FaceEmbeddingsModule
    from tasks.predictor import Predictor

    return Predictor.from_checkpoint(FaceEmbeddingsModule, path, device)


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--against", type=Path, metavar="FILE", help="an image to compare them with")


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> tuple[Describe, Finish]:
    import numpy as np

    other = None if options.against is None else predictor(options.against)
    threshold: Any = predictor.head.threshold
    embeddings: list[np.ndarray] = []
    lines: list[tuple[float, str]] = []

    def describe(path: Path, image: "np.ndarray") -> Described:
        embedding = predictor(image)
        row: dict[str, Any] = {"row": len(embeddings)}
        embeddings.append(embedding)
        if other is not None:
            distance = float(np.square(embedding - other).sum())
            row |= {"against": str(options.against), "squared_distance": distance}
            if threshold is not None:
                row["one_person"] = distance <= threshold
            verdict = {None: "", True: ", one person", False: ", two people"}[row.get("one_person")]
            lines.append((distance, f"{distance:.3g}{verdict}: {path}"))
        return Described(row, "")

    def finish(done: int) -> Sequence[str]:
        np.save(run / "embeddings.npy", np.stack(embeddings))
        printed = [line for _, line in sorted(lines)[:_PRINTED]]
        if printed and threshold is not None:
            printed.append(f"one person up to {threshold:.3g}, as chosen on the validation pairs")
        return [*printed, f"embeddings: {run / 'embeddings.npy'}"]

    return describe, finish


PREDICT = PredictCommand(
    "Embed images of one face each; write embeddings.npy, float32 (N, D) of length 1, and a line of predictions.jsonl "
    "for each. With --against, the squared distance (0 to 4) of each from one more image.",
    _add_arguments,
    _start,
    load,
    sheets=False,
)
