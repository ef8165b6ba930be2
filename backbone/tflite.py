"""TensorFlow Lite files of MobileNet v1, classifiers and SSD detectors: their graph, and its weights as float tensors.

`tflite` is the format's own schema as Python classes over flatbuffers; nothing in a file is executed.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError

_LARGEST = 80_000_000  # bytes; an SSD of width 1 in float32 has 27 million; as float32 a byte of a weight is four
_MOST = 2000  # tensors or operators; MobileNet's SSD has 176 and 64, and a damaged file may say four billion
# Operators that hand their input on as it is, or in another shape or type.
_PASSING = {"RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE"}


class Operator(NamedTuple):
    """One step of the graph; inputs and outputs are numbers of tensors, -1 where one is left out."""

    kind: str  # the schema's name, as CONV_2D
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: int = 1
    padding: str = ""  # same or valid
    activation: str = ""  # none, relu or relu6


class Graph(NamedTuple):
    """The operators of a file in their order, its constants by number of tensor, and its input."""

    operators: list[Operator]
    constants: dict[int, np.ndarray]  # float32, dequantised
    input: int
    input_size: tuple[int, int]  # (height, width) px
    mean: float  # of pixel values scaled to 0..1, as the file says them where it is quantised
    std: float

    def users(self, tensor: int) -> list[Operator]:
        """The operators that read a tensor."""
        return [operator for operator in self.operators if tensor in operator.inputs]

    def comes_to(self, tensor: int) -> set[str]:
        """The kinds of all operators that a tensor has a part in."""
        kinds, reached = set(), {tensor}
        for operator in self.operators:  # they stand in the order of their running
            if reached & set(operator.inputs):
                kinds.add(operator.kind)
                reached |= set(operator.outputs)
        return kinds


def is_tflite(start: bytes) -> bool:
    """Whether a file's first bytes are those of TensorFlow Lite's flatbuffers."""
    return start[4:8] == b"TFL3"


def _read_graph(data: bytes) -> Graph:
    import tflite

    model = tflite.Model.GetRootAs(data)
    if model.SubgraphsLength() != 1:
        raise _AnotherNetwork(f"it has {model.SubgraphsLength()} graphs")
    graph = model.Subgraphs(0)
    numbers = graph.TensorsLength(), graph.OperatorsLength(), model.OperatorCodesLength()
    if max(numbers) > _MOST:
        raise _AnotherNetwork(f"it has {max(numbers):,} layers")
    kinds = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
    codes = [model.OperatorCodes(i) for i in range(numbers[2])]
    # The old field holds one byte; where it is full the new one counts (schema version 3a).
    names = [kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
    operators: list[Operator] = []
    passed: dict[int, int] = {}  # a tensor to the one that it hands on
    for i in range(numbers[1]):
        operator = _operator(tflite, graph.Operators(i), names)
        if operator.activation == "none" and _clipped_at_6(graph.Tensors(operator.outputs[0])):
            operator = operator._replace(activation="relu6")
        operator = operator._replace(inputs=tuple(passed.get(number, number) for number in operator.inputs))
        if operator.kind in _PASSING:
            passed[operator.outputs[0]] = operator.inputs[0]
        else:
            operators.append(operator)
    constants, room = {}, len(data) + (1 << 20)  # bytes; many tensors that share one buffer would fill the memory
    for i in range(numbers[0]):
        values = _constant(model, graph.Tensors(i), room)
        if values is not None:
            constants[i], size = values
            room -= size
    if graph.InputsLength() != 1:
        raise _AnotherNetwork(f"it has {graph.InputsLength()} inputs")
    tensor = graph.Tensors(graph.Inputs(0))
    shape = tuple(tensor.Shape(i) for i in range(_length(tensor.ShapeLength(), 4)))
    if len(shape) != 4 or shape[3] != 3 or not all(32 <= side <= 10_000 for side in shape[1:3]):
        raise _AnotherNetwork(f"its input is of shape {shape}, not (1, height, width, 3)")
    return Graph(operators, constants, graph.Inputs(0), shape[1:3], *_normalisation(tensor))


def _operator(tflite: Any, operator: Any, names: list[str]) -> Operator:
    kind = names[operator.OpcodeIndex()]
    inputs = tuple(operator.Inputs(i) for i in range(_length(operator.InputsLength(), _MOST)))
    outputs = tuple(operator.Outputs(i) for i in range(_length(operator.OutputsLength(), _MOST)))
    options = {
        "CONV_2D": tflite.Conv2DOptions,
        "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
    }.get(kind)
    if options is None:
        return Operator(kind, inputs, outputs)
    options, table = options(), operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    if options.StrideH() != options.StrideW() or {options.DilationHFactor(), options.DilationWFactor()} != {1}:
        raise _AnotherNetwork("it has dilated convolutions, or such of two strides")
    padding = {0: "same", 1: "valid"}[options.Padding()]
    activation = {0: "none", 1: "relu", 3: "relu6"}.get(options.FusedActivationFunction(), "another")
    return Operator(kind, inputs, outputs, options.StrideH(), padding, activation)


def _clipped_at_6(tensor: Any) -> bool:
    """Whether a quantised tensor's integers go from 0 to 6; converters may leave out the ReLU6 that this implies."""
    quantization, lowest = tensor.Quantization(), {3: 0, 9: -128}.get(tensor.Type())
    if quantization is None or quantization.ScaleLength() != 1 or quantization.ZeroPoint(0) != lowest:
        return False
    return abs(255 * quantization.Scale(0) - 6) < 0.03


def _constant(model: Any, tensor: Any, room: int) -> tuple[np.ndarray, int] | None:
    """A tensor's own values as float32, and their bytes in the file; None where it has none. ValueError if damaged."""
    if tensor.Buffer() >= model.BuffersLength():
        raise ValueError(f"there is no buffer {tensor.Buffer()}")
    buffer = model.Buffers(tensor.Buffer())
    size = buffer.DataLength()
    dtype = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 9: "i1"}.get(tensor.Type())
    if not size or dtype is None:
        return None
    if size > room:
        raise ValueError(f"a buffer has {size:,} bytes")
    shape = tuple(tensor.Shape(i) for i in range(_length(tensor.ShapeLength(), 8)))
    values = buffer.DataAsNumpy().view(dtype)
    if math.prod(shape) != len(values) or any(side < 0 for side in shape):
        raise ValueError(f"{len(values):,} values are of the shape {shape}")
    values = values.reshape(shape)
    quantization = tensor.Quantization()
    if values.dtype.kind != "f" and quantization is not None and quantization.ScaleLength():
        scale, zero = np.atleast_1d(quantization.ScaleAsNumpy()), np.atleast_1d(quantization.ZeroPointAsNumpy())
        if len(scale) > 1:  # one for each channel of this axis
            along = [1] * len(shape)
            along[quantization.QuantizedDimension()] = -1
            scale, zero = scale.reshape(along), zero.reshape(along) if len(zero) > 1 else zero
        # Integers of 32 bits do not fit into float32.
        values = values.astype(np.float64 if values.dtype.itemsize == 4 else np.float32)
        values -= zero
        values *= scale
    with np.errstate(over="ignore"):  # what is not finite is refused later
        return values.astype(np.float32), size


def _normalisation(tensor: Any) -> tuple[float, float]:
    """Mean and std of pixels in 0..1 by the input's quantisation; a float input has TensorFlow's x / 127.5 - 1."""
    quantization = tensor.Quantization()
    if tensor.Type() not in (3, 9) or quantization is None or quantization.ScaleLength() != 1:
        return 0.5, 0.5
    zero = quantization.ZeroPoint(0) + (128 if tensor.Type() == 9 else 0)
    mean, std = zero / 255, 1 / (255 * quantization.Scale(0))
    # 128 and 1 / 128 are 127.5 and 1 / 127.5 as far as integers can say them.
    return (0.5, 0.5) if abs(mean - 0.5) < 0.01 and abs(std - 0.5) < 0.01 else (mean, std)


def _length(length: int, most: int) -> int:
    if length > most:
        raise ValueError(f"a list of {length:,} entries")
    return length


# --- MobileNet v1 in the graph ----------------------------------------------------------------------------------------

Layer = tuple[Tensor, Tensor]  # weight (out, in / groups, height, width) and bias (out,)


class Detector(NamedTuple):
    """The SSD behind a trunk; batch norms are folded into its extras.

    `extras`: for each extra map a 1x1 and a 3x3 convolution of stride 2. `classes` and `boxes` have for each map, from
    stride 16 on, weight (n, columns, in, 1, 1) and bias (n, columns) of a cell's n anchors; column 0 of the classes is
    the background; boxes are coded x, y, w, h. `anchors` (A, 4) cxcywh are parts of the image, where the file has them.
    """

    extras: list[Layer]
    classes: list[Layer]
    boxes: list[Layer]
    sigmoid: bool  # a sigmoid for each class, not a softmax over all
    anchors: Tensor | None
    image_size: tuple[int, int]  # (height, width) px


class Network(NamedTuple):
    """A MobileNet v1 with what stands behind it; `trunk` are its 27 convolutions, norms folded into them."""

    trunk: list[Layer]
    activation: str
    image_size: tuple[int, int]  # (height, width) px
    mean: float
    std: float
    classifier: Layer | None
    detector: Detector | None


def read_network(path: Path, strides: Sequence[int]) -> Network:
    """Read a classifier or an SSD on MobileNet v1, whose blocks have these strides.

    Raises InputError where the file is damaged or of another network.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise _AnotherNetwork(f"it has {path.stat().st_size:,} bytes")
        graph = _read_graph(path.read_bytes())
        walk = _Walk(graph)
        trunk, maps = [walk.layer("the stem", "CONV_2D", 3, 2)], []
        for i, stride in enumerate(strides, 1):
            trunk.append(walk.layer(f"the depthwise layer of block {i}", "DEPTHWISE_CONV_2D", 3, stride))
            trunk.append(walk.layer(f"the pointwise layer of block {i}", "CONV_2D", 1, 1))
            if i == len(strides) or strides[i] == 2:
                maps.append(walk.at)
        follow = {user.kind for user in graph.users(walk.at)}
        classifier = detector = None
        if follow & {"AVERAGE_POOL_2D", "MEAN"}:
            classifier = _classifier(graph, walk.at)
        elif "CONV_2D" in follow:
            detector = _detector(graph, walk, maps[-2:])
        elif follow:
            raise _AnotherNetwork(f"{', '.join(sorted(follow))} follows the last block")
        if len(walk.activations) != 1:
            raise _AnotherNetwork(f"its activations are {' and '.join(sorted(walk.activations))}")
        return Network(trunk, walk.activations.pop(), graph.input_size, graph.mean, graph.std, classifier, detector)
    except _AnotherNetwork as error:
        raise InputError(
            f"weights {path}: this TensorFlow Lite file is no MobileNet v1 with a classifier or SSD heads: {error}."
        ) from None
    except (struct.error, LookupError, ValueError, TypeError, OverflowError, AttributeError, MemoryError) as error:
        # What a damaged file makes of the schema's classes, which check no offset.
        raise InputError(f"weights {path}: this TensorFlow Lite file is damaged ({error}); fetch it again.") from None


class _AnotherNetwork(Exception):
    """What in a graph is not as in MobileNet v1."""


class _Walk:
    """From layer to layer of a graph; one that MobileNet does not have there raises _AnotherNetwork."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at = graph.input
        self.activations: set[str] = set()

    def layer(self, what: str, kind: str, kernel: int, stride: int) -> Layer:
        """Go on to the one convolution of this kind that has an activation."""
        users = self.graph.users(self.at)
        found = [user for user in users if user.kind == kind and user.activation != "none"]
        if len(found) != 1:
            there = ", ".join(sorted({user.kind for user in users})) or "nothing"
            raise _AnotherNetwork(f"{what} is missing, and {there} stands there")
        layer = _weights(self.graph, found[0])
        shape = *layer[0].shape[2:], found[0].stride
        # A 1x1 convolution pads nothing either way.
        if shape != (kernel, kernel, stride) or (kernel > 1 and found[0].padding != "same"):
            raise _AnotherNetwork(f"{what} is {shape[0]}x{shape[1]} of stride {shape[2]}, {found[0].padding} padding")
        self.activations.add(found[0].activation)
        self.at = found[0].outputs[0]
        return layer


def _weights(graph: Graph, operator: Operator) -> Layer:
    """Weight (out, in / groups, height, width) and bias of a convolution or fully connected layer."""
    weight = torch.from_numpy(graph.constants[operator.inputs[1]])
    if operator.kind == "FULLY_CONNECTED":
        weight = weight[:, None, None]
    # Convolutions are (out, height, width, in), depthwise ones (1, height, width, out).
    weight = weight.permute((3, 0, 1, 2) if operator.kind == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)).contiguous()
    has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
    bias = torch.from_numpy(graph.constants[operator.inputs[2]]) if has_bias else torch.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"a bias of {tuple(bias.shape)} for a weight of {tuple(weight.shape)}")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError("weights that are not finite")
    return weight, bias


def _classifier(graph: Graph, tensor: int) -> Layer | None:
    """The layer behind the pooling, or None where the file ends there."""
    [pool] = graph.users(tensor)
    users = graph.users(pool.outputs[0])
    if not users:
        return None
    if len(users) != 1 or users[0].kind not in ("CONV_2D", "FULLY_CONNECTED"):
        raise _AnotherNetwork(f"{', '.join(user.kind for user in users)} follows the pooling")
    if unknown := graph.comes_to(users[0].outputs[0]) - {"SOFTMAX"}:
        raise _AnotherNetwork(f"{', '.join(unknown)} follows the classifier")
    return _weights(graph, users[0])


def _detector(graph: Graph, walk: _Walk, maps: list[int]) -> Detector:
    extras: list[Layer] = []
    for i in range(1, 5):
        extras.append(walk.layer(f"the 1x1 layer of extra map {i}", "CONV_2D", 1, 1))
        extras.append(walk.layer(f"the 3x3 layer of extra map {i}", "CONV_2D", 3, 2))
        maps = [*maps, walk.at]
    classes, boxes, scores = [], [], set()
    for tensor in maps:
        found = [user for user in graph.users(tensor) if user.kind == "CONV_2D" and user.activation == "none"]
        kinds = [graph.comes_to(user.outputs[0]) & {"LOGISTIC", "SOFTMAX"} for user in found]
        if sorted(map(len, kinds)) != [0, 1]:
            raise _AnotherNetwork(f"{len(found)} predictors stand where one for boxes and one for classes belong")
        box, of_class = (_weights(graph, found[i]) for i in (kinds.index(set()), kinds.index(max(kinds, key=len))))
        scores |= max(kinds, key=len)
        anchors = len(box[1]) // 4
        classes.append(_by_anchor(of_class, anchors))
        weight, bias = _by_anchor(box, anchors)
        swapped = [1, 0, 3, 2]  # theirs are y, x, h, w
        boxes.append((weight[:, swapped], bias[:, swapped]))
    found_anchors = [
        torch.from_numpy(graph.constants[number])[:, swapped]
        for operator in graph.operators
        if operator.kind == "CUSTOM"
        for number in operator.inputs
        if number in graph.constants and graph.constants[number].shape[1:] == (4,)
    ]
    anchors_cxcywh = found_anchors[0] if found_anchors else None
    if len(scores) != 1 or len({bias.shape[1] for _, bias in classes}) != 1:
        raise _AnotherNetwork("its predictors differ in their number of classes or kind of score")
    return Detector(extras, classes, boxes, scores == {"LOGISTIC"}, anchors_cxcywh, graph.input_size)


def _by_anchor(layer: Layer, anchors: int) -> Layer:
    weight, bias = layer
    return weight.unflatten(0, (anchors, -1)), bias.unflatten(0, (anchors, -1))
