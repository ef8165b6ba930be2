import pytest
import torch

from backbone import MobileNetV1
from tasks.detection.loss import multibox_loss
from tasks.detection.matcher import match
from tasks.detection.model import SSD, set_class_prior


@pytest.mark.parametrize(
    ("head", "columns", "parameters"),
    [
        ("ssd", 91, 6_819_839),  # Table 13's 6.8 M: 90 classes and background
        ("ssd", 90, 6_805_214),
        ("ssd", 81, 6_673_589),
        ("ssd", 21, 5_796_089),
        ("ssdlite", 81, 5_100_661),  # MobileNetV2's paper, Table 6: 5.1 M
        ("ssdlite", 91, 5_246_911),
    ],
)
def test_parameters_are_those_of_the_published_networks(head, columns, parameters):
    with torch.device("meta"):
        model = SSD(MobileNetV1(), columns, head)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 224), (161, 97)])
def test_any_size_has_one_anchor_an_answer(head, height, width):
    model = SSD(MobileNetV1(0.25), 4, head).eval()
    answer = model(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    count = len(answer.anchors)
    assert answer.class_logits.shape == (2, count, 4)
    assert answer.box_codes.shape == (2, count, 4)


def test_weights_of_300_pixels_answer_at_224():
    torch.manual_seed(0)
    first = SSD(MobileNetV1(0.25), 4).eval()
    first(torch.zeros(1, 3, 300, 300, dtype=torch.uint8))
    second = SSD(MobileNetV1(0.25), 4).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    assert torch.equal(first(images).class_logits, second(images).class_logits)
    # 14, 7, 4, 2, 1, 1 cells a side: 3 * 196 + 6 * (49 + 16 + 4 + 1 + 1)
    assert len(first(images).anchors) == 1014


def test_logits_stand_beside_the_anchor_of_their_cell():
    """A bright patch must move the answers of the anchors that lie on it more than those far away."""
    torch.manual_seed(0)
    model = SSD(MobileNetV1(0.25), 3).eval()
    black = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    patch = black.clone()
    patch[..., 192:240, 16:64] = 255  # low on the left
    with torch.no_grad():
        change = (model(patch).class_logits - model(black).class_logits).abs().sum(dim=2)[0]
        anchors = model(black).anchors
    finest = 16 * 16 * 3
    winner = anchors[change[:finest].argmax()]
    assert 0 <= winner[0] <= 96
    assert 160 <= winner[1] <= 256


@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
def test_every_parameter_gets_a_gradient(head):
    torch.manual_seed(0)
    model = SSD(MobileNetV1(0.25), 4, head)
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    answer = model(images)
    anchors = answer.anchors
    xyxy = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], dim=1)
    boxes = [xyxy[::40] + 1, xyxy[-36::5] + 1]  # objects for every map, none quite on its anchor
    labels = [torch.arange(len(b)) % 3 for b in boxes]
    sum(multibox_loss(*answer, match(xyxy, boxes, [torch.zeros(0, 4)] * 2), boxes, labels)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_class_prior_is_the_probability_of_every_class():
    model = SSD(MobileNetV1(0.25), 3).eval()
    set_class_prior(model, 0.01)
    for head in model.class_heads:
        torch.nn.init.zeros_(head[-1].weight)
    logits = model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).class_logits
    assert logits.sigmoid().flatten().tolist() == pytest.approx([0.01] * logits.numel())
