"""The network that is exported gives what PyTorch's own evaluation gives, for every task."""

import numpy as np
import pytest
import torch
from helpers import busy
from torch import nn

from backbone.folded import fold_norms
from backbone.trunk import trunk_from
from tasks.classification.module import ClassificationModule
from tasks.deployment.graph import Deployed
from tasks.detection.module import DetectionModule
from tasks.detection.suppression import suppressed
from tasks.face_attributes.module import FaceAttributesModule
from tasks.face_embeddings.module import FaceEmbeddingsModule
from tasks.geolocalization.cells import partitions_of
from tasks.geolocalization.module import GeolocalizationModule
from tasks.geolocalization.s2 import leaf_ids


def images(count, size):
    return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["mobilenetv1", "timm:mobilenetv3_small_050", "timm:efficientnet_lite0"])
def test_folded_norms_leave_the_function_as_it_is(name):
    torch.manual_seed(0)
    options = {"width_mult": 0.25} if name == "mobilenetv1" else {}
    trunk = busy(trunk_from({"trunk": name, **options}))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = trunk.features(pixels)
        fold_norms(trunk, trunk.features, pixels[:1])
        after = trunk.features(pixels)
    assert not [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    for stride, features in before.items():
        assert torch.allclose(after[stride], features, rtol=1e-3, atol=1e-4 * features.abs().max().item())


def test_a_trunk_with_branches_for_training_alone_has_none_in_the_file():
    torch.manual_seed(0)
    module = busy(ClassificationModule({0: "a", 1: "b"}, (64, 64), trunk="timm:mobileone_s0"))
    network, pixels = Deployed(module, (64, 64)), images(2, (64, 64))
    with torch.no_grad():
        [probabilities] = network(pixels)
        expected = module.head.answer(module(pixels.permute(0, 3, 1, 2)))["probabilities"]
    assert torch.allclose(probabilities, expected, atol=1e-3)
    counts = [sum(parameter.numel() for parameter in of.trunk.parameters()) for of in (network.network, module)]
    assert counts[0] < 0.3 * counts[1]  # 4.3 M to 1.1 M


@pytest.mark.parametrize(("head", "loss"), [("ssd", "multibox"), ("ssdlite", "focal")])
@pytest.mark.parametrize("agnostic", [False, True])
def test_a_detector_s_answer_is_what_it_detects(head, loss, agnostic):
    torch.manual_seed(0)
    size = (96, 128)
    options = {"head": head, "loss": loss, "class_agnostic": agnostic, "width_mult": 0.25}
    module = busy(DetectionModule({3: "a", 7: "b", 9: "c"}, size, **options))
    network, pixels = Deployed(module, size), images(3, size)
    with torch.no_grad():
        answer = dict(zip(network.outputs, network(pixels), strict=True))
        found = module.head.detect(module(pixels.permute(0, 3, 1, 2)), [(500, 700)] * 3)
    assert answer["boxes_xyxy"].shape == (3, 100, 4)
    for i, (boxes, scores, labels) in enumerate(found):
        count = int(answer["count"][i])
        assert count == len(scores) > 0
        assert torch.equal(answer["labels"][i, :count], labels)
        assert torch.allclose(answer["scores"][i, :count], scores, atol=1e-5)
        assert torch.allclose(answer["boxes_xyxy"][i, :count] * torch.tensor([700, 500, 700, 500]), boxes, atol=0.05)
        assert not answer["boxes_xyxy"][i, count:].any()
        assert not answer["scores"][i, count:].any()
        assert (answer["labels"][i, count:] == -1).all()


def test_few_anchors_give_as_many_rows_as_there_are_boxes():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30]]])
    scores = torch.tensor([[[0.9], [0.8], [0.005]]])
    found = suppressed(boxes, scores, (40, 80), DetectionModule({1: "a"}, (40, 80)).head.suppress, False)
    assert found.count.tolist() == [1]
    assert found.labels.tolist() == [[0, -1, -1]]
    assert found.boxes_xyxy[0, 0].tolist() == [0, 0, 0.125, 0.25]  # of 80 x 40 px


def test_a_classifier_s_answer_is_calibrated():
    module = busy(ClassificationModule({0: "a", 1: "b", 2: "c"}, (64, 64), width_mult=0.25))
    module.head.temperature = 2.5
    network, pixels = Deployed(module, (64, 64)), images(2, (64, 64))
    with torch.no_grad():
        [probabilities] = network(pixels)
        results = module.head.predict(module(pixels.permute(0, 3, 1, 2)), [(64, 64)] * 2, top=3)
    for row, result in zip(probabilities.numpy(), results, strict=True):
        own = dict(zip(module.head.names, row, strict=True))
        assert np.allclose([own[name] for name in result.names], result.probabilities, atol=1e-5)


def test_attributes_are_present_from_their_thresholds_on():
    module = busy(FaceAttributesModule({0: "a", 1: "b"}, (64, 64), width_mult=0.25))
    module.head.thresholds = np.array([0.0, 1.0])
    network, pixels = Deployed(module, (64, 64)), images(2, (64, 64))
    with torch.no_grad():
        probabilities, present = network(pixels)
        results = module.head.predict(module(pixels.permute(0, 3, 1, 2)), [(64, 64)] * 2)
    assert present.tolist() == [[True, False]] * 2
    assert np.allclose(probabilities, [result.probabilities for result in results], atol=1e-5)


def test_an_embedding_has_length_1():
    module = busy(FaceEmbeddingsModule((64, 64), width_mult=0.25, embedding_size=16))
    network, pixels = Deployed(module, (64, 64)), images(2, (64, 64))
    with torch.no_grad():
        [embedding] = network(pixels)
        expected = module.head.predict(module(pixels.permute(0, 3, 1, 2)), [(64, 64)] * 2)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    assert np.allclose(embedding, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["best", "f_star", "expected"])
@pytest.mark.parametrize("crops", [1, 5])
def test_places_are_decoded_as_from_a_checkpoint(mode, crops):
    generator = np.random.default_rng(0)
    latlng = np.column_stack([generator.normal(47, 3, 400), generator.normal(8, 4, 400)])
    module = GeolocalizationModule((64, 64), width_mult=0.25, decode=mode)
    module.head.take(partitions_of(leaf_ids(latlng), (10, 60), min_images=2, points="mean"))
    size = (64, 64) if crops == 1 else (80, 80)
    network, pixels = Deployed(busy(module), size), images(4, size)
    with torch.no_grad():
        probabilities, places = network(pixels)
        results = module.head.predict(module(pixels.permute(0, 3, 1, 2)), [size] * 4)
    assert np.allclose(probabilities, [result.probabilities for result in results], atol=1e-5)
    assert np.allclose(places, [result.latlng for result in results], atol=1e-3)


def test_the_module_is_not_changed():
    module = busy(ClassificationModule({0: "a", 1: "b"}, (64, 64), width_mult=0.25))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Deployed(module, (64, 64))
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
