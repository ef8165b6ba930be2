"""A network as an ONNX file, in float or in int8."""

import contextlib
import errno
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbone.errors import InputError
from tasks.deployment import INPUT, METADATA
from tasks.deployment.graph import Deployed
from tasks.deployment.suppression import onnx_suppress

# 20 is torch's own default; with it is everything that we export, and ONNX Runtime has run it since 1.17 (2024).
_OPSET = 20
_LAYERS, _ACTIVATIONS = ("Conv", "Gemm"), ("Clip", "Relu")
Calibration = Literal["minmax", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile")
_LITTLE = 1 << 24  # bytes: of a disk with no more left, what was written last is probably not whole
# What is cut off: of the activations that 200 images give a layer the part of 1e-5 that is farthest out.
_PERCENTILE = 99.999


def check_installed() -> None:
    """Raise InputError where what writes and runs ONNX files is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx needs the package {error.name}, which is not installed: pip install --editable '.[onnx]'."
        ) from error


def write_onnx(network: Deployed, path: Path) -> None:
    """Write the network in float32; the number of images in a batch is free, all else is fixed."""
    example = network.example()
    batch = torch.export.Dim("batch", min=1, max=4096)
    with quiet(), torch.no_grad():
        traced = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        # A clamp becomes the same Clip; to take a ReLU6 apart costs torch more than all the rest of the export.
        for node in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.hardtanh_.default):
            if len(node.args[0].users) == 1:  # as it is in place, what it changes is nobody else's
                node.target = torch.ops.aten.clamp.default
        program = torch.onnx.export(
            traced,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=list(network.outputs),
            external_data=False,
            custom_translation_table={torch.ops.mobilenet_tasks.suppress.default: onnx_suppress},
        )
        assert program is not None
        program.save(path)


def quantize_onnx(source: Path, path: Path, images: Sequence[np.ndarray], method: Calibration) -> None:
    """Write the int8 form of a float file: convolutions and linear layers, weights per channel, activations uint8.

    `images` are batches of uint8 (B, height, width, 3) by which the activations' ranges are found: their extremes, or
    all but 1e-5 of them. What is behind the network, as decoding and suppression, stays in float.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        place, end = 0, 0

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.place, self.end = start_index, end_index

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.place += 1
            return {INPUT: images[self.place - 1]} if self.place <= self.end else None

    methods = quantization.CalibrationMethod
    # An activation takes the place of its convolution's output, so that no integer is spent on what it cuts off; those
    # behind the network, of boxes, are no activations.
    graph = onnx.load(source).graph
    layers = {output for node in graph.node if node.op_type in _LAYERS for output in node.output}
    others = [node.name for node in graph.node if node.op_type in _ACTIVATIONS and node.input[0] not in layers]
    with quiet(), _full_disk_told(path.parent):
        quantization.quantize_static(
            source,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*_LAYERS, *_ACTIVATIONS],
            nodes_to_exclude=others,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=methods.MinMax if method == "minmax" else methods.Percentile,
            extra_options={
                "CalibPercentile": _PERCENTILE,
                "CalibTensorRangeSymmetric": False,
                "CalibStridedMinMax": 1,  # batches at once, whose activations are held in memory; of both methods
            },
        )


def add_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Put metadata into an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    onnx.save(model, path)


@contextlib.contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Raise the error of a full disk where ONNX stumbles over what it could not write whole, and says no more."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < _LITTLE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch, ONNX Runtime and ExecuTorch say to programmers from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
