"""Batch norms that were folded into their convolutions, and what they need before they can be trained.

In training a norm divides by the batch's own statistics, which one of mean 0 and variance 1 does not have: the first
step would compute another function than the weights were trained for, and the start is worse than none.
"""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn


def folded_norm(bias: Tensor, eps: float) -> dict[str, Tensor]:
    """The parts of a batch norm that adds `bias` (channels,) and nothing else; `unfold_norms` makes it trainable."""
    ones = torch.ones_like(bias)
    return {"weight": ones * math.sqrt(1 + eps), "bias": bias, "running_mean": 0 * ones, "running_var": ones}


def folded_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """The norms of mean 0 and variance 1 that are not as new: they came folded into their convolutions."""
    return [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d) and _is_folded(*_parts(norm))]


def _parts(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], parts)  # every norm here has all four


def _is_folded(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> bool:
    new = (weight == 1).all() and not bias.any()
    return bool(not mean.any() and (variance == 1).all() and not new)


@torch.no_grad()
def unfold_norms(module: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> int:
    """Give the folded norms in `module` the statistics of their inputs; the function stays the same. Return how many.

    `forward` runs the module on each of `batches`. For input mean m and variance v of a channel: running_mean = m,
    running_var = v, weight = sqrt(v + eps), bias = bias + m.
    """
    norms = folded_norms(module)
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}  # of x, of x^2, number

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        values = x[:, 0].numel()
        sums[cast(nn.BatchNorm2d, norm)] += torch.stack(
            [x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), x.new_full((x.shape[1],), values)]
        )

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        for images in batches:
            forward(images)
    finally:
        for hook in hooks:
            hook.remove()
        for child, mode in modes.items():
            child.training = mode
    for norm in norms:
        weight, bias, running_mean, running_var = _parts(norm)
        total, squares, count = sums[norm]
        mean = total / count
        variance = (squares / count - mean * mean).clamp(min=0)
        scale = weight / (running_var + norm.eps).sqrt()  # 1, as they came
        bias += scale * mean
        weight.copy_(scale * (variance + norm.eps).sqrt())
        running_mean.copy_(mean)
        running_var.copy_(variance)
    return len(norms)


@torch.no_grad()
def fold_norms(module: nn.Module, forward: Callable[[Tensor], object], images: Tensor) -> None:
    """Fold each batch norm that follows a convolution into it, in place; in evaluation mode the function stays.

    Which convolution a norm follows is seen in one pass of `images`, so that a network may be of any build. What timm's
    norms do besides, their activation, stays in their place.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the id of an output, which is kept so that it stays its own
    pairs: dict[str, nn.Conv2d] = {}
    hooks = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            hooks.append(child.register_forward_hook(lambda conv, _, out: made.update({id(out): (conv, out)})))
        elif isinstance(child, nn.BatchNorm2d):

            def note(norm: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in made:
                    pairs[name] = made[id(inputs[0])][0]

            hooks.append(child.register_forward_pre_hook(note))
    module.eval()
    try:
        forward(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name, conv in pairs.items():
        norm = cast(nn.BatchNorm2d, module.get_submodule(name))
        weight, bias, mean, variance = _parts(norm)
        scale = weight / (variance + norm.eps).sqrt()
        conv.weight *= scale[:, None, None, None]
        shift = -mean if conv.bias is None else conv.bias - mean
        conv.bias = nn.Parameter(bias + shift * scale)
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, nn.Sequential(*rest) if rest else nn.Identity())
