import torch
from torch import nn

from backbone import MobileNetV1, count
from backbone.cost import by_kind, total


def figures(module, image):
    return [(row.kind, row.mult_adds, row.params, row.weights) for row in count(module, image)]


def test_layers_of_every_kind_cost_what_a_hand_counts():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 10 x 12 -> 5 x 6: 30 cells x 8 outputs x 27 weights
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False),  # 30 x 16 x 9
        nn.Conv2d(16, 4, 1),  # 30 x 4 x 16
        nn.Conv2d(4, 6, (1, 5), groups=2),  # 5 x 2 cells x 6 x (2 x 5)
        nn.ConvTranspose2d(6, 2, 2, stride=2),  # 10 cells x 6 inputs x (2 x 4)
        nn.Flatten(),
        nn.Linear(80, 7),  # 10 x 4 cells x 2 = 80
    )
    assert figures(module, (10, 12)) == [
        ("Conv 3x3", 30 * 8 * 27, 8 * 27 + 8, 8 * 27),
        ("Batch norm", 0, 16, 0),
        ("Conv DW 3x3", 30 * 16 * 9, 16 * 9, 16 * 9),
        ("Conv 1x1", 30 * 4 * 16, 4 * 16 + 4, 4 * 16),
        ("Conv 1x5", 10 * 6 * 10, 60 + 6, 60),
        ("Conv 2x2", 10 * 6 * 8, 48 + 2, 48),
        ("Fully Connected", 7 * 80, 7 * 80 + 7, 7 * 80),
    ]


class Shared(nn.Module):
    """Takes uint8, returns a dictionary, calls one layer twice, ties two weights, and never calls a third layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Conv2d(3, 2, 1)
        self.tied = nn.Conv2d(3, 2, 1, bias=False)
        self.tied.weight = self.head.weight
        self.unused = nn.Linear(4, 5)

    def forward(self, images):
        assert images.dtype == torch.uint8
        x = images.float() * self.scale[:, None, None]
        return {"large": self.head(x), "small": [self.head(x[..., ::2, ::2])], "tied": self.tied(x)}


def test_a_detection_like_model_counts_each_call_and_each_parameter_once():
    module = Shared().train()
    module.scale.data[0] = 5
    rows = {row.name: row for row in count(module, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))}
    assert (rows["head"].mult_adds, rows["head"].params) == ((64 + 16) * 2 * 3, 8)
    assert (rows["tied"].mult_adds, rows["tied"].params) == (64 * 2 * 3, 0)
    assert (rows["unused"].mult_adds, rows["unused"].params) == (0, 25)
    assert rows[""].params == 3
    assert total(rows.values()).params == sum(p.numel() for p in module.parameters())


def test_counting_leaves_the_module_as_it_was():
    module = MobileNetV1(0.25).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count(module, (64, 64))
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_sums_by_kind_add_up_to_the_total():
    rows = count(MobileNetV1(0.5), (97, 64))
    kinds = by_kind(rows)
    assert list(kinds) == ["Conv 1x1", "Conv DW 3x3", "Conv 3x3", "Batch norm"]
    assert tuple(map(sum, zip(*kinds.values(), strict=True))) == total(rows)


def test_layers_say_their_shapes():
    first = count(MobileNetV1(), (225, 64))[0]
    assert (first.name, first.input_shape, first.output_shape) == ("stem.0", (3, 225, 64), (32, 113, 32))
