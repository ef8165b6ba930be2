"""`python -m tasks.face_embeddings`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.face_embeddings
from tasks import commands
from tasks.face_embeddings.predict import PREDICT
from tasks.short_options import TaskHelp

_HELP = TaskHelp(
    "DIR holds images of faces, with or without labels: the embedding is learned from a teacher. Without --data the "
    "teacher is the newest run of face_attributes.",
    {
        "model.teacher T.ckpt": "whose embedding is learned",
        "model.embedding_size N": "how many numbers an embedding has (default: 128)",
        "data.pairs F": "pairs of images to be told apart in validation and test, as LFW's pairs.txt",
    },
    ("fit", "fit --data DIR --model.teacher T.ckpt --epochs 20", "fit --resume"),
)


def _classes() -> tuple[Any, Any]:
    from data.face_pairs import FacePairsDataModule
    from tasks.face_embeddings.module import FaceEmbeddingsModule

    return FaceEmbeddingsModule, FacePairsDataModule


def _check(args: list[str]) -> int:
    from data.layouts import read_faces
    from tasks.check import main

    return main("face_embeddings", read_faces, args, sample="faces")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.face_embeddings --help`."""
    return commands.main(
        "face_embeddings", tasks.face_embeddings.__doc__ or "", _classes, PREDICT, args, check=_check, of_task=_HELP
    )


if __name__ == "__main__":
    sys.exit(main())
