import dataclasses

import pytest
import torch

from backbone import InputError, MobileNetV1, Numerics, Preprocessing, normalize, scaled_image_size
from backbone.mobilenet import conv_norm_act


def test_resolution_multipliers_of_the_paper_give_its_sizes():
    assert [scaled_image_size(224, m) for m in (1, 0.858, 0.715, 0.571)] == [224, 192, 160, 128]


def test_resolution_multiplier_of_one_keeps_a_base_that_is_no_multiple_of_32():
    assert scaled_image_size(300) == 300
    assert scaled_image_size(300, 0.5) == 160  # 150 is nearer to 160 than to 128


@pytest.mark.parametrize(("base", "mult"), [(31, 1), (224, 0.05), (224, 0), (224, -1), (224, float("nan"))])
def test_image_size_under_32_or_multiplier_not_above_zero_is_refused_with_its_value(base, mult):
    with pytest.raises(InputError, match=str(base) if mult in (1, 0.05) else str(mult)):
        scaled_image_size(base, mult)


def test_normalize_maps_0_and_255_to_minus_one_and_one():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(images, Preprocessing()).flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_normalize_applies_mean_and_std_in_the_channel_order_of_the_weights():
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.5), std=(0.5, 0.4, 0.25), channel_order="bgr")
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0 - 0.2) / 0.4, (1 - 0.5) / 0.25])  # blue, green, red
    torch.testing.assert_close(normalize(images, preprocessing).flatten(), expected)


def test_normalize_refuses_floats_that_may_be_normalised_already():
    with pytest.raises(TypeError, match=r"torch\.float32"):
        normalize(torch.zeros(1, 3, 32, 32), Preprocessing())


def test_numerics_survive_the_way_through_a_checkpoint():
    numerics = Numerics("symmetric", 1e-5, "relu", Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bgr", 192))
    stored = dataclasses.asdict(numerics)
    stored["preprocessing"]["mean"] = list(stored["preprocessing"]["mean"])  # as JSON and YAML bring it back
    assert Numerics.from_dict(stored) == numerics


@pytest.mark.parametrize(
    "change", [{"padding": "valid"}, {"bn_eps": 0}, {"activation": "swish"}, {"colour": 1}, {"preprocessing": {}}]
)
def test_numerics_that_cannot_be_meant_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change)) if "preprocessing" not in change else "mean"):
        Numerics.from_dict(dataclasses.asdict(Numerics()) | change)


@pytest.mark.parametrize(
    ("padding", "side", "rows"),
    [("same", 6, [1, 3, 5]), ("symmetric", 6, [0, 2, 4]), ("same", 5, [0, 2, 4]), ("symmetric", 5, [0, 2, 4])],
)
def test_padding_decides_which_pixels_a_strided_convolution_is_centred_on(padding, side, rows):
    conv, _, _ = conv_norm_act(1, 1, 3, Numerics(padding=padding), stride=2)
    with torch.no_grad():
        conv.weight.zero_()[..., 1, 1] = 1
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    assert torch.equal(conv(image), image[:, :, rows][..., rows])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_the_float32_detour_of_strided_depthwise_layers_computes_the_same_convolution(padding):
    conv, _, _ = conv_norm_act(8, 8, 3, Numerics(padding=padding), stride=2, groups=8)
    with torch.no_grad():  # small whole numbers, of which bfloat16 loses nothing but in the gradient of the input
        conv.weight.random_(-2, 3)
    x = torch.empty(2, 8, 12, 13).random_(-2, 3)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        conv.zero_grad()
        inputs = x.to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = conv(inputs)
        assert y.dtype == dtype
        y.float().square().sum().backward()
        results.append((y.float(), conv.weight.grad.clone(), inputs.grad.float()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][2], results[1][2], rtol=2**-8, atol=0)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 64), (300, 300)])
def test_features_have_a_stride_s_map_of_size_over_s_rounded_up(padding, size):
    trunk = MobileNetV1(0.25, numerics=Numerics(padding=padding)).eval()
    with torch.no_grad():
        maps = trunk.features(torch.zeros(1, 3, *size))
    expected = {
        s: (1, c, -(-size[0] // s), -(-size[1] // s))
        for s, c in zip((2, 4, 8, 16, 32), (16, 32, 64, 128, 256), strict=True)
    }
    assert {stride: tuple(x.shape) for stride, x in maps.items()} == expected
    assert trunk.channels == {2: 16, 4: 32, 8: 64, 16: 128, 32: 256}


@pytest.mark.parametrize("size", [(31, 224), (224, 16)])
def test_images_under_32_pixels_are_refused_with_their_size(size):
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]}"):
        MobileNetV1(0.25).features(torch.zeros(1, 3, *size))


def test_channels_are_cut_to_whole_numbers_and_never_below_eight():
    assert MobileNetV1(0.3).channels == {2: 19, 4: 38, 8: 76, 16: 153, 32: 307}
    tiny = MobileNetV1(0.01)
    assert tiny.channels == {2: 8, 4: 8, 8: 8, 16: 8, 32: 10}
    assert tiny.stem[0].out_channels == 8


def test_depth_multiplier_widens_depthwise_layers_alone():
    trunk = MobileNetV1(0.25, depth_multiplier=2)
    assert trunk.blocks[0][0].weight.shape == (16, 1, 3, 3)
    assert trunk.blocks[0][3].weight.shape == (16, 16, 1, 1)
    assert trunk.channels == MobileNetV1(0.25).channels


@pytest.mark.parametrize(
    "arguments",
    [
        {"width_mult": 0},
        {"width_mult": -1},
        {"width_mult": float("inf")},
        {"width_mult": float("nan")},
        {"depth_multiplier": 0},
        {"depth_multiplier": 1.5},
        {"convolution": "dilated"},
        {"convolution": "full", "depth_multiplier": 2},
    ],
)
def test_arguments_without_meaning_are_refused_by_name_and_value(arguments):
    name, value = list(arguments.items())[-1]
    with pytest.raises(InputError, match=f"{name} is {value!r}"):
        MobileNetV1(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"depth_multiplier": 2}, {"convolution": "full"}, {"shallow": True}])
def test_every_parameter_gets_a_gradient(arguments):
    trunk = MobileNetV1(0.25, **arguments)
    sum(x.square().mean() for x in trunk.features(torch.randn(2, 3, 64, 64)).values()).backward()
    without = [name for name, p in trunk.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_no_later_block_overwrites_a_map_that_was_given_out():
    """Activations work in place; a map must still be what its block returned."""
    trunk = MobileNetV1(0.25).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = trunk.features(images)
        x = trunk.stem(images)
        last = dict(zip(trunk.strides, trunk.blocks, strict=True))
        for block, stride in zip(trunk.blocks, trunk.strides, strict=True):
            x = block(x).clone()
            if block is last[stride]:
                assert torch.equal(maps[stride], x)


def test_fresh_weights_keep_a_signal_alive_to_the_last_map():
    torch.manual_seed(0)
    trunk = MobileNetV1()
    last = trunk(torch.randn(4, 3, 64, 64))
    assert 0.2 < (last > 0).float().mean() < 0.8
    assert 0.3 < last.std() < 1.5
