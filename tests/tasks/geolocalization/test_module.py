import numpy as np
import pytest
import torch
from helpers import Save, same, trainer

from backbone import InputError
from data.geotagged import GeotaggedDataModule
from tasks.geolocalization.cells import build_hierarchy
from tasks.geolocalization.inference import Geolocator
from tasks.geolocalization.module import GeolocalizationModule

CELLS = {"max_photos": [2, 6], "min_photos": 1}


def data(root, **options):
    return GeotaggedDataModule(str(root), **{"image_size": 32, "batch_size": 4, "num_workers": 0, **options})


def module(**options):
    torch.manual_seed(0)
    given = {"width_mult": 0.25, "lr": 0.01, "ema_decay": 0.0, **CELLS, **options}
    return GeolocalizationModule({}, (32, 32), **given)


def fit(net, points, folder, resume=None, **settings):
    points.setup("fit")
    net.prepare_fit(points)
    run = trainer(folder, **settings)
    run.fit(net, datamodule=points, ckpt_path=resume, weights_only=True)
    return run


@pytest.fixture(scope="module")
def trained(places_root, tmp_path_factory):
    """The module and its checkpoint after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    net = module(loss="haversine", answer="f_star", bottleneck=8)
    run = fit(net, data(places_root), folder, max_epochs=2)
    run.save_checkpoint(folder / "last.ckpt")
    return net, folder / "last.ckpt"


def test_the_loss_is_the_sum_over_the_levels_and_dropped_photographs_teach_nothing(places_root):
    net = module(max_photos=[1, 3], min_photos=2)
    # photographs of one city lie in cells of two and more; one far from all others is dropped
    draw = np.random.default_rng(0)
    latlng = np.concatenate([draw.normal((48, 2), 0.2, (6, 2)), draw.normal((-33, 151), 0.2, (6, 2)), [[0.0, -150.0]]])
    net._take(build_hierarchy(latlng, [3, 6], min_photos=2))
    labels = net.atlas.labels(latlng[[0, 12]])
    assert labels[0][1] == labels[1][1] == -1
    assert labels[0][0] >= 0
    targets = net._targets(torch.from_numpy(latlng[[0, 12]]))
    assert [target.tolist() for target in targets] == [level.tolist() for level in labels]


def test_training_on_what_has_no_cell_moves_nothing_but_norms(places_root, tmp_path):
    net, points = module(weight_decay=0.0), data(places_root)
    far = build_hierarchy(np.array([[80.0, 100.0]] * 3 + [[-80.0, 10.0]] * 3), [2], min_photos=1)
    net._take(far)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    fit(net, points, tmp_path, max_epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())


def test_a_resumed_run_equals_an_uninterrupted_one_and_keeps_its_cells(places_root, tmp_path):
    straight, resumed, path = module(dropout=0.2), module(dropout=0.2), tmp_path / "cut.ckpt"
    fit(straight, data(places_root), tmp_path, max_epochs=3)
    fit(module(dropout=0.2), data(places_root), tmp_path, max_epochs=3, callbacks=[Save(path, epoch=0)])
    fit(resumed, data(places_root), tmp_path, path, max_epochs=3)
    assert same(straight.state_dict(), resumed.state_dict())
    assert straight.atlas.to_list() == resumed.atlas.to_list()


def test_a_checkpoint_answers_as_the_module_does(trained, places_root, tmp_path):
    net, path = trained
    points = data(places_root)
    points.setup("test")
    locate = Geolocator.from_checkpoint(path)
    for position in range(3):
        found = locate(points.photograph("test", position))
        expected = net.eval()._locate(points.pixels("test", position))
        np.testing.assert_allclose(found.probabilities, expected.probabilities[0], atol=1e-6)
        np.testing.assert_allclose(found.latlng, expected.latlng[0])
        assert found.place_probabilities.tolist() == sorted(found.probabilities, reverse=True)[:5]
        assert found.half_radius_km > 0
    five = Geolocator.from_checkpoint(path, crops=5, answer="best")
    assert five.at_least > locate.at_least
    assert five(points.photograph("test", 0)).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_figures_of_test_are_those_of_answers_given_one_by_one(trained, places_root, tmp_path):
    net, path = trained
    run, points = trainer(tmp_path), data(places_root, batch_size=5)
    [figures] = run.test(net, datamodule=points, verbose=False)
    locate = Geolocator.from_checkpoint(path)
    truth = points.latlng("test", list(range(6)))
    answers = np.stack([locate(points.photograph("test", i)).latlng for i in range(6)])
    a, b = np.radians(answers), np.radians(truth)
    haversine = np.sin((a - b)[:, 0] / 2) ** 2 + np.cos(a[:, 0]) * np.cos(b[:, 0]) * np.sin((a - b)[:, 1] / 2) ** 2
    distance = 2 * 6371.0 * np.arcsin(np.sqrt(haversine))
    assert figures["test/mean_km"] == pytest.approx(distance.mean(), rel=1e-5)
    assert figures["test/within_2500km"] == pytest.approx((distance <= 2500).mean())
    assert figures["test/coverage"] == pytest.approx(np.mean(net.atlas.finest.lookup(truth) >= 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_photos": 3}, r"--model.max_photos is 3, but the checkpoint was trained for .* cells of another"),
        ({"points": "centre"}, "--model.points is centre"),
    ],
)
def test_other_cells_than_the_checkpoints_are_refused(trained, options, message):
    _, path = trained
    checkpoint = torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=message):
        module(**options).on_load_checkpoint(checkpoint)


def test_a_partition_file_must_be_the_checkpoints(trained, tmp_path):
    net, path = trained
    checkpoint = torch.load(path, weights_only=True)
    files = [str(tmp_path / f"{k}.npz") for k in range(2)]
    for file, partition in zip(files, net.atlas.partitions, strict=True):
        partition.save(file)
    again = module(partition=files)
    again.on_load_checkpoint(checkpoint)
    assert again.atlas.to_list() == net.atlas.to_list()
    with pytest.raises(InputError, match=r"--model\.partition is"):
        module(partition=files[:1]).on_load_checkpoint(checkpoint)


def test_a_partition_file_is_what_is_trained_for(places_root, tmp_path):
    draw = np.random.default_rng(0)
    made = build_hierarchy(draw.uniform((-60, -180), (60, 180), (500, 2)), [100], min_photos=1)
    made[0].save(tmp_path / "p.npz")
    net, points = module(partition=str(tmp_path / "p.npz")), data(places_root)
    points.setup("fit")
    net.prepare_fit(points)
    assert net.atlas.to_list() == [made[0].to_dict()]
    assert net.model.head.out_features == len(made[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_km": 0}, "tau is 0"),
        ({"bottleneck": -1}, "--model.bottleneck is -1"),
        ({"mode_radius_km": -1}, "--model.mode_radius_km is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        module(**options)


def test_too_few_photographs_for_two_cells_are_refused(places_root):
    net, points = module(max_photos=10_000, min_photos=50), data(places_root)
    points.setup("fit")
    with pytest.raises(InputError, match="12 photographs make 0 cells"):
        net.prepare_fit(points)
