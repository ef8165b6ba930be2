"""What `python -m tasks.face_embeddings predict` writes: embeddings, and how far they are from one more image's."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments
from backbone.files import replacing
from tasks.predict import Described, PredictCommand, Rows, Started

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.predictor import Predictor
    from tasks.sources import Item

_PRINTED = 20  # of the nearest
_VERDICTS = {None: "", True: ", one person", False: ", two people"}


def load(path: str | Path, device: str = "auto") -> "Predictor":
    """The predictor of a checkpoint: an image of a face in, its embedding out, float32 (D,) of length 1.

    The squared distance of two embeddings, 0 to 4, is small where the faces are alike; `head.threshold` is the largest
    of one person. InputError where the file is not a checkpoint of this task.
    """
    from tasks.face_embeddings.module import FaceEmbeddingsModule
    from tasks.predictor import Predictor

    return Predictor.from_checkpoint(FaceEmbeddingsModule, path, device)


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--against", type=Path, metavar="FILE", help="an image to compare them with")


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> Started:
    import numpy as np

    other = None if options.against is None else predictor(options.against)
    threshold: Any = predictor.head.threshold

    def describe(item: "Item", size: tuple[int, int], embedding: Any, number: int) -> Described:
        row: dict[str, Any] = {"row": number}
        line = f"row {number} of embeddings.npy"
        if other is not None:
            distance = float(np.square(embedding - other).sum())
            row |= {"against": str(options.against), "squared_distance": distance}
            line = f"{distance:.3g}"
            if threshold is not None:
                row["one_person"] = distance <= threshold
            line += _VERDICTS[row.get("one_person")]
        return Described(row, line, kept=embedding.tolist())

    def finish(done: int, rows: Rows) -> Sequence[str]:
        nearest: list[tuple[float, str]] = []
        with replacing(run / "embeddings.npy") as beside, beside.open("wb") as file:  # by rows: all may outgrow memory
            for row, embedding in rows:
                if not row["row"]:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (done, len(embedding))}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.asarray(embedding, "<f4").tobytes())
                if other is not None:
                    distance = row["squared_distance"]
                    nearest.append((distance, f"{distance:.3g}{_VERDICTS[row.get('one_person')]}: {row['file']}"))
                    nearest = sorted(nearest)[:_PRINTED]
        printed = [line for _, line in nearest]
        if printed and threshold is not None:
            printed.append(f"one person up to {threshold:.3g}, as chosen on the validation pairs")
        return [*printed, f"embeddings: {run / 'embeddings.npy'}"]

    columns = ("row", "against", "squared_distance", "one_person")
    return Started(
        describe, finish=finish, columns=columns, table=lambda row: [[row.get(name, "") for name in columns]]
    )


def _fields(names: Sequence[str]) -> "dict[str, pa.DataType]":
    import pyarrow as pa

    return {"embedding": pa.list_(pa.float32())}


PREDICT = PredictCommand(
    "Embed images of one face each; write embeddings.npy, float32 (N, D) of length 1, and a line of predictions.jsonl "
    "for each. With --against, the squared distance (0 to 4) of each from one more image.",
    _add_arguments,
    _start,
    load,
    sheets=False,
    row=lambda result, size: {"embedding": result.tolist()},
    fields=_fields,
)
