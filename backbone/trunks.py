"""`python -m backbone trunks`: what the networks that serve as trunks cost, counted and measured here."""

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

SIZE = 224  # px, at which all of these accuracies were published


class Published(NamedTuple):
    """A network as `--model.trunk` names it, and its published ImageNet top-1 in percent with whose it is."""

    trunk: str
    width_mult: float | None
    top1: float
    source: str


# Ours: the paper's Table 6. timm's: results/results-imagenet.csv of huggingface/pytorch-image-models, August 2026, at
# 224 px; the best weights there that saw ImageNet-1k alone.
PUBLISHED = (
    Published("mobilenetv1", 0.25, 50.6, "the paper"),
    Published("mobilenetv1", 0.5, 63.7, "the paper"),
    Published("mobilenetv1", 0.75, 68.4, "the paper"),
    Published("mobilenetv1", 1.0, 70.6, "the paper"),
    Published("timm:mobilenetv1_100", None, 75.388, "ra4_e3600_r224_in1k"),
    Published("timm:mobilenetv2_100", None, 72.910, "ra_in1k"),
    Published("timm:mobilenetv3_large_100", None, 76.310, "ra4_e3600_r224_in1k"),
    Published("timm:mobilenetv4_conv_small", None, 73.756, "e2400_r224_in1k"),
    Published("timm:repvit_m0_9", None, 79.058, "dist_450e_in1k"),
    Published("timm:mobileone_s1", None, 75.760, "apple_in1k"),
    Published("timm:efficientnet_lite0", None, 75.488, "ra_in1k"),
)


def measure(network: Published, runs: int = 20) -> dict[str, Any]:
    """Mult-adds and parameters with a classifier of 1,000 classes, and the median time of one image on one core, in ms.

    The network is in its form for inference, channels last, at 224 px. InputError where timm is needed and missing.
    """
    import torch

    from backbone.cost import count, total

    module = _classifier(network).eval().to(memory_format=torch.channels_last)
    cost = total(count(module, (SIZE, SIZE)))
    image = torch.zeros(1, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            times = []
            for _ in range(runs + 3):
                start = time.perf_counter()
                module(image)
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {
        "trunk": network.trunk,
        "width_mult": network.width_mult,
        "mult_adds": cost.mult_adds,
        "params": cost.params,
        "milliseconds": round(1000 * statistics.median(times[3:]), 2),
        "published_top1": network.top1,
        "published_by": network.source,
    }


def _classifier(network: Published) -> "nn.Module":
    from torch import nn

    from backbone.mobilenet import MobileNetV1
    from backbone.timm_trunk import PREFIX, create_timm, for_inference

    if network.trunk.startswith(PREFIX):
        return for_inference(create_timm(network.trunk.removeprefix(PREFIX)).eval())
    trunk = MobileNetV1(network.width_mult or 1.0)
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(trunk.channels[32], 1000))
