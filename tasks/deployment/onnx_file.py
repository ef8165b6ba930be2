"""A network as an ONNX file, in float or in int8."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbone.errors import InputError
from tasks.deployment.graph import Deployed
from tasks.deployment.suppression import onnx_suppress

INPUT = "images"
METADATA = "mobilenet_tasks"  # the key of the metadata that hold ours, as JSON
# 20 is torch's own default; with it is everything that we export, and ONNX Runtime has run it since 1.17 (2024).
_OPSET = 20
Calibration = Literal["minmax", "percentile"]
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
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            torch.export.export(network, (example,), dynamic_shapes=({0: batch},)),
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


def quantize_onnx(source: Path, path: Path, images: Iterable[np.ndarray], method: Calibration) -> None:
    """Write the int8 form of a float file: convolutions and linear layers, weights per channel, activations uint8.

    `images` are batches of uint8 (B, height, width, 3) by which the activations' ranges are found: their extremes, or
    all but 1e-5 of them. What is behind the network, as decoding and suppression, stays in float.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        batches = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    kind = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "percentile": quantization.CalibrationMethod.Percentile,
    }[method]
    with _quiet():
        quantization.quantize_static(
            source,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=kind,
            extra_options={"CalibPercentile": _PERCENTILE, "CalibTensorRangeSymmetric": False},
        )


def add_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Put metadata into an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch and ONNX Runtime say to programmers from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
