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
    """Open a file by its ending, .onnx or .pte; with `threads` 0 its runtime takes what there is. Raises InputError.

    The threads of .pte files are one process's: those opened before with another number cannot be run any more.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give one that `export` wrote.")
    if path.suffix == ".pte":
        return _open_executorch(path, threads)
    return _open_onnx(path, threads)


def _open_onnx(path: Path, threads: int) -> Artifact:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        str(path).encode()
        source: Any = str(path)
    except UnicodeEncodeError:  # ONNX Runtime takes no such name
        source = path.read_bytes()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {INPUT: images}), strict=True))

    return Artifact(path, metadata, run, None)


def _open_executorch(path: Path, threads: int) -> Artifact:
    from tasks.deployment import executorch_file  # here, as it imports torch, which .onnx files do without
    from tasks.deployment.onnx_file import quiet

    executorch_file.check_installed()
    with path.open("rb") as file:  # its runtime aborts the process where it would print an identifier that is no text
        start = file.read(8)
    if start[4:6] != b"ET":
        raise InputError(f"{path} is not an ExecuTorch program; give a .pte file that `export` wrote.")
    with quiet():
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        # The runtime has one pool of threads, which what is loaded holds on to.
        if threads not in (0, portable_lib._threadpool_get_thread_count()):
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            program = Runtime.get().load_program(path)
            if METADATA not in program.method_names:
                raise InputError(f"{path} has no metadata of this project; give a file that `export` wrote.")
            metadata = json.loads(program.load_method(METADATA).execute(())[0])
            forward = program.load_method("forward")
        except RuntimeError as error:
            raise InputError(f"{path} is not a whole ExecuTorch program ({error}); write it again.") from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        rows = [forward.execute((torch.tensor(image[None]),)) for image in images]  # an array may be read-only
        columns = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
        return dict(zip(metadata["outputs"], columns, strict=True))

    return Artifact(path, metadata, run, 1)
