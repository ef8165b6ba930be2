import dataclasses
import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

import backbone.weights
from backbone import InputError, MobileNetV1, Numerics, Preprocessing, trunk_from, trunk_settings


@pytest.fixture
def weights(tmp_path):
    """A file of weights in timm's names, of width 0.25."""
    torch.manual_seed(0)
    pairs = [("conv_stem", "bn1", "stem.0", "stem.1")]
    names = [(stage, i) for stage, count in enumerate((1, 2, 2, 6, 2)) for i in range(count)]
    for block, (stage, i) in enumerate(names):
        theirs = f"blocks.{stage}.{i}."
        pairs.append((theirs + "conv_dw", theirs + "bn1", f"blocks.{block}.0", f"blocks.{block}.1"))
        pairs.append((theirs + "conv_pw", theirs + "bn2", f"blocks.{block}.3", f"blocks.{block}.4"))
    state, tensors = MobileNetV1(0.25).state_dict(), {}
    for conv, norm, our_conv, our_norm in pairs:
        tensors[f"{conv}.weight"] = state[f"{our_conv}.weight"].contiguous()
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = torch.rand_like(state[f"{our_norm}.{part}"]) + 0.5
    save_file(tensors, tmp_path / "timm.safetensors")
    return tmp_path / "timm.safetensors"


def test_what_is_not_given_is_that_of_the_weights(weights):
    trunk = trunk_from({"weights": weights})
    assert trunk.settings["width_mult"] == 0.25
    assert trunk.settings["numerics"]["padding"] == "symmetric"  # timm's
    assert trunk.settings["numerics"]["bn_eps"] == 1e-5
    assert trunk.settings["imagenet_pretrained"] is True
    assert trunk.settings == trunk_settings({"weights": weights})


def test_settings_build_the_same_trunk_again_and_are_plain(weights):
    trunk = trunk_from({"weights": weights}).eval()
    settings = json.loads(json.dumps(trunk.settings))
    assert settings == trunk.settings
    again = trunk_from(settings).eval()
    again.load_state_dict(trunk.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(images), trunk(images), rtol=0, atol=0)


def test_nothing_given_is_width_1_with_tensorflows_numerics():
    assert trunk_settings({})["width_mult"] == 1.0
    assert Numerics.from_dict(trunk_settings({})["numerics"]) == Numerics()


def test_another_width_or_other_numerics_than_the_weights_are_refused(weights):
    with pytest.raises(InputError, match=r"timm.safetensors .*width_mult 0.25.*width_mult 0.5"):
        trunk_from({"weights": weights, "width_mult": 0.5})
    with pytest.raises(InputError, match=r"timm.safetensors"):
        trunk_from(
            {"weights": weights, "numerics": dataclasses.asdict(Numerics(preprocessing=Preprocessing(std=(1, 1, 1))))}
        )


def test_a_trunk_has_features_channels_and_preprocessing():
    trunk = trunk_from({"width_mult": 0.5}).eval()
    maps = trunk.features(torch.randn(1, 3, 96, 64))
    assert {stride: tuple(x.shape) for stride, x in maps.items()} == {
        stride: (1, trunk.channels[stride], 96 // stride, 64 // stride) for stride in (2, 4, 8, 16, 32)
    }
    assert trunk.preprocessing.image_size == 224


def test_a_trunk_keeps_name_revision_and_digest_of_its_weights(weights, tmp_path, monkeypatch):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    settings = trunk_settings({"weights": weights})
    assert settings["provenance"] == {"name": "timm.safetensors", "revision": None, "sha256": digest}
    monkeypatch.setenv("MOBILENET_TASKS_CACHE", str(tmp_path))
    row = backbone.weights.table()[0]._replace(name="mine", address="https://nowhere.invalid/mine.safetensors")
    monkeypatch.setattr(backbone.weights, "table", lambda: [row])
    (tmp_path / "weights").mkdir()
    weights.rename(tmp_path / "weights" / "mine.safetensors")
    named = trunk_from({"weights": "mine"}).settings
    assert named == {**settings, "provenance": {**settings["provenance"], "name": "mine"}}
    assert trunk_from(named).settings == named  # as a checkpoint's trunk is built, without its weights
    assert trunk_settings({})["provenance"] is None
