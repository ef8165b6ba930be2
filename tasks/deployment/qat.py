"""Fine-tuning for int8: a network learns to give, rounded, what it gives in float."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils import _pytree as pytree

from tasks.deployment.executorch_file import graph_of, int8_quantizer
from tasks.deployment.graph import Deployed
from tasks.deployment.onnx_file import quiet

LR = 1e-5
_LEAST = 1e-12  # the variance of what is the same for all images of a batch


def fine_tune(network: Deployed, images: Sequence[np.ndarray], epochs: int, lr: float = LR, seed: int = 0) -> Deployed:
    """A network in float whose weights bear the rounding to int8 better, of either format's post-training quantisation.

    `images` are batches of uint8 (B, height, width, 3), without labels: with all weights and activations rounded, the
    network is trained to give the raw outputs that it gave in float. Their squared errors are summed over the tensors,
    each in units of its variance. Adam's rate follows a cosine from `lr` to 0.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    with quiet(), torch.inference_mode(False), torch.enable_grad():
        rounded = prepare_qat_pt2e(graph_of(network), int8_quantizer("qat")).requires_grad_()
        with torch.no_grad():
            for batch in images:  # the ranges to begin with
                rounded(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())
        steps = epochs * len(images)
        optimizer = torch.optim.Adam(rounded.parameters(), lr=lr)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            for i in random.permutation(len(images)):
                inputs = torch.from_numpy(images[i]).permute(0, 3, 1, 2).contiguous()
                with torch.no_grad():
                    expected = _tensors(network.network(inputs))
                losses = [
                    mse_loss(given, wanted) / wanted.var().clamp_min(_LEAST)
                    for given, wanted in zip(_tensors(rounded(inputs)), expected, strict=True)
                    if given.requires_grad  # not what is the same for every image, as anchors
                ]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                optimizer.step()
                scheduler.step()
    result, tuned = copy.deepcopy(network), dict(rounded.named_parameters())
    with torch.no_grad():
        for name, parameter in result.network.named_parameters():
            if name in tuned:  # not those that a head has for training alone
                parameter.copy_(tuned[name])
    return result


def _tensors(outputs: Any) -> list[Tensor]:
    return pytree.tree_leaves(outputs)
