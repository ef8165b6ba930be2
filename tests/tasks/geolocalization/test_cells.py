import numpy as np
import pytest
import torch

from backbone.errors import InputError
from tasks.geolocalization import cells, s2
from tasks.geolocalization.cells import (
    MAX_LEVEL,
    Partition,
    collect_leaves,
    nearest_point_km,
    own_cell_km,
    parent_of,
    partitions_of,
)
from tasks.geolocalization.sphere import haversine_km, to_latlng, to_xyz

TOWNS = np.array([[48.8584, 2.2945], [-33.8568, 151.2153]])


def clustered(count, seed=0):
    """Positions in towns of very different size and, a fifth of them, anywhere."""
    generator = np.random.default_rng(seed)
    towns = generator.normal(size=(40, 3))
    towns /= np.linalg.norm(towns, axis=1, keepdims=True)
    at = towns[(40 * generator.random(count) ** 3).astype(int)]
    spread = np.where(generator.random(count) < 0.2, 9, 0.02 * generator.random(count))[:, None]
    return to_latlng(at + spread * generator.normal(size=(count, 3)))


def build(latlng, max_images=10_000, **options):
    [built] = partitions_of(s2.leaf_ids(latlng), [max_images], **options)
    return built


def by_recursion(latlng, max_images, min_images, max_level):
    """PlaNet as its paper tells it, with nothing but a cell's parent: {id: number of its images}."""
    found = {}

    def visit(leaves, level):
        for cell in np.unique(s2.parents(leaves, level)):
            inside = leaves[s2.parents(leaves, level) == cell]
            if len(inside) > max_images and level < max_level:
                visit(inside, level + 1)
            elif len(inside) >= min_images:
                found[int(cell)] = len(inside)

    visit(s2.leaf_ids(latlng), 0)
    return found


@pytest.fixture(scope="module")
def latlng():
    return clustered(20_000)


@pytest.fixture(scope="module")
def partition(latlng):
    return build(latlng, 200, min_images=10)


@pytest.mark.parametrize(
    ("max_images", "min_images", "max_level"),
    [(200, 10, 18), (50, 50, 18), (7, 1, 30), (1, 1, 9), (100, 3, 4), (5000, 100, 30)],
)
def test_cells_are_those_of_a_plain_recursion(max_images, min_images, max_level, monkeypatch):
    monkeypatch.setattr(cells, "MAX_LEVEL", max_level)
    latlng = clustered(3000, seed=max_images)
    built = build(latlng, max_images, min_images=min_images)
    expected = by_recursion(latlng, max_images, min_images, max_level)
    assert dict(zip(built.ids.tolist(), built.counts.tolist(), strict=True)) == expected
    assert built.ids.tolist() == sorted(expected)
    assert built.total == 3000


def test_by_hand(monkeypatch):
    """Of eight images, two on each of three faces and two more in one leaf of the third."""
    monkeypatch.setattr(cells, "MAX_LEVEL", 3)
    latlng = np.array([[0, 1], [0, 2], [0, 91], [1, 91], [80, 0], [80, 0], [80, 0], [80, 170]], float)
    built = build(latlng, 2, min_images=2)
    pole = s2.parents(s2.leaf_ids(np.array([[80.0, 0]])), 3)
    face = s2.parents(s2.leaf_ids(np.array([[0, 1.0], [0, 91]])), 0)
    assert built.ids.tolist() == [*face.tolist(), *pole.tolist()]
    assert built.counts.tolist() == [2, 2, 3]  # the last is over max_images, but at the deepest level
    assert built.lookup(latlng).tolist() == [0, 0, 1, 1, 2, 2, 2, -1]  # (80, 170) was alone, so it was dropped
    np.testing.assert_allclose(built.latlng, [[0, 1.5], [0.5, 91], [80, 0]], atol=1e-4)


def test_order_type_and_chunks_of_the_positions_do_not_matter(partition, latlng):
    assert build(np.random.default_rng(1).permutation(latlng), 200, min_images=10).to_dict() == partition.to_dict()
    single = latlng.astype(np.float32)
    of_single = build(single, 200, min_images=10)
    assert of_single.to_dict() == build(single.astype(np.float64), 200, min_images=10).to_dict()
    assert of_single.to_dict() != partition.to_dict()  # float32 moves positions by up to a metre
    leaves = collect_leaves(iter([latlng[:1], latlng[1:1], latlng[1:15_000], latlng[15_000:]]))
    np.testing.assert_array_equal(leaves, s2.leaf_ids(latlng))
    [built] = partitions_of(leaves, [200], min_images=10)
    assert built.to_dict() == partition.to_dict()


def test_identical_positions_are_split_down_to_the_deepest_level_and_no_further():
    latlng = np.repeat(TOWNS, 3000, axis=0)
    built = build(latlng, 100)
    assert s2.levels(built.ids).tolist() == [MAX_LEVEL] * 2 == [18, 18]
    assert built.counts.tolist() == [3000, 3000]
    assert haversine_km(built.latlng, TOWNS).max() < 1e-5


def test_where_no_images_were_there_is_no_cell():
    built = build(np.repeat(TOWNS, 30, axis=0), 20, min_images=20)
    there_and_elsewhere = np.array([[48.8584, 2.2945], [0, -30], [90, 0], [-90, 0], [0, 180], [48.8584, 2.3045]])
    assert built.lookup(there_and_elsewhere).tolist() == [0, -1, -1, -1, -1, -1]
    before_first_and_after_last = s2.centres(np.array([1, (6 << 61) - 1], np.uint64))
    assert built.lookup(before_first_and_after_last).tolist() == [-1, -1]


def test_a_cells_point_is_the_mean_direction_of_its_images_and_lies_in_it(partition, latlng):
    own = partition.lookup(latlng)
    for k in range(len(partition)):
        mean = to_xyz(latlng[own == k]).sum(axis=0)
        mean /= np.linalg.norm(mean)
        assert np.linalg.norm(partition.points[k] - mean) * 6371e5 < 1  # cm; leaves stand for positions
    np.testing.assert_array_equal(partition.lookup(partition.latlng), np.arange(len(partition)))
    centre = build(latlng, 200, min_images=10, points="centre")
    np.testing.assert_allclose(centre.points, s2.centre_vectors(partition.ids))


@pytest.mark.parametrize(
    ("latlng", "expected"),
    [
        ([(10, 179), (10, -179)], (10.0015, 180)),  # across the antimeridian
        ([(89, 0), (89, 90), (89, 180), (89, -90)], (90, 0)),  # around a pole
        ([(-80, 10), (-70, 10), (-70, 10)], (-73.3296, 10)),  # arctan of (sin 80 + 2 sin 70) / (cos 80 + 2 cos 70)
    ],
)
def test_means_are_of_directions_not_of_degrees(latlng, expected):
    built = build(np.array(latlng + [(0, 0)] * 4, float), 9, min_images=1)
    [k] = np.unique(built.lookup(np.array(latlng, float)))  # they lie in one cell
    assert haversine_km(built.latlng[k], np.array(expected, float)) < 0.01


def test_distances_to_the_own_and_to_the_nearest_point(partition, latlng):
    some = latlng[:500]
    own_cell = partition.lookup(some)
    between = haversine_km(some[:, None], partition.latlng[None])  # (N, C)
    own, nearest = own_cell_km(partition, some), nearest_point_km(partition, some)
    assert (own[own_cell < 0] == np.inf).all()
    kept = np.flatnonzero(own_cell >= 0)
    np.testing.assert_allclose(own[kept], between[kept, own_cell[kept]])
    np.testing.assert_allclose(nearest, between.min(axis=1))
    assert (nearest <= own).all()
    assert (nearest[kept] < own[kept] - 1).any()


def test_a_hierarchy_is_nested_and_each_level_the_same_as_alone(latlng, partition):
    fine, middle, coarse = partitions_of(s2.leaf_ids(latlng), [2000, 200, 600], min_images=10)
    assert fine.to_dict() == partition.to_dict()
    assert coarse.to_dict() == build(latlng, 2000, min_images=10).to_dict()
    for parent in (middle, coarse):
        own, above = fine.lookup(latlng), parent.lookup(latlng)
        np.testing.assert_array_equal(parent_of(fine, parent)[own[own >= 0]], above[own >= 0])
    np.testing.assert_array_equal(parent_of(middle, coarse)[parent_of(fine, middle)], parent_of(fine, coarse))
    np.testing.assert_array_equal(parent_of(fine, fine), np.arange(len(fine)))


def test_partitions_that_are_not_nested_are_refused(latlng, partition):
    for fine, coarse in (
        (build(latlng, 2000, min_images=10), partition),
        (partition, build(clustered(3000, seed=9), 200, min_images=10)),
    ):
        with pytest.raises(InputError, match=f"{len(fine)} cells .*{len(coarse)} .* not nested"):
            parent_of(fine, coarse)


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        ([10], {"min_images": 11}, "^--min_images is 11; it must be from 1 to --max_images"),
        ([10], {"min_images": 0}, "min_images is 0"),
        ([0], {"prefix": "--model."}, r"^--model\.max_images is 0"),
        ([5, 5], {"min_images": 1}, r"^--max_images is \[5, 5\]"),
        ([], {}, r"^--max_images is \[\]"),
        ([20_000], {"min_images": 20_000}, "20000 images make 0 cells of at least 20000"),
    ],
)
def test_options_out_of_range_are_refused(latlng, limits, options, message):
    assert len(build(latlng, 20_000)) == 6  # each face is a cell
    with pytest.raises(InputError, match=message):
        partitions_of(s2.leaf_ids(latlng), limits, **options)


def test_a_partition_survives_a_checkpoint_and_a_file_exactly(partition, tmp_path):
    torch.save({"partition": partition.to_dict()}, tmp_path / "checkpoint")
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)["partition"]
    assert Partition.from_dict(kept).to_dict() == partition.to_dict()
    partition.save(tmp_path / "P.npz")
    read = Partition.load(tmp_path / "P.npz")
    assert read.to_dict() == partition.to_dict()
    np.testing.assert_array_equal(read.lookup(partition.latlng), np.arange(len(partition)))
    assert [path.name for path in tmp_path.glob("*P.npz*")] == ["P.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"ids": e["ids"][::-1]}, "not sorted"),
        (lambda e: {"ids": [e["ids"][1], *e["ids"][1:]]}, "overlap"),
        (lambda e: {"ids": [2, *e["ids"][1:]]}, "not S2 cells"),
        (lambda e: {"ids": [-1, *e["ids"][1:]]}, "lacks a number"),
        (lambda e: {"ids": e["ids"][1:]}, "has ids"),
        (lambda e: {"counts": [9, *e["counts"][1:]]}, "counts"),
        (lambda e: {"counts": [201, *e["counts"][1:]]}, "counts"),
        (lambda e: {"total": sum(e["counts"]) - 1}, "total"),
        (lambda e: {"points": [[0.0, 0.0, 0.0], *e["points"][1:]]}, "unit vectors"),
        (lambda e: {"points": [[float("nan")] * 3, *e["points"][1:]]}, "unit vectors"),
        (lambda e: {"points": [["x"] * 3, *e["points"][1:]]}, "lacks a number"),
        (lambda e: {key: e[key][:1] for key in ("ids", "counts", "points")}, "1 cells"),
    ],
)
def test_entries_that_do_not_fit_together_are_refused(partition, change, message):
    entries = partition.to_dict()
    with pytest.raises(InputError, match=message):
        Partition.from_dict({**entries, **change(entries)})
    with pytest.raises(InputError, match=r"lacks a number.*counts"):
        Partition.from_dict({key: value for key, value in entries.items() if key != "counts"})


def test_a_file_that_is_missing_damaged_or_no_partition_is_refused(partition, tmp_path):
    file = tmp_path / "P.npz"
    partition.save(file)
    whole = file.read_bytes()
    middle = whole.index(partition.points.tobytes()[:64]) + 20
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", b"LAT,LON\n1,2\n", whole[:-100], whole[: len(whole) // 2], b"x" * 90 + whole[90:], flipped):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"P\.npz is missing, damaged or not a partition"):
            Partition.load(file)
    np.savez(file, images=np.zeros(3))
    np.save(tmp_path / "a.npy", np.zeros(3))
    for path in (file, tmp_path / "a.npy", tmp_path, tmp_path / "no.npz"):
        with pytest.raises(InputError, match=f"{path.name} is missing, damaged or not a partition"):
            Partition.load(path)


def test_nothing_is_left_where_a_file_cannot_be_written(partition, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"P\.npz cannot be written"):
        partition.save(tmp_path / "no" / "P.npz")

    def fill_the_disk(file, **entries):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(InputError, match="No space left"):
        partition.save(tmp_path / "P.npz")
    assert list(tmp_path.iterdir()) == []
