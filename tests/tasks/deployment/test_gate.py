"""A file that gives what the network gives loses nothing by any task's metric, and one that does not is found out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import busy, data_module, one_sentence

from data.attributes import AttributesDataModule
from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from data.face_pairs import FacePairsDataModule
from data.geotagged import GeotaggedDataModule
from tasks.classification.module import ClassificationModule
from tasks.deployment.artifact import Artifact
from tasks.deployment.gate import compare, judge
from tasks.deployment.graph import Deployed
from tasks.detection.module import DetectionModule
from tasks.face_attributes.module import FaceAttributesModule
from tasks.face_embeddings.module import FaceEmbeddingsModule
from tasks.geolocalization.module import GeolocalizationModule
from tasks.module import evaluation_images

SIZE = (96, 96)


def file_of(network, change=lambda name, array: array):
    """What a file would give whose outputs are the network's, after a `change`."""

    def run(images):
        with torch.no_grad():
            outputs = network(torch.from_numpy(images))
        return {name: change(name, x.numpy()) for name, x in zip(network.outputs, outputs, strict=True)}

    return Artifact(Path("net.onnx"), network.head.answer_facts, run, None)


def setting(task, request):
    """A net of random weights, its network to export, and its data, set up."""
    torch.manual_seed(0)
    kind, root, build = {
        "classification": (ClassificationDataModule, "classes_root", ClassificationModule),
        "detection": (DetectionDataModule, "coco_root", DetectionModule),
        "face_attributes": (AttributesDataModule, "faces_root", FaceAttributesModule),
        "face_embeddings": (FacePairsDataModule, "faces_root", FaceEmbeddingsModule),
        "geolocalization": (GeotaggedDataModule, "places_root", GeolocalizationModule),
    }[task]
    data = data_module(kind, request.getfixturevalue(root), "fit", image_size=SIZE[0])
    options = {} if task in ("face_embeddings", "geolocalization") else {"categories": data.categories}
    if task == "geolocalization":
        options |= {"max_images": [3, 8], "min_images": 1, "decode": "f_star"}
    module = build(input_size=SIZE, width_mult=0.25, **options)
    module.head.start(data)
    busy(module)
    for norm in module.modules():  # statistics of these images, so that the net tells them apart
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.cat([*evaluation_images(data, "train", 12)]))
    module.eval()
    return module, Deployed(module, SIZE), data


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("classification", "top1"),
        ("detection", "map"),
        ("face_attributes", "map"),
        ("face_embeddings", "cosine"),  # nobody says who is on the images: PyTorch's own embeddings are all there is
        ("geolocalization", "geoscore"),
    ],
)
def test_the_metric_is_pytorch_s_own(task, metric, request):
    module, network, data = setting(task, request)
    own, verdict = judge([file_of(network)], module, module, network, data)
    assert (own.metric, verdict.images) == (metric, len(data.records("val")))
    assert own.file == own.pytorch == verdict.pytorch
    assert verdict.loss == pytest.approx(0, abs=1e-6)
    head = module.head
    for batch in data.val_dataloader():
        with torch.no_grad():
            head.update(module(batch["images"]), batch)
    figures = head.compute(data.records("val"), "val")
    assert verdict.pytorch == pytest.approx(figures.get(metric, 1.0), abs=1e-6)


def test_a_worse_file_loses_as_a_part_of_the_most_there_is(request):
    module, network, data = setting("geolocalization", request)
    antipodes = file_of(network, lambda name, x: x * -1 if name == "latlng" else x)
    own, verdict = judge([antipodes], module, module, network, data)
    assert verdict.loss == (own.file - verdict.file) / 5000 != 0


def test_an_embedding_that_is_turned_is_found_by_its_cosine(request):
    module, network, data = setting("face_embeddings", request)
    turned = file_of(network, lambda name, x: np.roll(x, 1, axis=1))
    _, verdict = judge([turned], module, module, network, data)
    assert verdict.loss > 0.1


def test_images_without_labels_measure_nothing(request):
    module, network, data = setting("face_attributes", request)
    data.records("val")["attributes"][:] = -1
    with one_sentence("--data"):
        judge([file_of(network)], module, module, network, data)


@pytest.mark.parametrize(
    ("name", "amount", "small"),
    [
        ("boxes_xyxy", 0.04 / 96, True),
        ("boxes_xyxy", 0.06 / 96, False),
        ("scores", 9e-5, True),
        ("scores", 2e-4, False),
    ],
)
def test_outputs_may_differ_by_rounding_alone(name, amount, small, request):
    _, network, _ = setting("detection", request)
    images = torch.randint(0, 256, (15, *SIZE, 3), dtype=torch.uint8)
    off = file_of(network, lambda of, x: x + np.float32(amount) if of == name else x)
    assert compare(off, network, images).small == small


def test_a_box_that_is_gone_is_a_difference_but_another_order_is_none(request):
    _, network, _ = setting("detection", request)
    images = torch.randint(0, 256, (15, *SIZE, 3), dtype=torch.uint8)
    swapped = file_of(network, lambda name, x: x if name == "count" else x[:, [1, 0, *range(2, 100)]])
    assert compare(file_of(network), network, images).small
    assert compare(swapped, network, images).lost == 0
    gone = file_of(network, lambda name, x: x * 0 - 1 if name == "labels" else x)
    assert compare(gone, network, images).lost > 0


def test_numbers_that_are_not_finite_are_a_difference(request):
    _, network, _ = setting("classification", request)
    images = torch.randint(0, 256, (15, *SIZE, 3), dtype=torch.uint8)
    assert not compare(file_of(network, lambda name, x: x * np.nan), network, images).small
