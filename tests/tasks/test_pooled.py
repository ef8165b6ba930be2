import pytest
import torch

from backbone import normalize, trunk_from
from tasks.pooled import PooledLinear, PooledNetwork, pooled_network


def network(outputs, **options):
    trunk = trunk_from({"width_mult": 0.25})
    return PooledNetwork(trunk, PooledLinear(trunk.channels, outputs, **options))


def test_logits_are_the_mean_of_the_last_map_times_the_weights():
    torch.manual_seed(0)
    model = network(7, dropout=0.9).eval()
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    last = model.trunk.features(normalize(images, model.trunk.preprocessing))[32]
    assert last.shape == (2, 256, 3, 2)
    pooled = torch.stack([last[:, :, i, j] for i in range(3) for j in range(2)]).sum(0) / 6
    expected = pooled @ model.layers.linear.weight.T + model.layers.linear.bias
    torch.testing.assert_close(model(images), expected)


def test_the_head_computes_in_float32_under_autocast():
    model = network(7).eval()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.pool(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        assert features.dtype == torch.float32
        assert model.layers.classify(features).dtype == torch.float32


def test_dropout_scales_what_it_leaves_and_rests_in_evaluation():
    torch.manual_seed(0)
    model = network(256, dropout=0.25).layers
    with torch.no_grad():
        model.linear.weight.copy_(torch.eye(256))
    seen = model.classify(torch.ones(50, 256))
    assert seen.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (seen == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(model.eval().classify(torch.ones(1, 256)), torch.ones(1, 256))


def test_every_parameter_gets_a_gradient():
    model = network(5)
    model(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_bottleneck_is_a_matrix_of_that_rank():
    model = network(40, bottleneck=3).layers.eval()
    features = torch.randn(50, 256)
    with torch.no_grad():
        answers = model.classify(features) - model.linear.bias
        product = model.linear.weight @ model.bottleneck.weight
        torch.testing.assert_close(answers, features @ product.T)
    assert torch.linalg.matrix_rank(product) == 3
    assert sum(p.numel() for p in (*model.bottleneck.parameters(), *model.linear.parameters())) == 3 * 256 + 40 * 4


def test_a_checkpoints_network_is_built_from_its_settings_and_weights_alone():
    torch.manual_seed(0)
    model = network(6, bottleneck=4).eval()
    weights = {f"trunk.{name}": value for name, value in model.trunk.state_dict().items()}
    weights |= {f"head.layers.{name}": value for name, value in model.layers.state_dict().items()}
    trunk = {"width_mult": 0.25, "numerics": None}
    again = pooled_network({"trunk": trunk, "state_dict": {**weights, "projector.weight": torch.zeros(2, 2)}})
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
