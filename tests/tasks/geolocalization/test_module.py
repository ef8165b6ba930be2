from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers import Save, same, trainer

from backbone import InputError
from data.geotagged import GeotaggedDataModule
from data.records import Records
from tasks.geolocalization import load, s2
from tasks.geolocalization.cells import partitions_of
from tasks.geolocalization.head import OWN_IMAGES, GeolocalizationHead
from tasks.geolocalization.module import GeolocalizationModule
from tasks.geolocalization.sphere import haversine_km, to_latlng
from tasks.options import CONFIGS


def data(root, **options):
    return GeotaggedDataModule(root=str(root), **{"image_size": 32, "batch_size": 4, "num_workers": 0, **options})


def module(**options):
    torch.manual_seed(0)
    given = {"width_mult": 0.25, "lr": 0.01, "ema_decay": 0.0, "max_images": [2, 6], "min_images": 1, **options}
    return GeolocalizationModule((32, 32), **given)


def fit(net, images, folder, resume=None, **settings):
    images.setup("fit")
    net.prepare(images)
    run = trainer(folder, **settings)
    run.fit(net, datamodule=images, ckpt_path=resume, weights_only=True)
    return run


def made(limits, count=500, **options):
    latlng = np.random.default_rng(0).uniform((-60, -180), (60, 180), (count, 2))
    return partitions_of(s2.leaf_ids(latlng), limits, **{"min_images": 1, **options})


@pytest.fixture(scope="module")
def trained(places_root, tmp_path_factory):
    """The module and its checkpoint after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    net = module(loss="haversine", decode="f_star", bottleneck=8)
    fit(net, data(places_root), folder, max_epochs=2).save_checkpoint(folder / "last.ckpt")
    return net, folder / "last.ckpt"


def test_the_head_alone_sums_the_levels_losses_and_scores_what_it_is_given():
    """Without Lightning; images in dropped cells teach nothing."""
    fine, coarse = made([20, 100], min_images=8)
    head = GeolocalizationHead({32: 8})
    head.take([coarse, fine])
    latlng = np.random.default_rng(1).uniform((-60, -180), (60, 180), (40, 2))
    with torch.no_grad():
        logits = head({32: torch.randn(40, 8, 2, 2)})
    batch = {"latlng": torch.from_numpy(latlng), "positions": torch.arange(40).flip(0)}
    total = torch.zeros(())
    for partition, of_level in zip((fine, coarse), logits.split([len(fine), len(coarse)], 1), strict=True):
        labels = torch.from_numpy(partition.lookup(latlng))
        total += F.cross_entropy(of_level[labels >= 0], labels[labels >= 0])
    assert 0 < (fine.lookup(latlng) < 0).sum() < 40
    torch.testing.assert_close(sum(head.loss(logits, batch).values()), total)
    head.update(logits, batch)
    figures = head.compute(Records(Path(), np.empty(40, "S1"), {"latlng": latlng[::-1]}), "val")
    best = fine.latlng[logits[:, : len(fine)].argmax(1).numpy()]
    assert figures["median_km"] == pytest.approx(np.median(haversine_km(best, latlng)))
    assert figures["images"] == 40


def test_a_resumed_run_equals_an_uninterrupted_one_and_keeps_its_cells(places_root, tmp_path):
    straight, resumed, path = module(dropout=0.2), module(dropout=0.2), tmp_path / "cut.ckpt"
    fit(straight, data(places_root), tmp_path, max_epochs=3)
    fit(module(dropout=0.2), data(places_root), tmp_path, max_epochs=3, callbacks=[Save(path, epoch=0)])
    fit(resumed, data(places_root), tmp_path, path, max_epochs=3)
    assert same(straight.state_dict(), resumed.state_dict())
    assert straight.head.state == resumed.head.state


@pytest.mark.parametrize("crops", [1, 5])
def test_figures_of_test_are_those_of_predictions_one_by_one(trained, places_root, tmp_path, crops):
    net, path = trained
    images = data(places_root, batch_size=5, crops=crops)
    [figures] = trainer(tmp_path).test(net, datamodule=images, verbose=False)
    predict, truth = load(path, crops=crops), images.records("test")["latlng"]
    results = [predict(images.image("test", i)) for i in range(6)]
    distance = haversine_km(np.stack([result.latlng for result in results]), truth)
    assert figures["test/mean_km"] == pytest.approx(distance.mean(), rel=1e-5)
    assert figures["test/within_2500km"] == pytest.approx((distance <= 2500).mean())
    assert figures["test/coverage"] == pytest.approx(np.mean(net.head.hierarchy.finest.lookup(truth) >= 0))
    assert figures["test/baseline_median_km"] > 0


def test_a_checkpoint_predicts_as_the_module_does(trained, places_root):
    net, path = trained
    images = data(places_root, crops=5)
    images.setup("test")
    one, five, plain = load(path), load(path, crops=5), load(path, crops=5, decode="best")
    assert five.at_least > one.at_least
    with torch.inference_mode():
        logits = net.eval()(images.pixels("test", 0))  # (1, 5, C)
    fine, coarse = (level.softmax(2).mean(1)[0].numpy() for level in logits.split(net.head.hierarchy.sizes, 2))
    image = images.image("test", 0)
    np.testing.assert_allclose(plain(image).probabilities, fine, atol=1e-6)
    result, finest = five(image, top=3), net.head.hierarchy.finest
    product = fine * coarse[net.head.hierarchy.partitions[1].lookup_ids(finest.ids)]
    np.testing.assert_allclose(result.probabilities, product / product.sum(), atol=1e-6)
    np.testing.assert_array_equal(result.latlng, finest.latlng[product.argmax()])
    assert result.cells.tolist() == np.argsort(-result.probabilities)[:3].tolist()
    np.testing.assert_array_equal(result.cells_latlng, finest.latlng[result.cells])
    assert result.cells_probability.tolist() == sorted(result.probabilities, reverse=True)[:3]
    assert result.tokens == s2.tokens(finest.ids[result.cells])
    assert not np.array_equal(one(image).probabilities, result.probabilities)


def test_a_partition_file_is_what_is_trained_for(places_root, tmp_path):
    partitions = made([100, 300])
    files = [tmp_path / f"{k}.npz" for k in range(2)]
    for file, partition in zip(files, partitions, strict=True):
        partition.save(file)
    images = data(places_root)
    images.setup("fit")
    for given, expected in ((str(files[0]), partitions[:1]), ([str(file) for file in files[::-1]], partitions)):
        net = module(partition=given)
        net.prepare(images)
        assert net.head.state == {"partitions": [partition.to_dict() for partition in expected]}
        assert net.head.layers.linear.out_features == sum(map(len, expected))


TOWNS = [np.array(town) + np.random.default_rng(0).normal(0, 0.05, (200, 2)) for town in ((48, 2), (-33, 151))]
STRAYS = to_latlng(np.random.default_rng(0).normal(size=(300, 3)))


@pytest.mark.parametrize(
    ("latlng", "max_images", "min_images", "advice"),
    [
        (STRAYS, 200, 5, "of the images lie in cells of a thousand"),
        (np.concatenate([*TOWNS, STRAYS]), 150, 60, "51% of the images lie in no cell"),
        (np.concatenate([*TOWNS, STRAYS[:50]]), 150, 20, None),
        (STRAYS, 100, 10, None),  # as that file has it
    ],
)
def test_cells_too_large_or_too_few_are_said_with_the_options_to_change(latlng, max_images, min_images, advice, capsys):
    module(max_images=max_images, min_images=min_images).prepare(SimpleNamespace(train_latlng=lambda: latlng))
    notes = "".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert (advice is None) == (notes == "")
    assert (advice or "") in notes
    assert ("configs/geolocalization/own_images.yaml" in notes) == (notes != "")
    config = yaml.safe_load((CONFIGS / "geolocalization" / "own_images.yaml").read_text())["model"]
    assert (config["max_images"], config["min_images"]) == OWN_IMAGES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_km": 0}, r"--model\.tau_km is 0"),
        ({"tau_km": float("inf")}, r"--model\.tau_km is inf"),
        ({"bottleneck": -1}, r"--model\.bottleneck is -1"),
        ({"max_images": 0}, r"--model\.max_images is 0"),
        ({"min_images": 9}, r"--model\.min_images is 9; .*--model\.max_images"),
    ],
)
def test_options_that_cannot_be_used_are_named_as_they_are_given(places_root, options, message):
    images = data(places_root)
    images.setup("fit")
    with pytest.raises(InputError, match=message):
        module(**options).prepare(images)
