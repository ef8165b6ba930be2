"""Whose embeddings are learned."""

import json
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tasks.distillation.teachers import Teacher, load_teacher
from tasks.runs import newest_checkpoint

TeacherOption = str | dict[str, Any] | None


def load_embedder(asked: str | dict[str, Any]) -> Teacher:
    """The teacher that `--model.teacher` names: a source of `load_teacher`, or a mapping of its arguments.

    Raises InputError where it cannot be loaded.
    """
    options = {"source": asked} if isinstance(asked, str) else asked
    try:
        return load_teacher(**{**options, "answers": "embeddings"})
    except InputError:  # a ValueError as well
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"--model.teacher is {asked}, which cannot be read: {error}.") from error


def teacher_of_the_sample(runs: Path) -> str:
    """The newest run's net of face attributes, which was trained on the same sample. InputError where there is none."""
    try:
        return str(newest_checkpoint("face_attributes", runs))
    except InputError:
        raise InputError(
            f"there is no --model.teacher to learn embeddings from, and no net of face attributes under {runs} to "
            "stand in for one; train that first: `python -m tasks.face_attributes fit`."
        ) from None


def size_kept(cache: str) -> int:
    """How many numbers the embeddings in a cache have. InputError where it is none."""
    path = Path(cache).expanduser() / "manifest.json"
    try:
        return int(json.loads(path.read_text("utf-8"))["answers"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"--model.cache {cache} holds no answers ({error}), so it cannot serve alone; leave out --model.cache_only."
        ) from error
