"""The network that is exported: images as a camera has them in, the head's answer out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from backbone.folded import fold_norms
from backbone.timm_trunk import reparameterized
from tasks.module import TaskModule


class Deployed(nn.Module):
    """uint8 RGB images (B, height, width, 3) to the tensors of the head's `answer`, whose names are `outputs`.

    The module is copied: its norms are folded into their convolutions, and a trunk that has a form for inference takes
    it. `network`, from uint8 (B, 3, height, width) to raw outputs, may be replaced by a quantised one. `size` is
    (height, width) px.
    """

    def __init__(self, module: TaskModule, size: tuple[int, int]) -> None:
        super().__init__()
        self.network: Any = copy.deepcopy(module).cpu().eval()
        self.network.trunk = reparameterized(self.network.trunk)
        self.head, self.size = self.network.head, size
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        fold_norms(self.network, self.network, image)
        self.requires_grad_(False).eval()
        with torch.inference_mode(False), torch.no_grad():
            self.outputs = tuple(self.head.answer(self.network(image)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The answer's tensors."""
        return tuple(self.head.answer(self.network(images.permute(0, 3, 1, 2))).values())

    def example(self, count: int = 2) -> Tensor:
        """Images to trace the network with."""
        return torch.zeros(count, *self.size, 3, dtype=torch.uint8)
