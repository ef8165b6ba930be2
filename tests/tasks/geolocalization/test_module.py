from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone import InputError
from data.geotagged import GeotaggedDataModule
from tasks.cli import CONFIGS
from tasks.geolocalization.cells import build_hierarchy
from tasks.geolocalization.inference import Geolocator
from tasks.geolocalization.module import _OF_OWN_PHOTOS, GeolocalizationModule
from tasks.geolocalization.sphere import to_latlng

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


class Losses(Callback):
    """Beside the loss of each step, the one that PyTorch's own cross-entropies of the levels add up to."""

    def __init__(self):
        self.found, self.expected, self.dropped = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with torch.no_grad():
            logits = pl_module.model(batch["images"])
        total, start = 0.0, 0
        for partition in pl_module.atlas.partitions:
            labels = torch.from_numpy(partition.lookup(batch["latlng"].numpy()))
            kept, of_level = labels >= 0, logits[:, start : start + len(partition)]
            total += F.cross_entropy(of_level[kept], labels[kept]).item() if kept.any() else 0.0
            start += len(partition)
            self.dropped.append(int((~kept).sum()))
        self.expected.append(total)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(outputs["loss"].item())


def test_the_loss_is_the_sum_over_the_levels_and_dropped_photographs_teach_nothing(places_root, tmp_path):
    net, points, losses = module(max_photos=[2, 6], min_photos=2), data(places_root), Losses()
    points.setup("fit")
    places = points.train_latlng()
    net._take(build_hierarchy(np.concatenate([places, places[:7]]), [2, 6], min_photos=2))
    fit(net, points, tmp_path, max_epochs=2, callbacks=[losses])
    assert losses.found == pytest.approx(losses.expected, rel=1e-5)
    fine, coarse = losses.dropped[::2], losses.dropped[1::2]
    assert len(net.atlas.partitions) == 2
    assert 0 < sum(fine) < 24  # of two epochs of 12
    assert fine != coarse


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
        ({"max_photos": 3}, r"cells of another max_photos \(\[2, 6\]\)"),
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


@pytest.fixture
def from_file(tmp_path):
    """A checkpoint trained for the cells of P.npz, and those cells."""
    draw = np.random.default_rng(0)
    [made] = build_hierarchy(draw.uniform((-60, -180), (60, 180), (500, 2)), [100], min_photos=1)
    made.save(tmp_path / "P.npz")
    net = module(partition=str(tmp_path / "P.npz"), max_photos=10_000, min_photos=50)
    net._take([made])
    return {"hyper_parameters": dict(net.hparams), "partitions": net.atlas.to_list()}, made


def test_another_partition_in_a_file_of_the_same_name_is_refused(from_file, tmp_path):
    checkpoint, made = from_file
    asked = {"partition": str(tmp_path / "P.npz"), "max_photos": 10_000, "min_photos": 50}
    again = module(**asked)
    again.on_load_checkpoint(checkpoint)
    assert again.atlas.to_list() == [made.to_dict()]
    [other] = build_hierarchy(made.latlng, [2], min_photos=1)
    other.save(tmp_path / "P.npz")
    with pytest.raises(InputError, match=r"--model\.partition is .*P\.npz, which holds other cells than"):
        module(**asked).on_load_checkpoint(checkpoint)
    (tmp_path / "P.npz").unlink()
    module(**asked).on_load_checkpoint(checkpoint)  # the checkpoint holds its cells
    with pytest.raises(InputError, match=r"Q\.npz does not exist"):
        module(**asked | {"partition": str(tmp_path / "Q.npz")}).on_load_checkpoint(checkpoint)


def test_what_cells_from_a_file_were_made_with_is_read_from_the_cells(from_file, tmp_path):
    checkpoint, _ = from_file
    asked = {"partition": str(tmp_path / "P.npz"), "max_photos": 10_000, "min_photos": 50}
    module(**asked | {"max_photos": 100, "min_photos": 1}).on_load_checkpoint(checkpoint)  # as they are
    with pytest.raises(InputError, match=r"--model\.max_photos is 7, but .* cells of another max_photos \(100\)"):
        module(**asked | {"max_photos": 7}).on_load_checkpoint(checkpoint)


def test_options_that_a_partition_file_overrides_are_named(from_file, places_root, tmp_path, capsys):
    points = data(places_root)
    points.setup("fit")
    file = str(tmp_path / "P.npz")
    module(partition=file, max_photos=7, min_photos=50, max_level=9).prepare_fit(points)
    said = capsys.readouterr().out
    assert f"note: --model.max_photos 7 and --model.max_level 9 are not looked at: the cells are {file}'s" in said
    module(partition=file, max_photos=100, min_photos=1).prepare_fit(points)
    assert "not looked at" not in capsys.readouterr().out


def scattered(towns, strays):
    """Photographs: 200 in each town, a few kilometres wide, and strays anywhere."""
    draw = np.random.default_rng(0)
    places = [np.array(town) + draw.normal(0, 0.05, (200, 2)) for town in towns]
    return np.concatenate([*places, to_latlng(draw.normal(size=(strays, 3)))])


@pytest.mark.parametrize(
    ("places", "options", "hint"),
    [
        (scattered([], 300), {"max_photos": 200, "min_photos": 5}, "of the photographs lie in cells of a thousand"),
        (scattered([(48, 2), (-33, 151)], 300), {"max_photos": 150, "min_photos": 60}, "51% of the photographs lie in"),
        (scattered([(48, 2), (-33, 151)], 50), {"max_photos": 150, "min_photos": 20}, None),
        (scattered([], 300), {"max_photos": 100, "min_photos": 10}, None),  # as that file has it
    ],
)
def test_cells_too_large_or_too_few_are_said_with_the_options_to_change(places, options, hint, capsys):
    net = module(**options)
    net.prepare_fit(SimpleNamespace(train_latlng=lambda: places))
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == (hint is not None)
    if hint:
        assert hint in notes[0]
        assert "lower --model.max_photos and --model.min_photos, as configs/geolocalization/own_photos.yaml" in notes[0]


def test_the_note_names_the_numbers_of_the_config_it_names():
    config = yaml.safe_load((CONFIGS / "geolocalization" / "own_photos.yaml").read_text())["model"]
    assert (config["max_photos"], config["min_photos"]) == _OF_OWN_PHOTOS


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
        ({"tau_km": 0}, "--model.tau_km is 0; it must be above 0"),
        ({"tau_km": float("inf")}, "--model.tau_km is inf"),
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
    with pytest.raises(InputError, match=r"12 photographs make 0 cells.* lower --model\.max_photos and --model"):
        net.prepare_fit(points)


def test_options_of_the_cells_are_named_as_they_are_given(places_root):
    points = data(places_root)
    points.setup("fit")
    with pytest.raises(InputError, match=r"^--model\.max_photos is 0; it must be"):
        module(max_photos=0).prepare_fit(points)
    with pytest.raises(InputError, match=r"^--model\.min_photos is 9; it must be from 1 to --model\.max_photos"):
        module(max_photos=[2, 6], min_photos=9).prepare_fit(points)
