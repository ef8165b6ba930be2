"""`python -m tasks.face_embeddings`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.face_embeddings
from tasks import commands
from tasks.face_embeddings.predict import PREDICT


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
    return commands.main("face_embeddings", tasks.face_embeddings.__doc__ or "", _classes, PREDICT, args, check=_check)


if __name__ == "__main__":
    sys.exit(main())
