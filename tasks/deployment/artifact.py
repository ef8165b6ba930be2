"""An exported file, run by its own runtime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError
from tasks.deployment import INPUT, METADATA


class Artifact(NamedTuple):
    """An exported file: what it says of itself, and `run`, from uint8 (B, height, width, 3) to its outputs by name."""

    path: Path
    metadata: dict[str, Any]
    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    max_batch: int | None  # images that it takes at once; None: any number


def open_artifact(path: Path, threads: int = 0) -> Artifact:
    """Open a file by its ending, .onnx or .pte; with `threads` 0 its runtime takes what there is. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give one that `export` wrote.")
    if path.suffix == ".pte":
        raise NotImplementedError
    return _open_onnx(path, threads)


def _open_onnx(path: Path, threads: int) -> Artifact:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {INPUT: images}), strict=True))

    return Artifact(path, metadata, run, None)
