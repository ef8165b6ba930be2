import dataclasses
import itertools
import json
import os
import pickle

import h5py
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.efficientnet import _gen_mobilenet_v1 as timm_mobilenet_v1
from torch import nn

from backbone import InputError, MobileNetV1, Numerics, Preprocessing, load_pretrained, read_pretrained

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def randomise_norms(model):
    """Statistics and affine of trained networks: nothing is 0 or 1, and each channel differs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.3, 1.2)
    return model.eval()


def loaded(path):
    pretrained = read_pretrained(path)
    trunk = MobileNetV1(
        pretrained.width_mult, depth_multiplier=pretrained.depth_multiplier, numerics=pretrained.numerics
    )
    load_pretrained(trunk, pretrained)
    return trunk.eval(), pretrained


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_timm_weights_give_the_same_maps_at_every_stride_and_size(padding, tmp_path):
    torch.manual_seed(0)
    timms = {"same": {"pad_type": "same", "bn_eps": 1e-3}, "symmetric": {}}[padding]
    model = randomise_norms(timm.create_model("mobilenetv1_100", **timms))
    if padding == "same":  # a conversion from TensorFlow under timm's names says so in its metadata
        path = tmp_path / "model.safetensors"
        save_file(model.state_dict(), path, {"padding": "SAME (TensorFlow)", "batch_norm_eps": "0.001"})
    else:
        path = tmp_path / "model.pth"
        torch.save(model.state_dict(), path)
    trunk, pretrained = loaded(path)
    assert (pretrained.numerics.padding, pretrained.numerics.bn_eps) == (padding, 1e-3 if padding == "same" else 1e-5)
    assert pretrained.width_mult == 1

    theirs = {}
    for stage, stride in enumerate((2, 4, 8, 16, 32)):
        model.blocks[stage].register_forward_hook(lambda _, __, y, stride=stride: theirs.update({stride: y}))
    for size in (160, 192, 224, 225):
        images = torch.rand(1, 3, size, size) * 2 - 1
        with torch.no_grad():
            logits = model(images)
            ours = trunk.features(images)
        assert list(ours) == [2, 4, 8, 16, 32]
        for stride, x in ours.items():
            torch.testing.assert_close(x, theirs[stride], rtol=0, atol=1e-5)
            assert 0.2 < (x > 0).float().mean() < 0.95  # neither dead nor saturated, or equality would prove little
        weight, bias = pretrained.classifier
        torch.testing.assert_close(ours[32].mean((2, 3)) @ weight.T + bias, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"padding": "same"}, {"bn_eps": 1e-2}, {"activation": "relu"}])
def test_each_of_the_numerics_changes_the_output(wrong, tmp_path):
    """Or the test above could not notice a wrong one."""
    torch.manual_seed(0)
    torch.save(randomise_norms(timm_mobilenet_v1("mobilenetv1_100", 0.25)).state_dict(), tmp_path / "m.pth")
    trunk, pretrained = loaded(tmp_path / "m.pth")
    other = MobileNetV1(0.25, numerics=dataclasses.replace(pretrained.numerics, **wrong)).eval()
    other.load_state_dict(pretrained.state)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert (trunk(images) - other(images)).abs().max() > 1e-2


@pytest.mark.parametrize("wrap", ["state_dict", "model", "state_dict_ema", None])
def test_wrapped_prefixed_and_counterless_checkpoints_are_read(wrap, tmp_path):
    model = randomise_norms(timm_mobilenet_v1("mobilenetv1_100", 0.25))
    state = {f"module.{k}": v for k, v in model.state_dict().items() if "num_batches" not in k}
    other = {"state_dict": timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict()} if wrap == "state_dict_ema" else {}
    torch.save(other | {wrap: state, "epoch": 3} if wrap else state, tmp_path / "model.pth")
    trunk, _ = loaded(tmp_path / "model.pth")
    assert torch.equal(trunk.blocks[12][3].weight, model.blocks[4][1].conv_pw.weight)
    assert torch.equal(trunk.blocks[12][4].running_var, model.blocks[4][1].bn2.running_var)


def test_a_folder_of_the_hub_brings_its_mean_and_std(tmp_path):
    save_file(timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict(), tmp_path / "model.safetensors")
    config = {"pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 256, 256]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    preprocessing = read_pretrained(tmp_path).numerics.preprocessing
    assert preprocessing == Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "rgb", 256)


def test_weights_of_bgr_pixels_say_so_and_grey_ones_are_refused(tmp_path):
    state, file = timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict(), tmp_path / "m.safetensors"
    save_file(state, file, {"channel_order": "BGR"})
    assert read_pretrained(file).numerics.preprocessing.channel_order == "bgr"
    save_file({**state, "conv_stem.weight": state["conv_stem.weight"][:, :1].contiguous()}, file)
    with pytest.raises(InputError, match="grey"):
        read_pretrained(file)


# --- Keras and Hugging Face, against a network written as TensorFlow defines it ---------------------------------------


def draw(rng, width, multiplier=1):
    """27 pairs of a kernel in TensorFlow's layout and (gamma, beta, mean, variance), and the classifier's."""
    channels = [int(c * width) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]

    def norm(n):
        return rng.uniform(0.7, 1.5, n), rng.normal(0.3, 0.3, n), rng.normal(0, 0.2, n), rng.uniform(0.3, 1.2, n)

    layers = [(rng.normal(0, 0.3, (3, 3, 3, channels[0])), norm(channels[0]))]
    for a, b in itertools.pairwise(channels):
        layers.append((rng.normal(0, 0.4, (3, 3, a, multiplier)), norm(a * multiplier)))
        layers.append((rng.normal(0, (a * multiplier) ** -0.5, (1, 1, a * multiplier, b)), norm(b)))
    return [(k.astype("f4"), [x.astype("f4") for x in n]) for k, n in layers]


def tensorflow_forward(layers, image, eps=1e-3):
    """TensorFlow's definition, tap by tap: SAME padding, (rows, columns, channels), in float64."""
    x = image.astype("f8")
    strides = [2, *(s for stride in STRIDES for s in (stride, 1))]
    for i, ((kernel, (gamma, beta, mean, variance)), stride) in enumerate(zip(layers, strides, strict=True)):
        size = kernel.shape[0]
        out = [-(-n // stride) for n in x.shape[:2]]
        pads = [max((o - 1) * stride + size - n, 0) for o, n in zip(out, x.shape, strict=False)]
        x = np.pad(x, [*((p // 2, p - p // 2) for p in pads), (0, 0)])
        y = 0
        for row, column in np.ndindex(size, size):
            taps = x[
                row : row + stride * (out[0] - 1) + 1 : stride, column : column + stride * (out[1] - 1) + 1 : stride
            ]
            if i % 2:  # depthwise: output channel k * multiplier + q is input channel k under filter q
                y = y + (taps[..., None] * kernel[row, column]).reshape(*out, -1)
            else:
                y = y + taps @ kernel[row, column]
        x = np.clip(gamma * (y - mean) / np.sqrt(variance + eps) + beta, 0, 6)
    return x


def assert_equal_to_tensorflow(trunk, layers, rng, eps=1e-3):
    for height, width in ((64, 96), (65, 47)):
        image = rng.uniform(-1, 1, (height, width, 3)).astype("f4")
        expected = tensorflow_forward(layers, image, eps)
        with torch.no_grad():
            ours = trunk(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
        assert 0.2 < (expected > 0).mean() < 0.95


def write_keras(path, layers, root="", nested="{layer}/{layer}", top=None):
    names = ["conv1", *(f"conv_{kind}_{i}" for i in range(1, 14) for kind in ("dw", "pw"))]
    with h5py.File(path, "w") as file:
        for name, (kernel, norm) in zip(names, layers, strict=True):
            part = "depthwise_kernel:0" if "_dw_" in name else "kernel:0"
            file[f"{root}{nested.format(layer=name)}/{part}"] = kernel
            for part, values in zip(("gamma", "beta", "moving_mean", "moving_variance"), norm, strict=True):
                file[f"{root}{nested.format(layer=name + '_bn')}/{part}:0"] = values
        if top:
            file[f"{root}conv_preds/conv_preds/kernel:0"], file[f"{root}conv_preds/conv_preds/bias:0"] = top
        file.create_group(f"{root}dropout")  # layers without weights have a group too
        if root:
            file["optimizer_weights/Adam/conv1/kernel/m:0"] = np.zeros(3)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_keras_file_gives_what_tensorflow_computes(multiplier, tmp_path):
    rng = np.random.default_rng(0)
    layers = draw(rng, 0.25, multiplier)
    top = rng.normal(size=(1, 1, 256, 1000)).astype("f4"), rng.normal(size=1000).astype("f4")
    write_keras(tmp_path / "mobilenet_2_5_224_tf.h5", layers, top=top)
    trunk, pretrained = loaded(tmp_path / "mobilenet_2_5_224_tf.h5")
    assert (pretrained.width_mult, pretrained.depth_multiplier, pretrained.numerics) == (0.25, multiplier, Numerics())
    assert_equal_to_tensorflow(trunk, layers, rng)
    np.testing.assert_array_equal(pretrained.classifier[0].numpy(), top[0][0, 0].T)
    np.testing.assert_array_equal(pretrained.classifier[1].numpy(), top[1])


@pytest.mark.parametrize(
    ("root", "nested"), [("model_weights/", "{layer}/{layer}"), ("", "mobilenet_0.25_224/{layer}")], ids=str
)
def test_a_whole_keras_model_and_a_nested_one_are_read_too(root, nested, tmp_path):
    rng = np.random.default_rng(1)
    layers = draw(rng, 0.25)
    write_keras(tmp_path / "model.h5", layers, root, nested)
    trunk, pretrained = loaded(tmp_path / "model.h5")
    assert pretrained.classifier is None
    np.testing.assert_array_equal(
        trunk.blocks[6][0].weight[:, 0].detach().numpy(), layers[13][0][..., 0].transpose(2, 0, 1)
    )


def hugging_face_state(layers, prefix):
    names = ["conv_stem", *(f"layer.{i}" for i in range(26))]
    state = {}
    for i, (name, (kernel, norm)) in enumerate(zip(names, layers, strict=True)):
        kernel = kernel.transpose(2, 3, 0, 1) if i % 2 else kernel.transpose(3, 2, 0, 1)
        state[f"{prefix}{name}.convolution.weight"] = torch.from_numpy(kernel.copy())
        for part, values in zip(("weight", "bias", "running_mean", "running_var"), norm, strict=True):
            state[f"{prefix}{name}.normalization.{part}"] = torch.from_numpy(values)
        state[f"{prefix}{name}.normalization.num_batches_tracked"] = torch.tensor(7)
    return state


@pytest.mark.parametrize("prefix", ["mobilenet_v1.", ""])
def test_a_hugging_face_file_gives_what_tensorflow_computes_without_its_background_class(prefix, tmp_path):
    rng = np.random.default_rng(2)
    layers = draw(rng, 0.25)
    state = hugging_face_state(layers, prefix)
    weight, bias = torch.randn(1001, 256), torch.randn(1001)
    if prefix:
        save_file(state | {"classifier.weight": weight, "classifier.bias": bias}, tmp_path / "model.safetensors")
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    trunk, pretrained = loaded(tmp_path)
    assert pretrained.numerics == Numerics()
    assert trunk.stem[1].momentum < 0.5  # not the 0.9997 of transformers
    assert_equal_to_tensorflow(trunk, layers, rng)
    if prefix:
        assert torch.equal(pretrained.classifier[0], weight[1:])
        assert torch.equal(pretrained.classifier[1], bias[1:])


@pytest.mark.parametrize("settings", [{}, {"tf_padding": False, "layer_norm_eps": 1e-2, "hidden_act": "relu"}])
def test_a_folder_saved_by_transformers_gives_the_same_maps(settings, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=1001, image_size=192, **settings)
    model = transformers.MobileNetV1ForImageClassification(config)
    model = randomise_norms(model)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.5, 0.5]}')
    trunk, pretrained = loaded(tmp_path)
    assert pretrained.numerics.preprocessing == Preprocessing(mean=(0.4, 0.5, 0.6), image_size=192)
    for size in (64, 65):
        images = torch.rand(1, 3, size, size) * 2 - 1
        with torch.no_grad():
            theirs, logits = model.mobilenet_v1(images).last_hidden_state, model(images).logits
            ours = trunk(images)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        weight, bias = pretrained.classifier
        torch.testing.assert_close(ours.mean((2, 3)) @ weight.T + bias, logits[:, 1:], rtol=0, atol=1e-5)


# --- this project -----------------------------------------------------------------------------------------------------


def save_checkpoint(path, trunk, numerics):
    state = {f"trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {"model.head.weight": torch.ones(2, 2)}
    settings = {"width_mult": trunk.width_mult, "numerics": numerics}
    current = {name: tensor + 1 for name, tensor in state.items()}  # what the EMA weights were averaged from
    checkpoint = {"state_dict": state, "current_model_state": current, "trunk": settings}
    torch.save(checkpoint | {"epoch": 1, "optimizer_states": [{"state": {0: torch.zeros(3)}}]}, path)


def test_a_checkpoint_of_this_project_brings_weights_and_numerics(tmp_path):
    numerics = Numerics("symmetric", 1e-5, "relu", Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bgr", 192))
    before = randomise_norms(MobileNetV1(0.3, numerics=numerics))
    save_checkpoint(tmp_path / "best.ckpt", before, dataclasses.asdict(numerics))
    trunk, pretrained = loaded(tmp_path / "best.ckpt")
    assert (pretrained.numerics, pretrained.width_mult) == (numerics, 0.3)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(trunk(images), before(images))


def test_a_checkpoint_without_numerics_is_refused(tmp_path):
    save_checkpoint(tmp_path / "best.ckpt", MobileNetV1(0.25), None)
    with pytest.raises(InputError, match="without the numerics"):
        read_pretrained(tmp_path / "best.ckpt")
    save_checkpoint(tmp_path / "best.ckpt", MobileNetV1(0.25), {"padding": "same"})
    with pytest.raises(InputError, match="lack 'preprocessing'"):
        read_pretrained(tmp_path / "best.ckpt")


# --- what is refused --------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_a_hostile_pickle_is_refused_and_not_executed(kind, tmp_path):
    path, victim = tmp_path / "weights.pth", tmp_path / "victim"
    content = {"state_dict": {"conv_stem.weight": Bomb(victim)}}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match="damaged" if kind == "pickle 4" else r"asks to run posix\.mkdir") as caught:
        read_pretrained(path)
    assert not victim.exists()
    assert str(path) in str(caught.value)
    pickle.loads(pickle.dumps(Bomb(victim)))  # it would have gone off
    assert victim.exists()


def state_of(name, **settings):
    return timm.create_model(name, **settings).state_dict()


def write_bytes(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.pth", b"", "is empty"),
        ("page.safetensors", b"<!DOCTYPE html>\n<html>", "text that begins with '<!DOCTYPE html>'"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid", "text that begins with 'version https://git"),
        ("photo.h5", b"\xff\xd8\xff\xe0\x00\x10JFIF", "bytes ff d8 ff e0"),
        ("broken.pth", b"PK\x03\x04 and so on", "damaged"),
        ("broken.h5", b"\x89HDF\r\n\x1a\n and so on", "damaged HDF5"),
        ("broken.safetensors", (20).to_bytes(8, "little") + b'{"a": no JSON at all', "damaged safetensors"),
        ("model.ckpt-70000.data-00000-of-00001", b"\x00\x01\xff", "TensorFlow checkpoint"),
        ("model.keras", b"PK\x03\x04", "Keras 3"),
    ],
)
def test_files_of_other_kinds_are_refused_by_what_they_are(name, content, said, tmp_path):
    path = write_bytes(tmp_path / name, content)
    with pytest.raises(InputError, match=said) as caught:
        read_pretrained(path)
    assert str(path) in str(caught.value)
    assert "accepted are timm" in str(caught.value)


def with_nan(state):
    state["blocks.1.0.bn1.weight"][3] = float("nan")
    return state


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: state_of("mobilenetv1_100h"), "mobilenetv1_100h, which has an extra convolution"),
        (lambda: state_of("mobilenetv2_035"), "looks like timm's mobilenetv1 but has no tensor blocks"),
        (lambda: timm_mobilenet_v1("mobilenetv1_100", 0.3).state_dict(), "16 channels in the stem to 304 in the last"),
        (
            lambda: with_nan(timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict()),
            r"not finite in blocks\.1\.1\.weight",
        ),
        (lambda: {"features.0.0.weight": torch.zeros(3), "b": torch.zeros(1)}, "tensors named b, features.0.0.weight,"),
        (lambda: {"epoch": 3}, "no tensors, only epoch"),
        (lambda: [1, 2], "holds a list"),
        (lambda: nn.Linear(2, 2), r"asks to run torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_other_networks_are_refused_by_what_was_found(make, said, tmp_path):
    torch.save(make(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=said):
        read_pretrained(tmp_path / "weights.pth")


def test_a_tensor_too_many_or_too_few_is_refused_by_name(tmp_path):
    state = timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict()
    save_file(state | {"blocks.0.0.se.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(InputError, match=r"also has blocks\.0\.0\.se\.weight"):
        read_pretrained(tmp_path / "more.safetensors")
    del state["blocks.3.2.bn2.running_var"]
    save_file(state, tmp_path / "fewer.safetensors")
    with pytest.raises(InputError, match=r"no tensor blocks\.3\.2\.bn2\.running_var"):
        read_pretrained(tmp_path / "fewer.safetensors")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"padding": "VALID"}, "padding is 'VALID'"),
        ({"activation": "swish"}, "swish"),
        ({"batch_norm_eps": "x"}, "'x'"),
        ({"channel_order": "hsv"}, "hsv"),
    ],
)
def test_metadata_that_this_trunk_cannot_follow_is_refused(metadata, said, tmp_path):
    save_file(timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict(), tmp_path / "m.safetensors", metadata)
    with pytest.raises(InputError, match=said):
        read_pretrained(tmp_path / "m.safetensors")


def test_paths_without_weights_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pth: there is no such file"):
        read_pretrained(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match=r"folder without model\.safetensors"):
        read_pretrained(tmp_path)
    (tmp_path / "model.ckpt-1.index").touch()
    with pytest.raises(InputError, match="TensorFlow checkpoint"):
        read_pretrained(tmp_path / "model.ckpt-1")


@pytest.mark.parametrize(
    ("trunk", "said"),
    [
        ({"width_mult": 0.5}, "width_mult 0.25 .* trunk has width_mult 0.5"),
        ({"width_mult": 0.25, "depth_multiplier": 2}, "depth_multiplier 1, .* depth_multiplier 2"),
        ({"width_mult": 0.25, "shallow": True}, "comparison networks"),
        ({"width_mult": 0.25, "convolution": "full"}, "comparison networks"),
        ({"width_mult": 0.25, "numerics": Numerics()}, "trained with .*symmetric.* trunk has .*same"),
    ],
)
def test_a_trunk_that_differs_from_the_file_is_refused_and_left_as_it_was(trunk, said, tmp_path):
    torch.save(timm_mobilenet_v1("mobilenetv1_100", 0.25).state_dict(), tmp_path / "m.pth")
    pretrained = read_pretrained(tmp_path / "m.pth")
    trunk = MobileNetV1(**({"numerics": pretrained.numerics} | trunk))
    before = trunk.stem[0].weight.clone()
    with pytest.raises(InputError, match=said):
        load_pretrained(trunk, pretrained)
    assert torch.equal(trunk.stem[0].weight, before)


def test_weights_trained_at_another_size_load(tmp_path):
    numerics = Numerics(preprocessing=Preprocessing(image_size=300))
    save_checkpoint(tmp_path / "best.ckpt", MobileNetV1(0.25, numerics=numerics), dataclasses.asdict(numerics))
    pretrained = read_pretrained(tmp_path / "best.ckpt")
    trunk = MobileNetV1(0.25)
    load_pretrained(trunk, pretrained)
    assert torch.equal(trunk.stem[0].weight, pretrained.state["stem.0.weight"])
