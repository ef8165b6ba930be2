import math

import numpy as np
import pytest
import torch
from coco_content import annotation, content
from torchvision.ops import box_convert

from backbone import MobileNetV1, normalize
from data.readers.coco_file import parse_annotations
from tasks.detection.head import DetectionHead
from tasks.detection.module import DetectionModule


def categories(count):
    return {3 * i + 1: f"class {i}" for i in range(count)}


def module(size=(256, 256), **options):
    torch.manual_seed(0)
    return DetectionModule(categories(3), size, width_mult=0.25, **options).eval()


@pytest.mark.parametrize(
    ("design", "loss", "classes", "parameters"),
    [
        ("ssd", "multibox", 90, 6_819_839),  # Table 13's 6.8 M: 90 classes and background
        ("ssd", "focal", 90, 6_805_214),
        ("ssd", "multibox", 80, 6_673_589),
        ("ssd", "multibox", 20, 5_796_089),
        ("ssdlite", "multibox", 80, 5_100_661),  # MobileNetV2's paper, Table 6: 5.1 M
        ("ssdlite", "multibox", 90, 5_246_911),
    ],
)
def test_parameters_are_those_of_the_published_networks(design, loss, classes, parameters):
    with torch.device("meta"):
        trunk = MobileNetV1()
        head = DetectionHead(trunk.channels, categories(classes), (300, 300), design=design, loss=loss)
    assert sum(p.numel() for part in (trunk, head) for p in part.parameters()) == parameters


@pytest.mark.parametrize("width", [0.3, 0.75, 1.0, 1.4])
def test_the_extra_maps_are_as_wide_as_the_trunk_is(width):
    trunk = MobileNetV1(width)
    head = DetectionHead(trunk.channels, categories(2), (300, 300))
    widths = [extra[3].out_channels for extra in head.extras]
    assert widths == [max(16, int(full * width)) for full in (512, 256, 256, 128)]


@pytest.mark.parametrize("design", ["ssd", "ssdlite"])
@pytest.mark.parametrize("size", [(32, 32), (96, 224), (161, 97)])
def test_every_anchor_has_its_logits_and_box_at_any_size(design, size):
    outputs = module(size, head=design)(torch.zeros(2, 3, *size, dtype=torch.uint8))
    count = len(outputs.anchors)
    assert outputs.class_logits.shape == outputs.box_codes.shape == (2, count, 4)


def test_weights_of_300_pixels_work_at_224_and_a_head_refuses_maps_of_another_size():
    first, second = module((300, 300)), module((224, 224))
    first(torch.zeros(1, 3, 300, 300, dtype=torch.uint8))
    second.load_state_dict(first.state_dict())
    # 14, 7, 4, 2, 1, 1 cells a side: 3 * 196 + 6 * (49 + 16 + 4 + 1 + 1)
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    assert len(second(images).anchors) == 1014
    with pytest.raises(ValueError, match=r"\(14, 14\)"):
        first(images)


def test_logits_stand_beside_the_anchor_of_their_cell():
    """A bright patch must move the logits of the anchors that lie on it more than those far away."""
    net = module()
    black = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    patch = black.clone()
    patch[..., 192:240, 16:64] = 255  # low on the left
    with torch.no_grad():
        change = (net(patch).class_logits - net(black).class_logits).abs().sum(dim=2)[0]
        anchors = net(black).anchors
    winner = anchors[change[: 16 * 16 * 3].argmax()]  # of the finest map
    assert 0 <= winner[0] <= 96
    assert 160 <= winner[1] <= 256


@pytest.mark.parametrize("design", ["ssd", "ssdlite"])
def test_every_parameter_gets_a_gradient_without_lightning(design):
    torch.manual_seed(0)
    trunk = MobileNetV1(0.25)
    head = DetectionHead(trunk.channels, categories(3), (300, 300), design=design)
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    outputs = head(trunk.features(normalize(images, trunk.preprocessing)))
    xyxy = box_convert(outputs.anchors, "cxcywh", "xyxy")
    boxes = [xyxy[::40] + 1, xyxy[-36::5] + 1]  # objects for every map, none quite on its anchor
    labels = [torch.arange(len(b)) % 3 for b in boxes]
    batch = {"boxes_xyxy": boxes, "labels": labels, "crowd_xyxy": [torch.zeros(0, 4)] * 2}
    sum(head.loss(outputs, batch).values()).backward()
    for name, parameter in (*trunk.named_parameters(), *head.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_focal_loss_starts_with_a_class_probability_of_a_hundredth():
    net = module((64, 64), loss="focal")
    for predictor in net.head.class_heads:
        torch.nn.init.zeros_(predictor[-1].weight)
    logits = net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).class_logits
    assert logits.sigmoid().flatten().tolist() == pytest.approx([0.01] * logits.numel())


@pytest.mark.parametrize(("crowd", "map_50"), [(1, math.nan), (0, 1.0)])
def test_a_figure_without_an_object_to_measure_it_on_is_nan(crowd, map_50):
    head = DetectionHead({16: 16, 32: 16}, {2: "dog", 7: "cat"}, (96, 96))
    truth = content(2, [annotation(1, 1, [5, 6, 20, 10], iscrowd=crowd)])
    found = np.float32([[5, 6, 25, 16]]), np.float32([0.9]), np.array([0])
    head.predictions.add([0, 1], *found, counts=[1, 0])
    figures = head.compute(parse_annotations(truth, "A"), "val")
    np.testing.assert_allclose([figures["map_50"], figures["map_large"]], [map_50, math.nan])


def test_category_ids_of_any_size_come_out_of_predict():
    torch.manual_seed(0)
    head = DetectionHead({16: 16, 32: 16}, {5: "dog", 2**64: "cat"}, (96, 96)).eval()
    outputs = head({16: torch.randn(1, 16, 6, 6), 32: torch.randn(1, 16, 3, 3)})
    [result] = head.predict(outputs, [(96, 96)], conf=0.0)
    names = {5: "dog", 2**64: "cat"}
    assert set(result.category_ids.tolist()) == set(names)
    assert [names[number] for number in result.category_ids.tolist()] == result.names
