"""`python -m tasks.face_embeddings`."""

import sys
from collections.abc import Sequence

import tasks.face_embeddings
from tasks.commands import dispatch


def _train(args: list[str]) -> int:
    from data.face_pairs import FacePairsDataModule
    from tasks.cli import run
    from tasks.face_embeddings.module import FaceEmbeddingsModule

    return run("face_embeddings", FaceEmbeddingsModule, FacePairsDataModule, args)


def _predict(args: list[str]) -> int:
    from tasks.face_embeddings.predict import main

    return main(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.face_embeddings --help`."""
    commands = {
        "fit": (
            "learn from a teacher; with no further argument, on the built-in sample",
            lambda a: _train(["fit", *a]),
        ),
        "validate": ("score a checkpoint on the validation images", lambda a: _train(["validate", *a])),
        "test": ("score a checkpoint on pairs: LFW's, or of the test images", lambda a: _train(["test", *a])),
        "predict": ("embed pictures of faces, or measure how far two are apart", _predict),
    }
    return dispatch("python -m tasks.face_embeddings", tasks.face_embeddings.__doc__ or "", commands, args)


if __name__ == "__main__":
    sys.exit(main())
