from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from backbone import InputError
from tasks.steps import files_of, no_loss, refuse_loss


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_a_batch_of_none_costs_nothing_and_gives_every_parameter_a_gradient_of_0():
    net = Net()
    loss = no_loss(net)
    loss.backward()
    assert loss.item() == 0
    assert [p.grad.abs().sum().item() for p in net.parameters()] == [0.0] * 6


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "nan"), (float("-inf"), "-inf")])
def test_a_loss_that_is_not_finite_is_told_with_its_step_and_images(value, name):
    with pytest.raises(InputError, match=rf"the loss is {name} at step 7 on images \['a.jpg', 3\]; look at these"):
        refuse_loss(torch.tensor(value), 7, ("a.jpg", 3))


@pytest.mark.parametrize("stage", ["training", "validating", "testing", "sanity_checking"])
def test_files_are_of_the_split_that_the_trainer_is_at(stage):
    net = Net()
    net._trainer = SimpleNamespace(
        training=stage == "training",
        testing=stage == "testing",
        datamodule=SimpleNamespace(file=lambda split, position: f"{split}/{position}"),
    )
    split = {"training": "train", "testing": "test"}.get(stage, "val")
    assert files_of(net, {"positions": torch.tensor([4, 0])}) == [f"{split}/4", f"{split}/0"]
