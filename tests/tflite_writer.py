"""Small TensorFlow Lite files as its converter lays them out, written from our own networks with folded norms."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tflite
import torch
from torch import nn

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}


class Writer:
    """Tensors and operators in the order of their adding; `write` makes the file."""

    def __init__(self, side: int, quantised: str = "") -> None:
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[tuple] = []
        self.quantised = quantised
        kind = quantised or "float32"
        self.input = self.tensor((1, side, side, 3), type=kind, scale=[1 / 128], zero=[128] if kind == "uint8" else [0])

    def tensor(self, shape, data=None, type="float32", scale=(), zero=()) -> int:
        self.tensors.append({"shape": shape, "data": data, "type": type, "scale": scale, "zero": zero})
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray, channel_axis: int | None = None) -> int:
        """Weights in the file's type: as they are, in uint8 as a whole, or in int8 for each channel."""
        values = values.astype(np.float32)
        if not self.quantised or values.ndim == 1:
            return self.tensor(values.shape, values)
        if self.quantised == "float16":
            half = self.tensor(values.shape, values.astype(np.float16), "float16")
            return self.operate("DEQUANTIZE", [half], values.shape)
        if self.quantised == "uint8":
            low, high = min(values.min(), 0), max(values.max(), 0)
            scale = np.array([(high - low) / 255])
            zero = np.rint(-low / scale).astype(np.int64)
            integers = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
            return self.tensor(values.shape, integers, "uint8", scale, zero)
        others = tuple(axis for axis in range(values.ndim) if axis != channel_axis)
        scale = np.abs(values).max(others, keepdims=True) / 127
        integers = np.rint(values / scale).astype(np.int8)
        index = self.tensor(values.shape, integers, "int8", scale.ravel(), np.zeros(scale.size, np.int64))
        self.tensors[index]["axis"] = channel_axis
        return index

    def operate(self, kind: str, inputs: list[int], shape, **options) -> int:
        output = self.tensor(shape, type="uint8" if self.quantised == "uint8" else "float32", scale=[0.05], zero=[100])
        self.operators.append((kind, inputs, [output], options))
        return output

    def convolution(self, x: int, weight: np.ndarray, bias: np.ndarray, stride: int = 1, activation: int = 3) -> int:
        """Of weight (out, in / groups, h, w), as PyTorch has it."""
        depthwise = weight.shape[1] == 1 and weight.shape[2] == 3
        laid_out = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        side = -(-self.tensors[x]["shape"][1] // stride)
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        inputs = [x, self.constant(laid_out, 3 if depthwise else 0), self.constant(bias)]
        return self.operate(kind, inputs, (1, side, side, len(weight)), stride=stride, activation=activation)

    def folded(self, x: int, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> int:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = (convolution.weight * scale[:, None, None, None]).detach().numpy()
        bias = (norm.bias - norm.running_mean * scale).detach().numpy()
        return self.convolution(x, weight, bias, convolution.stride[0])

    def trunk(self, trunk) -> list[int]:
        """All 13 blocks; the tensors of the maps of stride 16 and 32."""
        x = self.folded(self.input, trunk.stem[0], trunk.stem[1])
        maps = []
        for block in trunk.blocks:
            for first in (0, 3):
                x = self.folded(x, block[first], block[first + 1])
            maps.append(x)
        return [maps[10], maps[12]]

    def classifier(self, x: int, weight: np.ndarray, bias: np.ndarray) -> None:
        pooled = self.operate("AVERAGE_POOL_2D", [x], (1, 1, 1, weight.shape[1]))
        logits = self.convolution(pooled, weight[:, :, None, None], bias, activation=0)
        self.operate("SOFTMAX", [self.operate("RESHAPE", [logits], (1, len(bias)))], (1, len(bias)))

    def detector(self, maps: list[int], head, background: float, scores: str = "LOGISTIC") -> None:
        """A focal `ssd` head: background columns are put in front, boxes turned to y, x, h, w."""
        for extra in head.extras:
            x = self.folded(maps[-1], extra[0], extra[1])
            maps = [*maps, self.folded(x, extra[3], extra[4])]
        reshaped: dict[str, list[int]] = {"boxes": [], "classes": []}
        for x, boxes, classes in zip(maps, head.box_heads, head.class_heads, strict=True):
            n = len(boxes[-1].bias) // 4
            for kind, predictor, columns in (("boxes", boxes[-1], 4), ("classes", classes[-1], head.columns)):
                weight = predictor.weight.detach().numpy().reshape(n, columns, -1, 1, 1)
                bias = predictor.bias.detach().numpy().reshape(n, columns)
                if kind == "boxes":
                    weight, bias = weight[:, [1, 0, 3, 2]], bias[:, [1, 0, 3, 2]]
                else:
                    weight = np.concatenate([np.zeros_like(weight[:, :1]), weight], 1)
                    bias = np.concatenate([np.full_like(bias[:, :1], background), bias], 1)
                y = self.convolution(x, weight.reshape(-1, *weight.shape[2:]), bias.ravel(), activation=0)
                reshaped[kind].append(self.operate("RESHAPE", [y], (1, -1, weight.shape[1])))
        boxes = self.operate("CONCATENATION", reshaped["boxes"], (1, -1, 4))
        classes = self.operate("CONCATENATION", reshaped["classes"], (1, -1, head.columns + 1))
        scored = self.operate(scores, [classes], (1, -1, head.columns + 1))
        size = torch.tensor(head.input_size).flip(0).repeat(2)
        sides = [tuple(self.tensors[x]["shape"][1:3]) for x in maps]
        anchors = (head.anchors(sides, torch.device("cpu")) / size)[:, [1, 0, 3, 2]].numpy()
        self.operate("CUSTOM", [boxes, scored, self.tensor(anchors.shape, anchors)], ())

    def write(self, path: Path) -> Path:
        builder = flatbuffers.Builder(1 << 16)

        def vector(start, values, prepend) -> int:
            start(builder, len(values))
            for value in reversed(values):
                prepend(value)
            return builder.EndVector()

        empty = builder.CreateByteVector(b"")
        buffers, tensors = [], []
        for i, row in enumerate([{"data": None}, *self.tensors]):  # the first buffer is empty, as the format wants
            data = row["data"]
            content = empty if data is None else builder.CreateByteVector(np.ascontiguousarray(data).tobytes())
            tflite.BufferStart(builder)
            tflite.BufferAddData(builder, content)
            buffers.append(tflite.BufferEnd(builder))
            if i == 0:
                continue
            shape = vector(tflite.TensorStartShapeVector, row["shape"], builder.PrependInt32)
            name = builder.CreateString(f"tensor{i}")
            scale = builder.CreateNumpyVector(np.asarray(row["scale"], np.float32))
            zero = builder.CreateNumpyVector(np.asarray(row["zero"], np.int64))
            tflite.QuantizationParametersStart(builder)
            if row["type"] not in ("float32", "float16"):
                tflite.QuantizationParametersAddScale(builder, scale)
                tflite.QuantizationParametersAddZeroPoint(builder, zero)
                tflite.QuantizationParametersAddQuantizedDimension(builder, row.get("axis") or 0)
            quantization = tflite.QuantizationParametersEnd(builder)
            tflite.TensorStart(builder)
            tflite.TensorAddShape(builder, shape)
            tflite.TensorAddType(builder, TYPES[row["type"]])
            tflite.TensorAddBuffer(builder, i)
            tflite.TensorAddName(builder, name)
            tflite.TensorAddQuantization(builder, quantization)
            tensors.append(tflite.TensorEnd(builder))
        kinds = sorted({kind for kind, *_ in self.operators})
        codes = []
        for kind in kinds:
            number = getattr(tflite.BuiltinOperator, kind)
            tflite.OperatorCodeStart(builder)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(number, 127))
            tflite.OperatorCodeAddBuiltinCode(builder, number)
            codes.append(tflite.OperatorCodeEnd(builder))
        operators = [self._operator(builder, vector, kinds, *operator) for operator in self.operators]
        table = vector(tflite.SubGraphStartTensorsVector, tensors, builder.PrependUOffsetTRelative)
        inputs = vector(tflite.SubGraphStartInputsVector, [self.input], builder.PrependInt32)
        steps = vector(tflite.SubGraphStartOperatorsVector, operators, builder.PrependUOffsetTRelative)
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, table)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOperators(builder, steps)
        graph = tflite.SubGraphEnd(builder)
        graphs = vector(tflite.ModelStartSubgraphsVector, [graph], builder.PrependUOffsetTRelative)
        code_table = vector(tflite.ModelStartOperatorCodesVector, codes, builder.PrependUOffsetTRelative)
        buffer_table = vector(tflite.ModelStartBuffersVector, buffers, builder.PrependUOffsetTRelative)
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, 3)
        tflite.ModelAddOperatorCodes(builder, code_table)
        tflite.ModelAddSubgraphs(builder, graphs)
        tflite.ModelAddBuffers(builder, buffer_table)
        builder.Finish(tflite.ModelEnd(builder), b"TFL3")
        path.write_bytes(builder.Output())
        return path

    @staticmethod
    def _operator(builder, vector, kinds, kind, inputs, outputs, options) -> int:
        ins = vector(tflite.OperatorStartInputsVector, inputs, builder.PrependInt32)
        outs = vector(tflite.OperatorStartOutputsVector, outputs, builder.PrependInt32)
        table = None
        if kind.endswith("CONV_2D"):
            name = "DepthwiseConv2DOptions" if kind.startswith("DEPTHWISE") else "Conv2DOptions"
            option = {part: getattr(tflite, f"{name}{part}") for part in ("Start", "AddStrideW", "AddStrideH", "End")}
            option["Start"](builder)
            option["AddStrideW"](builder, options["stride"])
            option["AddStrideH"](builder, options["stride"])
            getattr(tflite, f"{name}AddPadding")(builder, 0)
            getattr(tflite, f"{name}AddFusedActivationFunction")(builder, options["activation"])
            table = option["End"](builder)
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, kinds.index(kind))
        tflite.OperatorAddInputs(builder, ins)
        tflite.OperatorAddOutputs(builder, outs)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, name))
            tflite.OperatorAddBuiltinOptions(builder, table)
        return tflite.OperatorEnd(builder)
