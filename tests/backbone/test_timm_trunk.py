"""timm's networks as trunks; timm itself, with random weights, is the oracle."""

import json
import socket
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from backbone import InputError, Preprocessing, count, trunk_from, trunk_settings, trunks
from backbone.__main__ import main
from backbone.cost import total
from backbone.timm_trunk import reparameterized
from backbone.trunk import timm_classifier

FAMILIES = [row.trunk.removeprefix("timm:") for row in trunks.PUBLISHED if row.width_mult is None]


def whole(name, **options):
    """A network of timm's with norms as if it had been trained."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, **options).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.8, 1.2)
    return network


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_trunk_and_its_classifier_compute_what_timm_does(name, images, tmp_path):
    network, file = whole(name), tmp_path / "model.safetensors"
    save_file(network.state_dict(), file)
    trunk = trunk_from({"trunk": f"timm:{name}", "weights": file}).eval()
    with torch.no_grad():
        maps = trunk.features(images)
        _, intermediates = network.forward_intermediates(images)
        logits = timm_classifier(trunk, file).eval()(maps)
        expected = network(images)
    assert set(maps) == set(trunk.channels) >= {8, 16, 32}
    for stride, x in maps.items():
        assert x.shape == (2, trunk.channels[stride], 64 // stride, 64 // stride)
    # forward_intermediates has each stage's last map, before what some networks put in front of the pooling
    by_shape = {x.shape: x for x in intermediates}
    torch.testing.assert_close(maps[16], by_shape[maps[16].shape], atol=1e-5, rtol=1e-5)
    scale = expected.abs().max().item()  # MobileOne's random weights give thousands
    torch.testing.assert_close(logits / scale, expected / scale, atol=1e-5, rtol=0)
    fused = reparameterized(trunk).features(images)
    for stride, x in maps.items():
        torch.testing.assert_close(fused[stride] / x.abs().max(), x / x.abs().max(), atol=1e-4, rtol=0)
    assert total(count(trunk, (64, 64))).mult_adds > 10**6


def test_repvit_has_fewer_layers_in_its_form_for_inference():
    trunk = trunk_from({"trunk": "timm:repvit_m0_9"}).eval()
    before = sum(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())
    after = sum(isinstance(module, torch.nn.BatchNorm2d) for module in reparameterized(trunk).modules())
    assert before > 0 == after


def test_settings_have_timms_preprocessing_and_rebuild_the_trunk():
    settings = trunk_settings({"trunk": "timm:repvit_m0_9"})
    assert settings["width_mult"] is None
    assert not settings["imagenet_pretrained"]
    assert Preprocessing.from_dict(settings["numerics"]) == Preprocessing(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), image_size=224, interpolation="bicubic", crop_fraction=0.95
    )
    assert trunk_from(settings).settings == settings


def test_the_part_of_a_name_behind_its_dot_says_which_weights_preprocessing_is_meant():
    first, other = (
        Preprocessing.from_dict(trunk_settings({"trunk": f"timm:mobilenetv3_large_100{tag}"})["numerics"])
        for tag in ("", ".ra4_e3600_r224_in1k")
    )
    assert (first.mean[0], first.crop_fraction) == (0.485, 0.875)
    assert (other.mean[0], other.crop_fraction) == (0.5, 0.95)


def test_the_config_beside_weights_says_how_they_were_trained(tmp_path):
    save_file(whole("mobilenetv3_small_050").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9}}')
    settings = trunk_settings({"trunk": "timm:mobilenetv3_small_050", "weights": tmp_path / "model.safetensors"})
    assert settings["numerics"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert settings["numerics"]["preprocessing"]["crop_fraction"] == 0.9
    assert settings["imagenet_pretrained"]


@pytest.mark.parametrize(
    ("options", "written", "message"),
    [
        ({"trunk": "timm:mobilenetv3_lagre_100"}, None, "mobilenetv3_large_100"),
        ({"trunk": "resnet"}, None, "timm:NAME"),
        ({"trunk": "timm:hf-hub:timm/resnet18.a1_in1k"}, None, "no such network"),
        ({"trunk": "timm:resnet18.nonsense"}, None, "nonsense"),
        ({"trunk": "timm:vit_tiny_patch16_224"}, None, "convolutional"),
        ({"trunk": "timm:test_vit"}, None, r"strides \[16\]"),
        ({"trunk": "timm:mobilenetv3_small_050", "width_mult": 0.5}, None, "width_mult"),
        ({"trunk": "timm:mobilenetv3_small_050"}, ("mobilenetv2_035", {}), "lacks"),
        ({"trunk": "timm:mobilenetv3_small_050"}, ("mobilenetv3_small_075", {}), "another width"),
        ({"trunk": "timm:mobilenetv3_small_050"}, ("mobilenetv3_small_050", {"in_chans": 1}), "grey"),
    ],
    ids=[
        "a mistyped name",
        "no timm:",
        "a name that timm would fetch",
        "no such weights",
        "one size alone",
        "one stride",
        "a width",
        "another network",
        "another width",
        "grey images",
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, written, message, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    if written:
        name, more = written
        save_file(whole(name, **more).state_dict(), tmp_path / "w.safetensors")
        options = {**options, "weights": tmp_path / "w.safetensors"}
    with pytest.raises(InputError, match=message):
        trunk_from(options)


def test_a_classifier_of_other_classes_is_only_a_start(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(whole("mobilenetv3_small_050", num_classes=12).state_dict(), file)
    trunk = trunk_from({"trunk": "timm:mobilenetv3_small_050", "weights": file})
    with pytest.raises(InputError, match="12 classes"):
        timm_classifier(trunk, file)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "repvit_m0_9"])
def test_of_1001_classes_the_first_is_background_and_not_an_output(name, images, tmp_path):
    network, file = whole(name, num_classes=1001), tmp_path / "w.safetensors"
    save_file(network.state_dict(), file)
    trunk = trunk_from({"trunk": f"timm:{name}", "weights": file}).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            timm_classifier(trunk, file).eval()(trunk.features(images)), network(images)[:, 1:], atol=1e-5, rtol=1e-5
        )


def test_without_timm_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install .*\[timm\]"):
        trunk_from({"trunk": "timm:mobilenetv2_100"})


@pytest.mark.slow
def test_the_table_of_trunks_counts_ours_and_timms_and_names_what_is_published(capsys, monkeypatch):
    monkeypatch.setattr(trunks, "PUBLISHED", [trunks.PUBLISHED[i] for i in (0, 7, 3, 4)])
    assert main(["trunks", "--json"]) == 0
    ours, theirs, *version_1 = json.loads(capsys.readouterr().out)
    assert len({(row["mult_adds"], row["params"]) for row in version_1}) == 1  # timm's V1 is ours
    # Table 6 has 41 million mult-adds and half a million parameters for 0.25 MobileNet-224.
    assert (ours["trunk"], ours["width_mult"], round(ours["mult_adds"] / 1e6)) == ("mobilenetv1", 0.25, 41)
    assert ours["published_top1"] == 50.6
    network = timm.create_model(theirs["trunk"].removeprefix("timm:"))
    assert theirs["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert min(ours["milliseconds"], theirs["milliseconds"]) > 0
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["trunks"]) == 0
    printed = capsys.readouterr().out
    assert "mobilenetv1" in printed
    assert "[timm]" in printed
