import multiprocessing

import numpy as np
import pytest
import torch.distributed as dist

from data.readers.coco_file import Detections
from data.records import Boxes, Records
from tasks import kept
from tasks.detection.metrics import detections_of, evaluate
from tasks.kept import Kept


def take(*processes):
    """What `take` gives where each process has kept its own batches."""
    stores = []
    for batches in processes:
        stores.append(Kept())
        for positions, columns, counts in batches:
            stores[-1].add(positions, *columns, counts=counts)
    *others, last = stores
    parts = [(one._images, one._columns) for one in others]
    packed = [tuple([column.rows for column in columns] for columns in part) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "of_all", lambda mine: [*packed, mine])
        found = last.take()
    assert len(last) == 0
    return found


def test_rows_come_by_position_whatever_the_batches():
    rng = np.random.default_rng(0)
    order, values = rng.permutation(500), rng.normal(size=(500, 3)).astype(np.float32)
    batches = [(order[at : at + 7], (values[order[at : at + 7]], -order[at : at + 7]), None) for at in range(0, 500, 7)]
    positions, (rows, negative), counts = take(batches)
    assert counts is None
    assert positions.tolist() == list(range(500))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, values)
    np.testing.assert_array_equal(negative, -np.arange(500))


def test_processes_with_unequal_numbers_none_and_one_image_in_two_of_them():
    def batch(*positions):
        return [(positions, (np.array(positions) * 10.0,), None)]

    positions, [rows], _ = take(batch(4, 0), [], batch(2), batch(4, 3))
    assert positions.tolist() == [0, 2, 3, 4]
    assert rows.tolist() == [0, 20, 30, 40]


def test_images_with_several_rows_or_none():
    rng = np.random.default_rng(1)
    truth = {position: rng.normal(size=(int(rng.integers(0, 4)), 2)) for position in range(40)}

    def batch(*positions):
        rows = [truth[position] for position in positions]
        return positions, (np.concatenate(rows), np.repeat(positions, list(map(len, rows)))), list(map(len, rows))

    order = rng.permutation(40).tolist()
    first = [batch(*order[at : at + 6]) for at in range(0, 24, 6)]
    positions, (rows, owners), counts = take(first, [batch(*order[24:]), batch(*order[:3])])
    assert positions.tolist() == list(range(40))
    assert counts.tolist() == [len(truth[position]) for position in range(40)]
    np.testing.assert_array_equal(rows, np.concatenate(list(truth.values())))
    assert owners.tolist() == [position for position, own in truth.items() for _ in own]


def test_of_an_image_kept_twice_the_last_rows_count():
    positions, [rows], _ = take([([1, 2], (np.array([1.0, 2.0]),), None), ([1], (np.array([9.0]),), None)])
    assert (positions.tolist(), rows.tolist()) == ([1, 2], [9, 2])


def _keeps(rank, folder, batches):
    """Of two processes one, which keeps its batches and writes down what it takes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    store = Kept()
    for positions, columns, counts in batches:
        store.add(positions, *columns, counts=counts)
    rows = store.take()
    np.savez(folder / f"{rank}.npz", rows.positions, rows.counts, *rows.columns)
    dist.destroy_process_group()


def test_two_processes_with_half_of_the_images_each_score_as_one(tmp_path):
    rng = np.random.default_rng(3)
    images, found = 30, rng.integers(0, 12, 30)
    corners = np.sort(rng.uniform(0, 200, (found.sum(), 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    scores, labels = rng.random(len(corners)).round(1).astype(np.float32), rng.integers(0, 3, len(corners))  # ties
    starts = np.concatenate([[0], np.cumsum(found)])
    batches = []
    for first in range(0, images, 4):
        rows = slice(starts[first], starts[min(first + 4, images)])
        positions = list(range(first, min(first + 4, images)))
        batches.append((positions, (corners[rows], scores[rows], labels[rows]), found[positions].tolist()))

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_keeps, args=(rank, tmp_path, batches[rank::2])) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    alone = take(batches)
    for rank in (0, 1):
        both = list(np.load(tmp_path / f"{rank}.npz").values())
        for column, expected in zip(both, [alone.positions, alone.counts, *alone.columns], strict=True):
            assert column.dtype == expected.dtype
            np.testing.assert_array_equal(column, expected)

    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(float)
    kept = rng.random(len(corners)) < 0.5  # the truth is every second box, a little off
    at = np.repeat(np.arange(images), found)[kept]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=images))])
    areas, crowd = xywh[kept, 2:].prod(axis=1), rng.random(kept.sum()) < 0.1
    boxes = Boxes(offsets, xywh[kept] + 1, labels[kept], crowd, areas)
    columns = {"image_ids": rng.permutation(images) + 5, "sizes": np.full((images, 2), 300)}
    truth = Records(tmp_path, np.array([b"a"] * images), columns, boxes, ("a", "b", "c"), (1, 2, 4))
    positions, counts, *rest = np.load(tmp_path / "1.npz").values()
    figures = evaluate(truth.take(positions), detections_of(counts, *rest)).figures
    of_one = Detections(np.repeat(np.arange(images), found), labels, xywh, scores.astype(float))
    assert figures == evaluate(truth, of_one, "pycocotools").figures
    assert 0 < figures["map"] < 1
