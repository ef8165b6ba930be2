import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import completed, figures, in_two_processes, one_sentence
from torch.utils.data import Dataset, DistributedSampler

from data import loading
from data.loading import EpochSampler, ShardSampler, fitting_workers, make_loader, sample_seed
from tasks.detection.__main__ import main as detection


def indices(sampler):
    return [index for _, index in sampler]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return indices(EpochSampler(100, seed=seed, shuffle=True, epoch=epoch))

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(5)}) == 15
    later = EpochSampler(100, seed=0, shuffle=True)
    later.set_epoch(3)
    assert list(later) == [(3, index) for index in order(0, 3)]
    assert sorted(order(0, 3)) == list(range(100))


def test_without_shuffling_the_order_is_that_of_the_file():
    assert list(EpochSampler(4, seed=0, shuffle=False, epoch=2)) == [(2, 0), (2, 1), (2, 2), (2, 3)]


@pytest.mark.parametrize("replicas", range(1, 5))
@pytest.mark.parametrize("size", range(8))
def test_every_rank_has_a_sample_and_evaluation_repeats_one_only_for_want_of_another(size, replicas):
    def shares(shuffle):
        settings = {"seed": 1, "shuffle": shuffle, "num_replicas": replicas}
        samplers = [EpochSampler(size, rank=rank, **settings) for rank in range(replicas)]
        drawn = [indices(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(share) for share in drawn]
        assert {i for share in drawn for i in share} == set(range(size))
        assert size == 0 or all(drawn)
        return drawn

    assert {len(share) for share in shares(shuffle=True)} == {-(-size // replicas)}
    evaluated = shares(shuffle=False)
    assert sum(map(len, evaluated)) == (max(size, replicas) if size else 0)


def test_start_skips_once_and_leaves_the_length_of_an_epoch():
    whole = EpochSampler(10, seed=0, shuffle=True, epoch=4)
    resumed = EpochSampler(10, seed=0, shuffle=True, epoch=4, start=6)
    assert len(resumed) == 10
    assert list(resumed) == list(whole)[6:] == list(resumed)  # iterating twice in that epoch skips twice
    for sampler in (whole, resumed):
        sampler.set_epoch(5)
    assert list(resumed) == list(whole)
    assert len(list(resumed)) == 10


def in_shards(sizes, replicas=1, **settings):
    """The batches of each rank."""
    settings = {"batch_size": 16, "seed": 1, "num_replicas": replicas, **settings}
    return [list(ShardSampler(np.array(sizes), rank=rank, **settings)) for rank in range(replicas)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [[1], [7], [3, 0, 1, 1], [40, 1, 300, 17, 90, 2, 55], [1] * 61, [2500, 30, 4100]])
def test_shards_give_every_item_once_in_equally_many_batches_on_every_rank(sizes, replicas, batch_size):
    size = sum(sizes)
    ranks = in_shards(sizes, replicas, batch_size=batch_size, epoch=4)
    items = [[index for batch in batches for _, index in batch] for batches in ranks]
    assert {epoch for batches in ranks for batch in batches for epoch, _ in batch} == {4}
    steps = -(-size // (replicas * batch_size))
    assert {len(batches) for batches in ranks} == {steps}
    assert len(ShardSampler(np.array(sizes), batch_size=batch_size, seed=1, num_replicas=replicas)) == steps
    lengths = [len(batch) for batches in ranks for batch in batches]
    assert min(lengths) >= 1
    assert max(lengths) <= batch_size
    assert {i for own in items for i in own} == set(range(size))
    if size // replicas >= steps:  # enough for every rank to have one in each batch
        assert sorted(i for own in items for i in own) == list(range(size))
        assert max(map(len, items)) - min(map(len, items)) <= 1
        assert max(lengths) - min(lengths) <= 1 + (size % replicas > 0)
    else:
        assert sum(map(len, items)) < size + replicas * steps
        assert all(len(set(own)) == len(own) for own in items)


SIZES = [900, 700, 30, 1, 1200, 640, 69, 800, 333, 1000, 450, 2]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_rank_needs_few_shards_at_a_time_each_once_and_is_told_of_the_next(replicas):
    needed, shard_of = [], np.repeat(np.arange(len(SIZES)), SIZES)
    for rank in range(replicas):
        told = []
        settings = {"batch_size": 16, "seed": 1, "rank": rank, "num_replicas": replicas}
        sampler = ShardSampler(np.array(SIZES), ahead=told.append, **settings)
        shards = shard_of[[index for batch in sampler for _, index in batch]].tolist()
        groups = sampler.groups()
        for group in groups:
            count = (group[:, 2] - group[:, 1]).sum()
            assert set(shards[:count]) == set(group[:, 0])
            assert group is groups[-1] or (len(group) >= 4 and count >= 1000)
            shards = shards[count:]
        assert not shards
        names = [group[:, 0].tolist() for group in groups] + [[]]
        assert told == [names[i] + names[i + 1] for i in range(len(groups))]
        needed += itertools.chain(*names)
    assert set(needed) == set(range(len(SIZES)))
    assert len(needed) <= len(SIZES) + replicas - 1  # a shard at the boundary of two ranks is needed by both


def test_shards_are_mixed_by_pieces_that_lie_together():
    """What a disk reads for a window of 1000: ten pieces of 100, from any shard of the group."""
    (batches,) = in_shards([1500] * 8)
    order = np.array([index for batch in batches for _, index in batch])
    for start in range(0, 12000, 1000):
        window = order[start : start + 1000]
        assert 5 < (np.diff(np.sort(window)) > 1).sum() < 10
        assert len(set(window // 1500)) > 2
        assert abs(np.corrcoef(window, np.arange(1000))[0, 1]) < 0.15
    orders = [in_shards(SIZES, seed=seed, epoch=epoch)[0] for seed in range(2) for epoch in range(2)]
    assert orders[0] == in_shards(SIZES, seed=0, epoch=0)[0]
    assert len({tuple(i for batch in batches for _, i in batch) for batches in orders}) == 4


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("draws", [None, np.resize([0.5, 1.5], sum(SIZES))])
def test_an_epoch_of_shards_goes_on_at_any_batch(replicas, draws):
    whole = in_shards(SIZES, replicas, epoch=2, draws=draws)
    for start in (0, 1, 57, len(whole[0]) - 1, len(whole[0]), len(whole[0]) + 5):
        resumed = in_shards(SIZES, replicas, epoch=2, draws=draws, start=start)
        assert resumed == [batches[start:] for batches in whole]
    sampler = ShardSampler(np.array(SIZES), batch_size=16, seed=1, epoch=1, start=57, draws=draws)
    sampler.set_epoch(2)
    assert replicas > 1 or list(sampler) == whole[0]


def test_items_of_shards_are_drawn_as_often_as_asked_for():
    sizes, draws = [300] * 8, np.tile(np.repeat([0.25, 2.5], [250, 50]), 8) / 0.625
    counts = np.zeros(2400)
    for epoch in range(200):
        (batches,) = in_shards(sizes, draws=draws, epoch=epoch)
        items = [item for batch in batches for item in batch]
        assert len(set(items)) == len(items) == 2400  # one that comes again has another number for the epoch
        drawn = np.bincount([index for _, index in items], minlength=2400)
        assert (np.abs(drawn - draws) < 1).all()
        counts += drawn
    assert np.abs(counts / 200 - draws).max() < 5 * 0.5 / np.sqrt(200)


DRAWS = np.repeat([0.5, 41.7, 0.2, 1.172], [100, 2, 50, 50])  # their sum is their number, 202


def draw_shares(epoch, replicas=1, start=0):
    settings = {"seed": 1, "shuffle": True, "epoch": epoch, "num_replicas": replicas, "start": start, "draws": DRAWS}
    return [list(EpochSampler(len(DRAWS), rank=rank, **settings)) for rank in range(replicas)]


def test_items_are_drawn_as_often_as_asked_for_in_an_order_of_seed_and_epoch():
    assert DRAWS.sum() == pytest.approx(len(DRAWS))
    counts = np.array([np.bincount([i for _, i in draw_shares(epoch)[0]], minlength=202) for epoch in range(400)])
    assert (counts.sum(1) == 202).all()
    assert (np.abs(counts - DRAWS) < 1).all()  # rounded down or up
    rest = DRAWS % 1  # up so often: 400 Bernoulli trials for each item
    ups = (counts > DRAWS).sum(0)
    chi_square = ((ups - 400 * rest) ** 2 / (400 * rest * (1 - rest))).sum()
    assert abs(chi_square - 202) < 5 * np.sqrt(2 * 202)
    (first,) = draw_shares(0)
    assert [first] == draw_shares(0)
    assert indices(first) != indices(draw_shares(1)[0])
    place = [place for place, i in enumerate(indices(first)) if i == 100]  # mixed: not one after the other
    assert place[0] < 25
    assert place[-1] > 177


def test_an_item_that_is_drawn_again_has_a_seed_and_a_view_of_its_own():
    (share,) = draw_shares(7)
    assert len(set(share)) == 202
    for item in set(indices(share)):
        epochs = [epoch for epoch, i in share if i == item]
        assert epochs[0] == 7
        for views in (1, 2, 8, 1000):
            assert len({epoch % views for epoch in epochs}) == min(views, len(epochs))


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_drawn_items_are_dealt_to_ranks_without_overlap_and_a_resume_goes_on(replicas):
    shares, (whole,) = draw_shares(3, replicas), draw_shares(3)
    length = -(-202 // replicas)
    assert [len(share) for share in shares] == [length] * replicas
    together = [item for items in zip(*shares, strict=True) for item in items]
    assert together[:202] == whole  # and what fills up the last round is the beginning again
    assert indices(together[202:]) == indices(whole[: replicas * length - 202])
    assert draw_shares(3, replicas, start=31) == [share[31:] for share in shares]


def test_lightning_leaves_the_sampler_in_place_because_it_is_a_distributed_one():
    for runs in (None, np.array([1])):
        loader = make_loader(Drawn(1), seed=0, shuffle=True, batch_size=2, num_workers=0, collate=list, runs=runs)
        assert isinstance(loader.sampler, DistributedSampler)


def test_sample_seeds_never_meet():
    seeds = {sample_seed(s, e, i) for s in range(4) for e in range(10) for i in range(100)}
    assert len(seeds) == 4000
    assert sample_seed(1, 2, 3) == sample_seed(1, 2, 3)
    assert all(0 <= seed < 2**64 for seed in seeds)


class Drawn(Dataset):
    """Each sample a random number of its own, and the threads of the process that drew it."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        return np.random.default_rng(sample_seed(0, *item)).random(), torch.get_num_threads()


@pytest.mark.parametrize("runs", [None, np.array([3, 5])])
@pytest.mark.parametrize("draws", [None, np.array([2.5, 2.5, *[0.5] * 6])])
def test_two_workers_draw_what_none_draws_and_the_global_generator_is_left_alone(draws, runs):
    def draw(num_workers):
        given = {"batch_size": 2, "num_workers": num_workers, "collate": list, "draws": draws, "runs": runs}
        loader = make_loader(Drawn(8), seed=0, shuffle=True, **given)
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs.append([[value for value, _ in batch] for batch in loader])
        return epochs

    before = torch.get_rng_state()
    alone, shared = draw(0), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert alone == shared
    assert len({value for epoch in alone for batch in epoch for value in batch}) == 16


def test_workers_run_on_one_thread():
    loader = make_loader(Drawn(2), seed=0, shuffle=False, batch_size=2, num_workers=1, collate=list)
    assert [threads for batch in loader for _, threads in batch] == [1, 1]


@pytest.mark.parametrize(
    ("size", "shuffle", "batches"),
    [(7, True, 3), (6, True, 3), (2, True, 1), (1, True, 1), (7, False, 4)],
)
def test_the_incomplete_last_batch_is_dropped_only_in_training_where_another_is_left(size, shuffle, batches):
    loader = make_loader(Drawn(size), seed=0, shuffle=shuffle, batch_size=2, num_workers=0, collate=list)
    assert len(list(loader)) == len(loader) == batches


@pytest.mark.slow
def test_two_processes_with_one_image_each_split_score_as_one_process(write_coco, tmp_path, capsys):
    """A process without an image let the other wait for ever."""
    root = write_coco(tmp_path / "data", {"train": 1, "val": 1, "test": 1})
    given = ["--data.root", str(root), "--data.num_workers", "0", "--trainer.precision", "32-true"]
    small = ["--model.width_mult", "0.25", "--data.image_size", "96", "--trainer.enable_progress_bar", "false"]
    folder = in_two_processes("detection", "fit", *given, *small, "--trainer.max_epochs", "4")
    best = ["--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), "--trainer.accelerator", "cpu"]
    _, alone = completed(detection, capsys, "validate", *given, *best)
    assert figures(folder) == figures(alone)
    assert figures(alone)["val/map"] > 0


# --- shared memory ----------------------------------------------------------------------------------------------------

IMAGE = 3 * 100 * 100 + 16384  # bytes of one of 100 x 100 px, and of its targets


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    """The function that says how many bytes of it are free."""
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path)
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))


@pytest.mark.parametrize(
    ("sizes", "processes", "images_of_a_worker"),
    [
        ([1000, 1000], 1, 2 * 3 * 8),  # a batch of 8 that is made and two that wait, of both splits
        ([1000], 1, 3 * 8),
        ([1000, 5], 1, 3 * 8 + 5),  # no more than there are
        ([1000, 1000], 2, 2 * 2 * 3 * 8),
    ],
)
def test_loading_processes_are_as_many_as_their_batches_find_room(
    sizes, processes, images_of_a_worker, shared_memory, capsys
):
    given = {"batch_size": 8, "image_size": (100, 100), "sizes": sizes, "processes": processes}
    shared_memory(images_of_a_worker * IMAGE)
    assert fitting_workers(1, **given) == 1
    assert capsys.readouterr().out == ""
    shared_memory(images_of_a_worker * IMAGE - 1)
    with one_sentence("has .* MB free of the .* MB that --data.num_workers 1 needs") as refused:
        fitting_workers(1, **given)
    assert "--data.num_workers 0" in str(refused.value)
    assert "docker run --shm-size 1g" in str(refused.value)
    assert fitting_workers(0, **given) == 0


def test_auto_takes_the_loading_processes_that_fit_and_says_so(shared_memory, capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    given = {"batch_size": 8, "image_size": (100, 100), "sizes": [1000, 1000], "processes": 1}
    for free, expected in ((64 << 10, 0), (3 * 48 * IMAGE, 3), (4 * 48 * IMAGE, 4)):
        shared_memory(free)
        assert fitting_workers("auto", **given) == expected
        line = capsys.readouterr().out
        assert line.count("\n") == (expected < 4)
        assert expected == 4 or (f"--data.num_workers {expected}" in line and "--shm-size" in line)


def test_where_there_is_no_such_folder_nothing_is_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path / "none")
    assert fitting_workers(3, batch_size=10**9, image_size=(1000, 1000), sizes=[10**9], processes=1) == 3


class Asleep(Drawn):
    def __getitem__(self, item):
        time.sleep(20)


@pytest.mark.slow
def test_a_loading_process_that_gives_nothing_is_given_up(monkeypatch):
    """As one does that finds no shared memory: it prints why, and goes on."""
    monkeypatch.setattr(loading, "TIMEOUT", 1)
    loader = make_loader(Asleep(2), seed=0, shuffle=False, batch_size=2, num_workers=1, collate=list)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # that it waits for it at its end
    with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
        list(loader)
    gc.collect()


class Killed(Asleep):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loading_process_is_heard_of_at_once_after_a_fit_too(monkeypatch):
    """Which ends with the handlers that it began with: torch's own is not among them."""
    monkeypatch.setattr(loading, "TIMEOUT", 3)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        loader = make_loader(Killed(2), seed=0, shuffle=False, batch_size=2, num_workers=1, collate=list)
        monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
        with pytest.raises(RuntimeError) as raised:
            list(loader)
        assert "killed by signal" in str(raised.value.__cause__)  # after the timeout it is that nothing came
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.slow
def test_a_fit_with_64_kib_of_shared_memory_loads_without_processes(classes_root):
    """A file system of its own at /dev/shm, which takes the right to make one."""
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    small = "--model.width_mult 0.25 --data.image_size 32 --trainer.max_epochs 1 --trainer.enable_progress_bar false"
    command = [sys.executable, "-m", "tasks.classification", "fit", "--data.root", str(classes_root), *small.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    done = subprocess.run([*mounted, *command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--data.num_workers 0" in done.stdout
