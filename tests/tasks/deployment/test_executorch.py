"""An ExecuTorch file gives what the network gives, and says what it is."""

import sys

import numpy as np
import pytest
import torch
from helpers import busy, one_sentence

from tasks.classification.module import ClassificationModule
from tasks.deployment import executorch_file
from tasks.deployment.artifact import open_artifact
from tasks.deployment.graph import Deployed
from tasks.detection.module import DetectionModule
from tasks.detection.suppression import BY_ROUNDS

pytest.importorskip("executorch.runtime")

SIZE = (64, 64)


def images(count, seed=3):
    """Coarse patterns, which differ more than noise does once they are pooled."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def detector():
    torch.manual_seed(0)
    module = busy(DetectionModule({3: "a", 7: "b", 9: "c"}, SIZE, width_mult=0.25))
    module.head.suppress = BY_ROUNDS
    return Deployed(module, SIZE)


def classifier():
    torch.manual_seed(0)
    return Deployed(busy(ClassificationModule({i: f"class {i}" for i in range(5)}, SIZE, width_mult=0.25)), SIZE)


def answers(network, pixels):
    with torch.no_grad():
        return dict(zip(network.outputs, network(pixels), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("make", [detector, classifier])
def test_a_file_gives_what_the_network_gives_and_holds_its_metadata(make, tmp_path, capfd):
    network, path, pixels = make(), tmp_path / "a.pte", images(3)
    metadata = {"task": "a task", "outputs": list(network.outputs), "names": ["Käfer", "b"]}
    executorch_file.write_executorch(network, path, metadata)
    artifact = open_artifact(path, threads=1)
    given = artifact.run(pixels.numpy())
    expected = answers(network, pixels)
    assert list(given) == list(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.numpy().dtype
        if tensor.is_floating_point():
            np.testing.assert_allclose(given[name], tensor, rtol=1e-4, atol=1e-4 * tensor.abs().max().item())
        else:
            assert (given[name] == tensor.numpy()).all()
    if "count" in expected:
        assert (expected["count"] > 5).all()
    assert artifact.max_batch == 1
    assert artifact.metadata == metadata

    executorch_file.add_metadata(path, {**metadata, "metrics": {"file": 0.5}})
    assert artifact.run(pixels.numpy()).keys() == given.keys()  # the one that is open is as it was
    again = open_artifact(path)
    assert again.metadata == {**metadata, "metrics": {"file": 0.5}}
    assert all((again.run(pixels.numpy())[name] == given[name]).all() for name in given)
    with one_sentence("room"):
        executorch_file.add_metadata(path, {"names": "x" * 9000})
    assert open_artifact(path).metadata == again.metadata
    content = path.read_bytes()
    for part in (content[:64], content[: len(content) // 2], content[:-10], content[:8] + bytes(5000)):
        path.write_bytes(part)
        with one_sentence("not a whole"):
            open_artifact(path)
    assert capfd.readouterr() == ("", "")


BATCHES = [images(4, seed).numpy() for seed in range(3)]


@pytest.fixture(scope="module")
def rounded_to():
    """The classifier, rounded by each way of calibrating."""
    return {method: executorch_file.quantized(classifier(), BATCHES, method) for method in executorch_file.CALIBRATIONS}


@pytest.mark.slow
def test_an_int8_file_gives_what_its_rounded_network_gives_and_is_small(rounded_to, tmp_path):
    network, path, pixels = classifier(), tmp_path / "a.pte", images(8, seed=100)
    rounded = rounded_to["minmax"]
    executorch_file.write_executorch(rounded, path, {"outputs": list(network.outputs)})
    assert path.stat().st_size < 1.5 * sum(p.numel() for p in network.network.parameters()) + 100_000
    [given] = open_artifact(path).run(pixels.numpy()).values()
    float_gap, gap = (np.abs(given - of(pixels)[0].numpy()) for of in (network, rounded))
    assert 1e-5 < float_gap.mean() < 0.02  # it is rounded
    assert gap.mean() < 0.5 * float_gap.mean()  # as PyTorch does it, up to the last step of int8 here and there


@pytest.mark.slow
def test_a_detector_is_rounded_up_to_its_raw_outputs_and_not_its_anchors_or_boxes():
    network = detector()
    rounded = executorch_file.quantized(network, [images(4).numpy()], "minmax")
    raw = images(3, seed=100).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        ours, theirs = network.network(raw), rounded.network(raw)
    for name in ("class_logits", "box_codes"):
        gap = getattr(ours, name) - getattr(theirs, name)
        assert 0 < gap.std() <= 0.08 * getattr(ours, name).std()
    assert torch.equal(ours.anchors, theirs.anchors)
    weights = rounded.network.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.dequantize_per_channel.default
    )
    assert len(weights) == 27 + 8 + 12  # trunk, extras, predictors


def steps_behind(rounded, target):
    """The quantisation steps of the outputs of an operator."""
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    nodes = rounded.network.graph.find_nodes(op="call_function", target=quantize)
    return [node.args[1] for node in nodes if node.args[0].target == target]


@pytest.mark.slow
def test_ranges_are_those_that_images_give_and_of_a_relu6_what_it_leaves(rounded_to):
    network = classifier()
    pixels = images(8, seed=100).permute(0, 3, 1, 2).contiguous()
    given = {}
    for method, rounded in rounded_to.items():
        with torch.no_grad():
            given[method], expected = rounded.network(pixels), network.network(pixels)
        assert (given[method] - expected).std() < 0.1 * expected.std()
        steps = steps_behind(rounded, torch.ops.aten.hardtanh.default)
        assert len(steps) == 27
        assert max(steps) <= 6 / 255 + 1e-6  # before it there is more
    assert not torch.equal(*given.values())
    black = executorch_file.quantized(network, [np.zeros((1, *SIZE, 3), np.uint8)], "minmax")
    assert min(steps_behind(black, torch.ops.aten.pad.default)) == pytest.approx(1 / 255, rel=1e-3)  # of -1 to 0
    assert steps_behind(rounded, torch.ops.aten.pad.default)[0] > 1.8 / 255


@pytest.mark.parametrize("content", [b"", b"short", bytes(2000), b"\xff" * 2000, b"text " * 300])
def test_what_is_no_program_is_refused_before_the_runtime_sees_it(content, tmp_path):
    path = tmp_path / "a.pte"
    path.write_bytes(content)
    with one_sentence("a.pte is not an ExecuTorch program"):
        open_artifact(path)


@pytest.mark.slow
def test_another_project_s_program_is_refused(tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    path = tmp_path / "a.pte"
    path.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    with one_sentence("no metadata"):
        open_artifact(path)


def test_without_the_package_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with one_sentence(r"torchao.*\[executorch\]"):
        executorch_file.check_installed()
