"""Fine-tuning for int8 makes what int8 gives more like what float gave."""

import numpy as np
import pytest
import torch
from helpers import busy
from torch import nn

from tasks.classification.module import ClassificationModule
from tasks.deployment import executorch_file, qat
from tasks.deployment.graph import Deployed

pytest.importorskip("torchao")

SIZE = (32, 32)


def images(count, seed):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fine = nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.slow
def test_it_brings_int8_nearer_to_float_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network = Deployed(busy(ClassificationModule({i: str(i) for i in range(4)}, SIZE, width_mult=0.25)), SIZE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [images(16, seed).numpy() for seed in range(4)]
    tuned = qat.fine_tune(network, batches, epochs=1, lr=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert tuned.state_dict().keys() == before.keys()
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    pixels = images(64, seed=100).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        expected = network.network(pixels)
        errors = [
            (executorch_file.quantized(of, batches[:2], "minmax").network(pixels) - expected).square().mean().item()
            for of in (network, tuned)
        ]
    assert errors[1] < 0.5 * errors[0]
    assert np.isfinite(errors).all()
