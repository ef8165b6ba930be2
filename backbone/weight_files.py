"""Files of weights in every format that is read, by their first bytes: tensors by name, and what is said beside them.

Nothing in a file is ever executed: safetensors, HDF5, and pickles through torch's `weights_only`.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.tflite import is_tflite
from backbone.weights import find_weights

ACCEPTED = (
    "accepted are timm's mobilenetv1_* (.safetensors, .pth), Keras Applications' MobileNet (.h5), "
    "Hugging Face's google/mobilenet_v1_* (a folder or its model.safetensors), TensorFlow's MobileNet v1 classifiers "
    "and SSD detectors (.tflite), checkpoints of this project (.ckpt), and with --model.trunk timm:NAME "
    "those of timm's other networks"
)


class Contents(NamedTuple):
    """What a file holds: tensors by name, and everything that may say how they were trained."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = {}
    trunk: Mapping[str, Any] = {}  # of a checkpoint of this project, the settings of its trunk


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a file of weights of any network. InputError where it has none."""
    return read_contents(find_file(path)).tensors


def saved_trunk(path: str | Path) -> Mapping[str, Any] | None:
    """The settings of the trunk in a checkpoint of this project, None for other files. InputError as `read_tensors`."""
    path = find_file(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return (read_contents(path).trunk or None) if is_zip else None


def json_beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in the same folder, if there is one."""
    file = path.with_name(name)
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}, which describes {path.name}, is not JSON: {error}.") from error
    return value if isinstance(value, dict) else {}


def find_file(path: str | Path) -> Path:
    """The file of weights that a path, a folder as Hugging Face stores it, or a fetched name means; or InputError."""
    path = find_weights(path, fetch=False).file  # of a name that `--weights` or `load` has fetched
    if path.is_file():
        return path
    if not path.exists():
        if path.with_name(path.name + ".index").is_file():
            refuse(path, "is a TensorFlow checkpoint")
        raise InputError(f"weights {path}: there is no such file or folder; check the path.")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    refuse(path, "is a folder without model.safetensors or pytorch_model.bin")


def read_contents(path: Path) -> Contents:
    """Read a file by its first bytes, not by its name."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_h5(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return _read_safetensors(path)
    # torch.save writes a zip archive; before torch 1.6 it wrote a bare pickle.
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(path)
    if not start:
        refuse(path, "is empty")
    if is_tflite(start):
        refuse(path, "is a TensorFlow Lite file, whose tensors only a MobileNet v1 takes")
    if path.suffix in (".index", ".meta") or ".data-0" in path.name:
        refuse(path, "is part of a TensorFlow checkpoint")
    try:
        refuse(path, f"is text that begins with {start.decode('utf-8', 'strict').splitlines()[0][:40]!r}")
    except UnicodeDecodeError:
        refuse(path, f"begins with the bytes {start[:8].hex(' ')}, which no accepted format does")


def _read_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return Contents({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        refuse(path, f"is a damaged safetensors file ({error})")


def _read_torch(path: Path) -> Contents:
    if path.suffix == ".keras":
        refuse(path, "is a Keras 3 archive, which has no layer names; save the model as .h5 instead")
    try:
        with warnings.catch_warnings(action="ignore"):  # about other formats; the errors say it better
            found = load_torch(path)
    except Exception as error:  # by the kind of damage: UnpicklingError, RuntimeError, EOFError, KeyError and others
        refuse(path, why_not_loaded(path, error))
    if not isinstance(found, Mapping):
        refuse(path, f"holds a {type(found).__name__} and not tensors by name")
    trunk = found.get("trunk")
    # Of a training run's two sets of weights, timm's averaged one is the one it evaluated. Lightning keeps the
    # averaged ones under "state_dict" already.
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        refuse(path, f"holds no tensors, only {', '.join(map(str, list(found)[:5])) or 'an empty dictionary'}")
    if all(name.startswith("module.") for name in tensors):  # what DataParallel puts in front
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return Contents(tensors, {}, trunk if isinstance(trunk, Mapping) else {})


def load_torch(path: Path, *, mmap: bool = False) -> Any:
    """What torch.save wrote, tensors and plain values alone, after the archive's checksums have been looked at.

    torch itself does not look at them. Whatever is wrong with the file raises what it happens to; see `why_not_loaded`.
    """
    if zipfile.is_zipfile(path):  # before torch 1.6, a bare pickle
        with zipfile.ZipFile(path) as archive:
            # Of a record that a flipped bit marks as a folder, torch reads nothing but leaves what memory holds.
            if archive.testzip() or any(record.external_attr & 0x10 for record in archive.infolist()):
                raise zipfile.BadZipFile("a checksum is not that of its data")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def why_not_loaded(path: Path, error: Exception) -> str:
    """What a file is, as "is damaged", that `torch.load` with `weights_only` refused with this error."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "is empty"
    if not start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive; before torch 1.6, a bare pickle
        return "is not a file of tensors as torch.save writes it"
    if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"is a pickle that asks to run {unsafe[1]}, which loading weights never needs"
    if "TorchScript" in str(error):
        return "is a TorchScript program and not a file of tensors"
    return "is damaged or cut short, or not a file of tensors as torch.save writes it"


def _read_h5(path: Path) -> Contents:
    """Every array as "layer/part"; Keras nests them to various depths, always with the layer right above the array."""
    import h5py

    def arrays(group: h5py.Group) -> Iterator[tuple[str, Tensor]]:
        for value in group.values():
            if isinstance(value, h5py.Group):
                yield from arrays(value)
            elif isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                layer, part = value.name.split("/")[-2:]
                yield f"{layer}/{part.split(':')[0]}", torch.from_numpy(np.asarray(value[()], dtype=np.float32))

    try:
        with h5py.File(path, "r") as file:
            if "layers" in file or "_layer_checkpoint_dependencies" in file:
                refuse(path, "is a Keras 3 .weights.h5, which has no layer names; save the model as .h5 instead")
            # `model.save` puts the optimizer's moments, under the same layer names, beside the weights.
            tensors = dict(arrays(file.get("model_weights", file)))
    except InputError:  # it is a ValueError too
        raise
    except (OSError, RuntimeError, ValueError) as error:
        refuse(path, f"is a damaged HDF5 file ({error})")
    if not tensors:
        refuse(path, "is an HDF5 file without arrays")
    return Contents(tensors)


def refuse(path: Path, what: str) -> NoReturn:
    """Raise InputError that says what a file is, and what is accepted."""
    raise InputError(f"weights {path}: this {what}; {ACCEPTED}.")
