"""TensorFlow Lite files, written in their true layout by tests/tflite_writer.py, and damaged ones."""

import tracemalloc

import numpy as np
import pytest
import torch
from tflite_writer import Writer

from backbone import InputError, MobileNetV1, load_pretrained, read_pretrained
from backbone.folded import folded_norms, unfold_norms


@pytest.fixture(scope="module")
def trunk():
    """Of width 0.25, with norms as if it had been trained."""
    torch.manual_seed(0)
    trunk = MobileNetV1(0.25).eval()
    for norm in trunk.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0.3, 0.3)
    return trunk


def classifier(trunk, path, quantised, classes=1001):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(classes, 256)).astype(np.float32), rng.normal(size=classes).astype(np.float32)
    writer = Writer(64, quantised)
    writer.classifier(writer.trunk(trunk)[1], weight, bias)
    return writer.write(path), weight, bias


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("quantised", "tolerance"), [("", 1e-5), ("float16", 2e-3), ("uint8", 0.3), ("int8", 0.1)], ids=str
)
def test_the_trunk_computes_what_the_file_was_written_from(trunk, images, tmp_path, quantised, tolerance):
    path, weight, bias = classifier(trunk, tmp_path / "m.tflite", quantised)
    pretrained = read_pretrained(path)
    assert (pretrained.width_mult, pretrained.depth_multiplier) == (0.25, 1)
    assert pretrained.numerics.preprocessing.image_size == 64
    assert pretrained.numerics.preprocessing.mean == (0.5, 0.5, 0.5)
    read = MobileNetV1(0.25, numerics=pretrained.numerics).eval()
    load_pretrained(read, pretrained)
    with torch.no_grad():
        for stride, expected in trunk.features(images).items():
            assert (read.features(images)[stride] - expected).abs().mean() < tolerance, stride
    # Column 0 is TensorFlow's background.
    scale = 4.5 / 127 if quantised in ("uint8", "int8") else 2.5e-3
    np.testing.assert_allclose(pretrained.classifier[0].numpy(), weight[1:], atol=scale)
    np.testing.assert_array_equal(pretrained.classifier[1].numpy(), bias[1:])


def test_a_quantised_weight_is_its_integer_less_the_zero_point_times_the_scale(trunk, tmp_path):
    path, weight, _ = classifier(trunk, tmp_path / "m.tflite", "uint8")
    low, high = weight.min(), weight.max()
    scale = (high - low) / 255
    integers = np.clip(np.rint(weight / scale) + np.rint(-low / scale), 0, 255)
    by_hand = (integers - np.rint(-low / scale)) * scale
    np.testing.assert_allclose(read_pretrained(path).classifier[0].numpy(), by_hand[1:], atol=1e-6)


def test_an_activation_that_only_the_range_of_the_integers_implies(trunk, images, tmp_path):
    writer = Writer(64, "uint8")
    writer.classifier(writer.trunk(trunk)[1], np.ones((1001, 256), np.float32), np.ones(1001, np.float32))
    for kind, _, [output], options in writer.operators:
        if kind.endswith("CONV_2D") and options["activation"] == 3:
            options["activation"] = 0
            writer.tensors[output] |= {"scale": [6 / 255], "zero": [0]}
    pretrained = read_pretrained(writer.write(tmp_path / "m.tflite"))
    assert pretrained.numerics.activation == "relu6"


def test_the_input_says_how_pixels_become_numbers(trunk, tmp_path):
    writer = Writer(64, "uint8")
    writer.trunk(trunk)
    writer.tensors[writer.input] |= {"scale": [1 / 255], "zero": [0]}
    preprocessing = read_pretrained(writer.write(tmp_path / "m.tflite")).numerics.preprocessing
    assert (preprocessing.mean[0], preprocessing.std[0]) == (0, pytest.approx(1))


def test_unfolding_keeps_the_function_and_gives_each_norm_the_statistics_of_its_input(trunk, images, tmp_path):
    pretrained = read_pretrained(classifier(trunk, tmp_path / "m.tflite", "")[0])
    read = MobileNetV1(0.25, numerics=pretrained.numerics).eval()
    assert not folded_norms(read)  # as new
    load_pretrained(read, pretrained)
    assert len(folded_norms(read)) == 27
    before = {stride: x.clone() for stride, x in read.features(images).items()}
    assert unfold_norms(read, read, images.split(3)) == 27
    for stride, expected in read.features(images).items():
        torch.testing.assert_close(expected, before[stride], atol=1e-4, rtol=0)
    convolved = read.stem[0](images)
    torch.testing.assert_close(read.stem[1].running_mean, convolved.mean((0, 2, 3)))
    torch.testing.assert_close(read.stem[1].running_var, convolved.var((0, 2, 3), unbiased=False))
    # With the statistics of these very images, training mode computes the same too.
    stem = read.stem.train()(images)
    torch.testing.assert_close(stem, read.stem.eval()(images), atol=1e-4, rtol=0)
    assert unfold_norms(read, read, [images]) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.operators.pop(5),
        lambda w: w.operators[3][3].update(stride=1),
        lambda w: w.operators[4][3].update(activation=1),
        lambda w: w.operators.__setitem__(27, ("MAX_POOL_2D", *w.operators[27][1:])),
        lambda w: w.operators.append(("ADD", w.operators[-1][2], [w.tensor((1, 1001))], {})),
        lambda w: w.tensors[w.input].update(shape=(1, 64, 64, 1)),
    ],
    ids=["a layer less", "another stride", "another activation", "another pooling", "a layer more", "grey images"],
)
def test_another_network_is_refused(trunk, tmp_path, change):
    writer = Writer(64)
    writer.classifier(writer.trunk(trunk)[1], np.ones((1001, 256), np.float32), np.ones(1001, np.float32))
    change(writer)
    with pytest.raises(InputError, match=r"m\.tflite"):
        read_pretrained(writer.write(tmp_path / "m.tflite"))


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_but_never_crash_or_fill_the_memory(trunk, tmp_path):
    data = classifier(trunk, tmp_path / "m.tflite", "uint8", classes=11)[0].read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "damaged.tflite"
    # Of the 350 KB most are weights, in which any byte is fine: the tables stand between them, and at the end.
    tables = np.flatnonzero(np.convolve(np.frombuffer(data, np.uint8) == 0, np.ones(8), "same") >= 4)
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    for trial in range(200):
        damaged = bytearray(data)
        if trial % 4 == 0:
            damaged = damaged[: rng.integers(8, len(data))]
        for place in rng.choice(tables, rng.integers(1, 6)).tolist():
            if place < len(damaged):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_pretrained(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 30
    tracemalloc.stop()
    assert min(outcomes.values()) > 10, outcomes
