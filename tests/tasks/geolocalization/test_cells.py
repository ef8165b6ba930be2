import numpy as np
import pytest
import torch

from backbone.errors import InputError
from tasks.geolocalization import s2
from tasks.geolocalization.cells import (
    MAX_LEVEL,
    Partition,
    build_hierarchy,
    build_partition,
    collect_leaves,
    nearest_point_km,
    own_cell_km,
    parent_of,
    partitions_of,
)
from tasks.geolocalization.sphere import haversine_km, to_latlng, to_xyz


def clustered(count, seed=0):
    """Places in towns of very different size and, a fifth of them, anywhere."""
    generator = np.random.default_rng(seed)
    towns = generator.normal(size=(40, 3))
    towns /= np.linalg.norm(towns, axis=1, keepdims=True)
    at = towns[(40 * generator.random(count) ** 3).astype(int)]
    spread = np.where(generator.random(count) < 0.2, 9, 0.02 * generator.random(count))[:, None]
    return to_latlng(at + spread * generator.normal(size=(count, 3)))


def by_recursion(latlng, max_photos, min_photos, max_level):
    """PlaNet as its paper tells it, with nothing but a cell's parent: {id: number of its photographs}."""
    found = {}

    def visit(leaves, level):
        for cell in np.unique(s2.parents(leaves, level)):
            inside = leaves[s2.parents(leaves, level) == cell]
            if len(inside) > max_photos and level < max_level:
                visit(inside, level + 1)
            elif len(inside) >= min_photos:
                found[int(cell)] = len(inside)

    visit(s2.leaf_ids(latlng), 0)
    return found


@pytest.fixture(scope="module")
def latlng():
    return clustered(20_000)


@pytest.fixture(scope="module")
def partition(latlng):
    return build_partition(latlng, max_photos=200, min_photos=10)


@pytest.mark.parametrize(
    ("max_photos", "min_photos", "max_level"),
    [(200, 10, 18), (50, 50, 18), (7, 1, 30), (1, 1, 9), (100, 3, 4), (5000, 100, 30)],
)
def test_cells_are_those_of_a_plain_recursion(max_photos, min_photos, max_level):
    latlng = clustered(3000, seed=max_photos)
    built = build_partition(latlng, max_photos=max_photos, min_photos=min_photos, max_level=max_level)
    expected = by_recursion(latlng, max_photos, min_photos, max_level)
    assert dict(zip(built.ids.tolist(), built.counts.tolist(), strict=True)) == expected
    assert built.ids.tolist() == sorted(expected)
    assert built.total == 3000


def test_by_hand():
    """Of eight photographs, two on each of three faces and two more in one leaf of the third."""
    latlng = np.array([[0, 1], [0, 2], [0, 91], [1, 91], [80, 0], [80, 0], [80, 0], [80, 170]], float)
    built = build_partition(latlng, max_photos=2, min_photos=2, max_level=3)
    pole = s2.parents(s2.leaf_ids(np.array([[80.0, 0]])), 3)
    face = s2.parents(s2.leaf_ids(np.array([[0, 1.0], [0, 91]])), 0)
    assert built.ids.tolist() == [*face.tolist(), *pole.tolist()]
    assert built.counts.tolist() == [2, 2, 3]  # the last is over max_photos, but at max_level
    assert built.lookup(latlng).tolist() == [0, 0, 1, 1, 2, 2, 2, -1]  # (80, 170) was alone, so it was dropped
    np.testing.assert_allclose(built.latlng, [[0, 1.5], [0.5, 91], [80, 0]], atol=1e-4)


def test_cells_are_sorted_and_apart_and_count_what_is_looked_up_in_them(partition, latlng):
    assert len(partition) > 100
    assert len(np.unique(s2.levels(partition.ids))) > 5
    assert (s2.range_max(partition.ids)[:-1] < s2.range_min(partition.ids)[1:]).all()
    assert partition.counts.min() >= 10
    assert partition.counts.max() <= 200
    cells = partition.lookup(latlng)
    np.testing.assert_array_equal(np.bincount(cells[cells >= 0], minlength=len(partition)), partition.counts)
    assert partition.counts.sum() < partition.total == len(latlng)
    inside = s2.range_min(partition.ids)[cells] <= s2.leaf_ids(latlng)
    assert inside[cells >= 0].all()


def test_the_order_and_the_type_of_the_places_do_not_matter(partition, latlng):
    shuffled = np.random.default_rng(1).permutation(latlng)
    before = shuffled.copy()
    assert build_partition(shuffled, max_photos=200, min_photos=10).digest == partition.digest
    np.testing.assert_array_equal(shuffled, before)
    single = latlng.astype(np.float32)
    of_single = build_partition(single, max_photos=200, min_photos=10)
    assert of_single.digest == build_partition(single.astype(np.float64), max_photos=200, min_photos=10).digest
    assert of_single.digest != partition.digest  # float32 moves places by up to a metre
    assert len(of_single) == pytest.approx(len(partition), rel=0.02)


def test_places_in_chunks_make_the_same_partition(partition, latlng):
    leaves = collect_leaves(iter([latlng[:1], latlng[1:1], latlng[1:15_000], latlng[15_000:]]))
    np.testing.assert_array_equal(leaves, s2.leaf_ids(latlng))
    [built] = partitions_of(leaves, [200], min_photos=10)
    assert built.digest == partition.digest


@pytest.mark.parametrize("max_level", [0, 5, MAX_LEVEL, 30])
def test_identical_places_are_split_down_to_max_level_and_no_further(max_level):
    latlng = np.repeat([[48.8584, 2.2945], [-33.8568, 151.2153]], 3000, axis=0)
    built = build_partition(latlng, max_photos=100, max_level=max_level)
    assert s2.levels(built.ids).tolist() == [max_level] * 2
    assert built.counts.tolist() == [3000, 3000]
    assert haversine_km(built.latlng, latlng[[0, 3000]]).max() < 1e-5


def test_with_min_photos_of_one_every_photograph_is_kept(latlng):
    built = build_partition(latlng, max_photos=200, min_photos=1)
    assert built.counts.sum() == built.total == len(latlng)
    assert (built.lookup(latlng) >= 0).all()


def test_where_no_photographs_were_there_is_no_cell():
    latlng = np.repeat([[48.8584, 2.2945], [-33.8568, 151.2153]], 30, axis=0)
    built = build_partition(latlng, max_photos=20, min_photos=20)
    there_and_elsewhere = np.array([[48.8584, 2.2945], [0, -30], [90, 0], [-90, 0], [0, 180], [48.8584, 2.3045]])
    assert built.lookup(there_and_elsewhere).tolist() == [0, -1, -1, -1, -1, -1]
    before_first_and_after_last = s2.centres(np.array([1, (6 << 61) - 1], np.uint64))
    assert built.lookup(before_first_and_after_last).tolist() == [-1, -1]


def test_a_cells_point_is_the_mean_direction_of_its_photographs(partition, latlng):
    cells = partition.lookup(latlng)
    for k in range(len(partition)):
        mean = to_xyz(latlng[cells == k]).sum(axis=0)
        mean /= np.linalg.norm(mean)
        assert np.linalg.norm(partition.points[k] - mean) * 6371e5 < 1  # cm; leaves stand for places


@pytest.mark.parametrize(
    ("latlng", "expected"),
    [
        ([(10, 179), (10, -179)], (10.0015, 180)),  # across the antimeridian
        ([(89, 0), (89, 90), (89, 180), (89, -90)], (90, 0)),  # around a pole
        ([(-80, 10), (-70, 10), (-70, 10)], (-73.3296, 10)),  # arctan of (sin 80 + 2 sin 70) / (cos 80 + 2 cos 70)
    ],
)
def test_means_are_of_directions_not_of_degrees(latlng, expected):
    elsewhere = [(0, 0)] * 4
    built = build_partition(np.array(latlng + elsewhere, float), max_photos=9, min_photos=1, max_level=0)
    [k] = np.unique(built.lookup(np.array(latlng, float)))  # they lie in one cell
    assert haversine_km(built.latlng[k], np.array(expected, float)) < 0.01


def test_a_mean_lies_in_its_cell(partition):
    np.testing.assert_array_equal(partition.lookup(partition.latlng), np.arange(len(partition)))


def test_points_may_be_the_centres(latlng, partition):
    built = build_partition(latlng, max_photos=200, min_photos=10, points="centre")
    np.testing.assert_allclose(built.points, s2.centre_vectors(built.ids))
    np.testing.assert_array_equal(built.ids, partition.ids)
    assert np.median(own_cell_km(partition, latlng)) < np.median(own_cell_km(built, latlng))


def test_distances_to_the_own_and_to_the_nearest_point(partition, latlng):
    some = latlng[:500]
    cells = partition.lookup(some)
    between = haversine_km(some[:, None], partition.latlng[None])  # (N, C)
    own, nearest = own_cell_km(partition, some), nearest_point_km(partition, some)
    assert (own[cells < 0] == np.inf).all()
    kept = np.flatnonzero(cells >= 0)
    np.testing.assert_allclose(own[kept], between[kept, cells[kept]])
    np.testing.assert_allclose(nearest, between.min(axis=1))
    assert (nearest <= own).all()
    assert (nearest[kept] < own[kept] - 1).any()


def test_a_hierarchy_is_nested_and_each_level_the_same_as_alone(latlng, partition):
    fine, middle, coarse = build_hierarchy(latlng, [2000, 200, 600], min_photos=10)
    assert fine.digest == partition.digest
    assert coarse.digest == build_partition(latlng, max_photos=2000, min_photos=10).digest
    for parent in (middle, coarse):
        cells, above = fine.lookup(latlng), parent.lookup(latlng)
        np.testing.assert_array_equal(parent_of(fine, parent)[cells[cells >= 0]], above[cells >= 0])
    np.testing.assert_array_equal(parent_of(middle, coarse)[parent_of(fine, middle)], parent_of(fine, coarse))
    np.testing.assert_array_equal(parent_of(fine, fine), np.arange(len(fine)))


def test_parents_by_hand():
    latlng = np.repeat([[0, 0.1], [0.1, 20], [30, 20], [0, 100], [0, 101]], 3, axis=0).astype(float)
    fine, coarse = build_hierarchy(latlng, [3, 9], min_photos=3)
    assert coarse.counts.tolist() == [9, 6]  # two faces
    assert fine.counts.tolist() == [3] * 5
    parents = parent_of(fine, coarse)
    assert parents[fine.lookup(latlng)].tolist() == [0] * 9 + [1] * 6


def test_partitions_that_are_not_nested_are_refused(latlng, partition):
    with pytest.raises(InputError, match=r"not nested: the finer one's cell [0-9a-f]+ lies in none"):
        parent_of(build_partition(latlng, max_photos=2000, min_photos=10), partition)
    with pytest.raises(InputError, match="not nested"):
        parent_of(partition, build_partition(clustered(3000, seed=9), max_photos=200, min_photos=10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_photos": 10, "min_photos": 11}, "^--min_photos is 11; it must be from 1 to --max_photos"),
        ({"max_photos": 10, "min_photos": 0}, "min_photos is 0"),
        ({"max_photos": 0}, "^--max_photos is 0; it must be"),
        ({"max_photos": 100, "max_level": 31}, "max_level is 31; it must be from 0 to 30"),
        ({"max_photos": 100, "points": "median"}, "points is median"),
        ({"max_photos": 20_000}, None),
        ({"max_photos": 20_000, "min_photos": 20_000}, "20000 photographs make 0 cells of at least 20000"),
    ],
)
def test_options_out_of_range_are_refused(latlng, options, message):
    if message is None:
        assert len(build_partition(latlng, **options)) == 6  # each face is a cell
        return
    with pytest.raises(InputError, match=message):
        build_partition(latlng, **options)


def test_fewer_than_two_cells_and_no_photographs_are_refused():
    with pytest.raises(InputError, match="100 photographs make 1 cells"):
        build_partition(np.full((100, 2), 45.0))
    with pytest.raises(InputError, match="0 photographs make 0 cells"):
        build_partition(np.zeros((0, 2)))
    with pytest.raises(InputError, match=r"^--max_photos is \[5, 5\]; it must be different numbers"):
        build_hierarchy(np.zeros((0, 2)), [5, 5], min_photos=1)
    with pytest.raises(InputError, match=r"--max_photos is \[\]"):
        build_hierarchy(np.zeros((0, 2)), [])


def test_a_partition_survives_a_checkpoint_and_a_file_exactly(partition, tmp_path):
    torch.save({"partition": partition.to_dict()}, tmp_path / "checkpoint")
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)["partition"]
    assert Partition.from_dict(kept).digest == partition.digest
    arrays = {**partition.to_dict(), "points": torch.tensor(kept["points"], dtype=torch.float64)}
    assert Partition.from_dict(arrays).digest == partition.digest

    file = tmp_path / "P.npz"
    partition.save(file)
    read = Partition.load(file)
    assert read.digest == partition.digest
    np.testing.assert_array_equal(read.lookup(partition.latlng), np.arange(len(partition)))
    assert [path.name for path in tmp_path.glob("*P.npz*")] == ["P.npz"]


def test_digests_tell_partitions_apart(partition):
    entries = partition.to_dict()
    nudged = [[row[0], row[1], row[2]] for row in entries["points"]]
    nudged[3] = nudged[4]
    others = [{"total": partition.total + 1}, {"min_photos": 9}, {"max_level": 19}, {"points": nudged}]
    digests = {Partition.from_dict({**entries, **other}).digest for other in others}
    assert len(digests | {partition.digest}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"ids": e["ids"][::-1]}, "not sorted"),
        (lambda e: {"ids": [e["ids"][1], *e["ids"][1:]]}, "overlap"),
        (lambda e: {"ids": [2, *e["ids"][1:]]}, "not S2 cells"),
        (lambda e: {"ids": [-1, *e["ids"][1:]]}, "entries that are not numbers"),
        (lambda e: {"ids": e["ids"][1:]}, "has ids"),
        (lambda e: {"counts": [9, *e["counts"][1:]]}, "has counts that are not between"),
        (lambda e: {"counts": [201, *e["counts"][1:]]}, "has counts that are not between"),
        (lambda e: {"total": sum(e["counts"]) - 1}, "more than its total"),
        (lambda e: {"max_level": 3}, "beyond its max_level 3"),
        (lambda e: {"points": [[0.0, 0.0, 0.0], *e["points"][1:]]}, "not unit vectors"),
        (lambda e: {"points": [[float("nan")] * 3, *e["points"][1:]]}, "not unit vectors"),
        (lambda e: {"points": [["x"] * 3, *e["points"][1:]]}, "entries that are not numbers"),
        (lambda e: {key: e[key][:1] for key in ("ids", "counts", "points")}, "1 cells"),
    ],
)
def test_entries_that_do_not_fit_together_are_refused(partition, change, message):
    entries = partition.to_dict()
    with pytest.raises(InputError, match=message):
        Partition.from_dict({**entries, **change(entries)})
    with pytest.raises(InputError, match="has no counts"):
        Partition.from_dict({key: value for key, value in entries.items() if key != "counts"})


def test_a_file_that_is_damaged_or_no_partition_is_refused(partition, tmp_path):
    file = tmp_path / "P.npz"
    with pytest.raises(InputError, match=r"P\.npz does not exist; make one with"):
        Partition.load(file)
    with pytest.raises(InputError, match="cannot be read"):
        Partition.load(tmp_path)
    partition.save(file)
    whole = file.read_bytes()
    for damaged in (b"", b"LAT,LON\n1,2\n", whole[:-100], whole[: len(whole) // 2], b"x" * 90 + whole[90:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"P\.npz.*(damaged|partition of version None)"):
            Partition.load(file)
    middle = whole.index(partition.points.tobytes()[:64]) + 20
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(InputError, match="damaged"):
        Partition.load(file)
    np.savez(file, pictures=np.zeros(3))
    with pytest.raises(InputError, match="version None, not 1"):
        Partition.load(file)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npy is not a partition"):
        Partition.load(tmp_path / "a.npy")


def test_a_file_whose_contents_were_changed_is_refused(partition, tmp_path):
    file = tmp_path / "P.npz"
    partition.save(file)
    entries = dict(np.load(file))
    np.savez(file, **{**entries, "total": entries["total"] + 1})
    with pytest.raises(InputError, match="its digest is another than its contents'"):
        Partition.load(file)
    np.savez(file, **{**entries, "version": 2})
    with pytest.raises(InputError, match="of version 2, not 1"):
        Partition.load(file)


def test_nothing_is_left_where_a_file_cannot_be_written(partition, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written"):
        partition.save(tmp_path / "no" / "P.npz")

    def fill_the_disk(file, **entries):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(InputError, match="cannot be written \\(No space left"):
        partition.save(tmp_path / "P.npz")
    assert list(tmp_path.iterdir()) == []
