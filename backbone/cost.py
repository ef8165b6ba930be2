"""Mult-adds and parameters of any module at any image size, counted from the real layers as the paper counts them.

A mult-add is one multiplication with a weight and one addition, in convolutions and fully connected layers; biases,
normalisation, activations and pooling are free, as in the paper's tables. One mult-add is two FLOPs.
"""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for the input it was counted with; shapes are without the batch dimension.

    `weights` are the factors that mult-adds multiply with (Table 2 counts these alone), `params` all that is learnt:
    weights, biases and the scale and shift of normalisation. A layer called several times has its params once.
    """

    name: str
    kind: str
    mult_adds: int
    params: int
    weights: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


class Cost(NamedTuple):
    """Sums over layers."""

    mult_adds: int
    params: int
    weights: int


def count(module: nn.Module, image: Tensor | tuple[int, int]) -> list[LayerCost]:
    """Count each layer of a module that owns parameters, in the order of first call; layers never called come last.

    `image` is one input, (1, 3, H, W) of the dtype the module takes, or its size (H, W) in px for a float one. The
    module is run in evaluation mode as a copy without data (the meta device), so it is neither changed nor slow.
    """
    # A memo that already holds an empty stand-in for each tensor: the copy shares what the original shares, no data.
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    shadow = copy.deepcopy(module, memo).eval()
    names = {layer: name for name, layer in shadow.named_modules() if layer._parameters}
    shapes: dict[nn.Module, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    mult_adds: Counter[nn.Module] = Counter()

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes.setdefault(layer, (_shape(inputs), _shape(output)))
        mult_adds[layer] += _mult_adds(layer, inputs, output)

    for layer in names:
        layer.register_forward_hook(record)
    with torch.no_grad():
        shadow(torch.empty(1, 3, *image, device="meta") if isinstance(image, tuple) else image.to("meta"))

    rows: list[LayerCost] = []
    seen: set[Tensor] = set()  # a parameter that layers share is learnt once
    for layer in (*shapes, *(x for x in names if x not in shapes)):
        own = {p for p in layer._parameters.values() if p is not None} - seen
        seen |= own
        params = sum(p.numel() for p in own)
        weights = layer.weight.numel() if isinstance(layer, _ConvNd | nn.Linear) and layer.weight in own else 0
        before, after = shapes.get(layer, ((), ()))
        rows.append(LayerCost(names[layer], kind_of(layer), mult_adds[layer], params, weights, before, after))
    return rows


def total(rows: Iterable[LayerCost]) -> Cost:
    """Sum up layers."""
    mult_adds, params, weights = 0, 0, 0
    for row in rows:
        mult_adds, params, weights = mult_adds + row.mult_adds, params + row.params, weights + row.weights
    return Cost(mult_adds, params, weights)


def by_kind(rows: Iterable[LayerCost]) -> dict[str, Cost]:
    """Sum up layers of each kind, the most mult-adds first."""
    kinds: dict[str, list[LayerCost]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return dict(sorted(((kind, total(group)) for kind, group in kinds.items()), key=lambda item: -item[1].mult_adds))


def kind_of(layer: nn.Module) -> str:
    """Table 2's name for a kind of layer: Conv 1x1, Conv DW 3x3, Conv 3x3, Fully Connected; others by analogy."""
    if isinstance(layer, _ConvNd):
        depthwise = layer.groups == layer.in_channels > 1
        return f"Conv {'DW ' if depthwise else ''}{'x'.join(str(k) for k in layer.kernel_size)}"
    if isinstance(layer, nn.Linear):
        return "Fully Connected"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return "Batch norm"
    return "Other"


def _mult_adds(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    if not isinstance(layer, _ConvNd | nn.Linear):
        return 0
    # One output of a convolution takes weight[0].numel() products; in a transposed one, that is what one input gives.
    elements: Tensor = inputs[0] if getattr(layer, "transposed", False) else output
    return elements.numel() * layer.weight[0].numel()


def _shape(value: Any) -> tuple[int, ...]:
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
