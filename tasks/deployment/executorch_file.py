"""A network as an ExecuTorch file, .pte, for XNNPACK: in float or in int8."""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbone.errors import InputError
from backbone.files import replacing
from tasks.deployment import METADATA
from tasks.deployment.graph import Deployed
from tasks.deployment.onnx_file import quiet

CALIBRATIONS = ("minmax", "histogram")
Calibration = Literal["minmax", "histogram"]
_EPS = 2.0**-12  # the least step, as in ExecuTorch
_ROOM = 4096  # bytes that the metadata may grow by once the file is written


def check_installed() -> None:
    """Raise InputError where what writes and runs ExecuTorch files is not installed."""
    try:
        with quiet():
            import executorch.runtime  # noqa: F401
            import torchao  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a .pte file needs the package {error.name}, which is not installed: pip install --editable "
            "'.[executorch]'."
        ) from error


def write_executorch(network: Deployed, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the network for one image at a time, with the metadata inside, as the method `mobilenet_tasks`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # XNNPACK's importer knows no other
    with quiet(), torch.no_grad():
        lowered = to_edge_transform_and_lower(
            torch.export.export(contiguous, (network.example(1),)),
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA: json.dumps(metadata) + " " * _ROOM},
        )
        path.write_bytes(lowered.to_executorch().buffer)


def add_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Put metadata in the place of those that `write_executorch` has put into a file; the network is not lowered again.

    They may be 4,096 bytes longer. InputError where they are more.
    """
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method(METADATA)
    assert method is not None
    old, new = method.execute(())[0].encode(), json.dumps(metadata).encode()
    if len(new) > len(old):
        raise InputError(f"{path} has room for {len(old)} bytes of metadata, not for {len(new)}; export it again.")
    with replacing(path) as beside:  # another file, as the runtime maps the one that it runs into memory
        beside.write_bytes(path.read_bytes().replace(old, new.ljust(len(old))))


def quantized(network: Deployed, images: Sequence[np.ndarray], method: Calibration) -> Deployed:
    """The network in int8 up to its raw outputs: weights per channel, activations by the ranges that `images` give.

    `images` are batches of uint8 (B, height, width, 3). The ranges are the activations' extremes, or those of the
    least squared error by their histograms. What is behind the raw outputs, as decoding, stays in float.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    result = copy.deepcopy(network)
    with quiet(), torch.no_grad():
        prepared = prepare_pt2e(graph_of(network), int8_quantizer(method))
        for batch in images:
            prepared(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())
        result.network = convert_pt2e(prepared)
    return result


def graph_of(network: Deployed) -> torch.fx.GraphModule:
    """The network up to its raw outputs as one graph, of images in batches of any size; its parameters are copies."""
    contiguous = copy.deepcopy(network.network).to(memory_format=torch.contiguous_format)
    images = network.example().permute(0, 3, 1, 2).contiguous()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(contiguous, (images,), dynamic_shapes=({0: batch},))
    # To decompose nothing makes one graph of it: what heads compute without autocast is a graph of its own before.
    return program.run_decompositions({}).module()


def int8_quantizer(kind: Calibration | Literal["qat"]) -> Any:
    """XNNPACK's, of convolutions and linear layers alone, with observers of a calibration or with fake quantisation."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.fake_quantize import FakeQuantize
    from torchao.quantization.pt2e.observer import MinMaxObserver, MovingAveragePerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class Quantizer(XNNPACKQuantizer):
        """Rounds what a ReLU6 leaves of a convolution's output; XNNPACK's own does so of a ReLU alone."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            model = super().annotate(model)
            for node in model.graph.find_nodes(op="call_function", target=torch.ops.aten.hardtanh.default):
                before = node.args[0]
                of = before.meta.get(Q_ANNOTATION_KEY)
                if of and len(before.users) == 1:
                    spec, of.output_qspec = of.output_qspec, None
                    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=spec, _annotated=True)
            return model

    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=kind == "qat")
    activation, weight = config.input_activation, config.weight
    if kind == "minmax":  # else a histogram
        activation = _observed(activation, MinMaxObserver.with_args(eps=_EPS))
    if kind == "qat":  # ranges as after it: the extremes so far, and of weights those of the moment
        activation = _observed(activation, FakeQuantize.with_args(observer=MinMaxObserver, eps=_EPS))
        weights = {"observer": MovingAveragePerChannelMinMaxObserver, "averaging_constant": 1.0}
        weight = _observed(weight, FakeQuantize.with_args(**weights, eps=_EPS))
    config = dataclasses.replace(config, input_activation=activation, output_activation=activation, weight=weight)
    quantizer = Quantizer()
    for operator in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
        quantizer.set_operator_type(operator, config)
    return quantizer


def _observed(spec: Any, observer: Any) -> Any:
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=observer)
