import contextlib
import copy
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import tree

from backbone.errors import InputError
from tasks.distillation import cache as module
from tasks.distillation.cache import TeacherCache, fill, manifest_of, verify_some
from tasks.distillation.teachers import digest_of, load_teacher

NAMES = ("a", "b", "c", "d")


class Data:
    """As much of a data module as a cache asks for: images of one grey for each view and position."""

    def __init__(self, views=3, images=10, transform="crop 64, seed 0"):
        self.hparams = {"views": views}
        self.images, self.transform, self.bad, self.asked = images, transform, (), []
        self.grey = lambda view, position: 20 * view + position
        self.device_batch = 4
        self.bad_images = SimpleNamespace(note=lambda bad, cut_short: None)

    def train_keys(self):
        return [f"train/{position}.jpg" for position in range(self.images)]

    def train_view_transform_id(self):
        return self.transform

    def train_views(self, view, positions):
        for group in torch.tensor(positions).split(4):
            good = torch.tensor([position for position in group.tolist() if position not in self.bad]).long()
            images = [torch.full((3, 4, 4), self.grey(view, position)) for position in good.tolist()]
            pixels = torch.stack(images).byte() if images else torch.zeros(0, 3, 4, 4)
            yield {"view": torch.full_like(good, view), "positions": good, "images": pixels, "bad": [], "cut_short": []}

    def ask(self, batch):
        """A teacher that reads its four logits off the image."""
        self.asked.extend(zip(batch["view"].tolist(), batch["positions"].tolist(), strict=True))
        return batch["images"].float().mean((2, 3)).repeat(1, 2)[:, :4]


MANIFEST = manifest_of(Data(), NAMES, 4, "d1e9")


def logits(view, positions):
    """A row of its own for every view and image, in float16's numbers or between them."""
    rows = [np.random.default_rng((int(view), int(p))).normal(0, 8, 4) for p in positions]
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def filled(folder, manifest=MANIFEST):
    cache = TeacherCache(folder, manifest)
    for view in range(manifest["views"]):
        cache.write(view, cache.missing(view), logits(view, cache.missing(view)))
    return cache


def close(cached, expected):
    assert cached.dtype == torch.float32
    torch.testing.assert_close(cached, expected, rtol=5e-4, atol=1e-4)  # float16: 11 bits


@pytest.fixture
def cache(tmp_path):
    """An empty one."""
    return TeacherCache(tmp_path / "cache", MANIFEST)


def test_what_is_read_is_what_was_written_in_any_order(cache, tmp_path):
    for rows in np.split(np.random.default_rng(0).permutation(30), [7, 8, 20]):  # uneven batches that mix views
        views, positions = torch.from_numpy(rows % 3), torch.from_numpy(rows // 3)
        written = torch.cat([logits(v, [p]) for v, p in zip(views, positions, strict=True)])
        cache.write(views, positions, written)
        assert torch.equal(cache.read(views, positions), written.half().float())
    for opened in (cache, TeacherCache(tmp_path / "cache", MANIFEST, cache_only=True)):
        for view in range(3):
            close(opened.read(np.full(10, view), np.arange(10)), logits(view, range(10)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]  # nothing left over beside it
    assert copy.deepcopy({"cache": cache})["cache"] is cache  # in an average of the module, no copy of the file
    array = np.load(tmp_path / "cache" / "logits.npy")  # the files are plain arrays and JSON
    assert (array.dtype, array.shape) == (np.float16, (3, 10, 4))
    np.testing.assert_array_equal(array[2, 7], logits(2, [7])[0].half().numpy())
    assert np.load(tmp_path / "cache" / "done.npy").tolist() == [[1] * 10] * 3
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text()) == MANIFEST


def test_what_is_missing_is_counted_and_not_read(cache, tmp_path):
    cache.write(1, [0, 3, 4], logits(1, [0, 3, 4]))
    assert cache.missing(1).tolist() == [1, 2, 5, 6, 7, 8, 9]
    assert cache.missing(0).tolist() == list(range(10))
    close(cache.read(1, 3), logits(1, [3]))
    with pytest.raises(InputError, match="2 of 3 rows, first view 1 of image 2"):
        cache.read([1, 1, 1], [3, 2, 5])
    with pytest.raises(InputError, match="27 of 30"):
        TeacherCache(tmp_path / "cache", MANIFEST, cache_only=True)
    with pytest.raises(InputError, match="other does not exist"):
        TeacherCache(tmp_path / "other", MANIFEST, cache_only=True)
    assert not (tmp_path / "other").exists()


def test_rows_that_do_not_exist_are_refused(cache):
    for view, position, width in ((3, 0, 4), (0, 10, 4), (-1, 0, 4), (0, -1, 4), (0, 0, 5), (0, 0, 1)):
        with pytest.raises(ValueError, match=r"."):
            cache.write(view, [position], torch.zeros(1, width))
    assert len(cache.missing(0)) == 10


# --- kills and several processes --------------------------------------------------------------------------------------


def started(work, *given):
    """The id of a process that does this work and ends, with 0 where nothing went wrong."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*given)
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.parametrize("flush", range(1, 7))
def test_a_kill_at_any_flush_loses_no_more_than_a_batch(tmp_path, flush):
    """The process dies, unasked, in its n-th flush: odd ones are of numbers, even ones of marks."""

    def killed():
        flushed, flush_to_disk = [], os.fsync

        def fsync(number):
            flushed.append(number)
            if len(flushed) == flush + 1:  # the first is the manifest's
                os.kill(os.getpid(), signal.SIGKILL)
            flush_to_disk(number)

        os.fsync = fsync
        cache = TeacherCache(tmp_path / "cache", MANIFEST)
        for positions in np.split(np.arange(10), [3, 6]):
            cache.write(1, positions, logits(1, positions))

    assert os.WTERMSIG(os.waitpid(started(killed), 0)[1]) == signal.SIGKILL
    cache = TeacherCache(tmp_path / "cache", MANIFEST)
    done = np.setdiff1d(np.arange(10), cache.missing(1))
    assert len(done) == {1: 0, 2: 3, 3: 3, 4: 6, 5: 6, 6: 10}[flush]
    if len(done):
        close(cache.read(1, done), logits(1, done))
    for position in cache.missing(1):
        cache.write(1, position, logits(1, [position]))
    close(cache.read(1, np.arange(10)), logits(1, range(10)))


def test_marks_come_after_numbers_that_are_on_the_disk(cache, monkeypatch):
    order = []

    def fsync(number):
        files = [path for path in cache.folder.iterdir() if os.path.samestat(path.stat(), os.fstat(number))]
        order.append((files[0].name, len(cache.missing(0))))

    monkeypatch.setattr(os, "fsync", fsync)
    cache.write(0, [1, 2], logits(0, [1, 2]))
    assert order == [("logits.npy", 10), ("done.npy", 8)]


def test_several_processes_fill_one_cache_at_once(tmp_path):
    """Each opens it by itself, all at the same time, and writes every fourth image."""
    manifest = {**MANIFEST, "images": 40}

    def write_fourth(rank):
        cache = TeacherCache(tmp_path / "cache", manifest)
        for view, position in np.ndindex(3, 10):
            cache.write(view, [4 * position + rank], logits(view, [4 * position + rank]))

    children = [started(write_fourth, rank) for rank in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    cache = TeacherCache(tmp_path / "cache", manifest, cache_only=True)
    for view in range(3):
        close(cache.read(view, np.arange(40)), logits(view, range(40)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


class Together:
    """What processes agree on, for threads that stand for them."""

    def __init__(self, count):
        self.barrier, self.local, self.given = threading.Barrier(count, timeout=20), threading.local(), {}

    def agreed(self, number):
        return max(self.gather({self.local.rank: number}).values())

    def gather(self, mine):
        """As `processes.gather`: of entries with the same key those of the last one."""
        self.given[self.local.rank] = mine
        self.barrier.wait()
        merged = {key: value for rank in sorted(self.given) for key, value in self.given[rank].items()}
        self.barrier.wait()
        return merged


@pytest.mark.parametrize(
    ("folders", "shares"), [("aa", [15, 15]), ("ab", [30, 30]), ("aab", [15, 15, 30]), ("abcb", [30, 15, 30, 15])]
)
def test_processes_fill_each_disk_once_in_equal_shares(folders, shares, tmp_path, monkeypatch):
    """Of three views of ten images; a machine's processes see one folder."""
    together = Together(len(folders))
    monkeypatch.setattr(module, "agreed", together.agreed)
    monkeypatch.setattr(module, "gather", together.gather)
    initialized = {name: lambda: True for name in ("is_available", "is_initialized")}
    monkeypatch.setattr(module, "dist", SimpleNamespace(**initialized, get_rank=lambda: together.local.rank))
    data = [Data() for _ in folders]

    def run(rank):
        together.local.rank = rank
        cache = TeacherCache(tmp_path / folders[rank], manifest_of(data[rank], NAMES, 4, "d1e9"))
        fill(cache, data[rank], data[rank].ask)
        assert not any(len(cache.missing(view)) for view in range(3))

    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(run, range(len(folders))))
    assert [len(one.asked) for one in data] == shares
    for folder in set(folders):
        asked = [row for one, at in zip(data, folders, strict=True) if at == folder for row in one.asked]
        assert sorted(asked) == sorted(np.ndindex(3, 10))  # none twice
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
            "done.npy",
            "logits.npy",
            "manifest.json",
        ]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "difference"),
    [
        ("teacher", "e77a", "teacher is d1e9, not e77a"),
        ("transform", "crop 96, seed 0", "transform is crop 64, not crop 96"),
        ("transform", "crop 64, seed (0, 1)", r"transform is seed 0, not seed \(0, 1\)"),
        ("files", "another digest", "files is .* not another digest"),
        ("names", manifest_of(Data(), "abdc", 4, "")["names"], "names"),
        ("images", 11, "images is 10, not 11"),
        ("views", 4, "views is 3, not 4"),
        ("outputs", 5, "outputs is 4, not 5"),
        ("format", 4, "format is 3, not 4"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_field(tmp_path, field, value, difference):
    filled(tmp_path / "cache")
    before = tree(tmp_path / "cache")
    for cache_only in (False, True):
        with pytest.raises(InputError, match=difference):
            TeacherCache(tmp_path / "cache", {**MANIFEST, field: value}, cache_only=cache_only)
    assert tree(tmp_path / "cache") == before
    cache = TeacherCache(tmp_path / "cache", {**MANIFEST, "teacher": None}, cache_only=True)  # it is not compared
    close(cache.read(0, 0), logits(0, [0]))


def test_the_digest_is_of_parts_in_their_order():
    lists = [b"a b", b"b a", b"ab", b"a b ", b"a", b""]
    assert len({digest_of(*parts.split(b" ")) for parts in lists} | {digest_of()}) == len(lists) + 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("logits.npy", lambda path: os.truncate(path, 200)),
        ("logits.npy", Path.unlink),
        ("logits.npy", lambda path: np.save(path, np.zeros((3, 10, 4), np.float32))),
        ("done.npy", lambda path: path.write_bytes(b"")),
        ("done.npy", lambda path: np.save(path, np.zeros((3, 9), np.uint8))),
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_caches_are_refused(cache, name, damage):
    damage(cache.folder / name)
    with pytest.raises(InputError, match=f"damaged: its {name}"):
        TeacherCache(cache.folder, MANIFEST)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match=f"{name} has other things"):
            TeacherCache(tmp_path / name, MANIFEST)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.jpg", "file", "photos"]
    (tmp_path / "empty").mkdir()
    assert len(TeacherCache(tmp_path / "empty", MANIFEST).missing(0)) == 10


def test_a_cache_that_the_disk_cannot_hold_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(InputError, match=r"60003\.0 GB for 3 views of 1,000,000,000 images"):
        TeacherCache(tmp_path / "cache", {**MANIFEST, "images": 10**9, "outputs": 10**4})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_done(cache, monkeypatch):
    cache.write(0, [1], logits(0, [1]))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        cache.write(0, [2], logits(0, [2]))
    assert 2 in cache.missing(0)
    close(cache.read(0, 1), logits(0, [1]))


@pytest.mark.parametrize("value", [65520.0, -7e4, float("inf"), float("nan")])
def test_numbers_beyond_float16_are_refused(cache, value):
    rows = torch.full((2, 4), 65504.0)  # the largest that there is
    cache.write(0, [0, 1], rows)
    assert torch.equal(cache.read(0, [0, 1]), rows)
    rows[1, 2] = value
    with pytest.raises(InputError, match="output 2 for view 0 of image 5 is"):
        cache.write(0, [4, 5], rows)
    assert {4, 5} <= set(cache.missing(0).tolist())


def test_a_full_cache_is_served_from_where_nothing_can_be_written(tmp_path, monkeypatch):
    filled(tmp_path / "cache")
    monkeypatch.setattr(module, "_create", None)
    monkeypatch.setattr(TeacherCache, "_store", None)
    cache, data = TeacherCache(tmp_path / "cache", MANIFEST), Data()
    fill(cache, data, data.ask)  # there is nothing to ask for
    assert not data.asked
    assert len(cache.read(np.arange(3), np.arange(3))) == 3
    with pytest.raises(ValueError, match="read-only"):
        cache._logits[0] = 0


# --- verification and filling -----------------------------------------------------------------------------------------


def test_eight_rows_are_drawn_from_those_that_are_done(cache, tmp_path):
    assert cache.sample() == []
    cache.write(2, [1, 4, 8], logits(2, [1, 4, 8]))
    assert sorted(cache.sample()) == [[2, 1], [2, 4], [2, 8]]
    full = filled(tmp_path / "full")
    drawn = [set(map(tuple, full.sample())) for _ in range(30)]
    assert {len(rows) for rows in drawn} == {8}  # none twice
    assert set.union(*drawn) == set(np.ndindex(3, 10))


def test_verification_allows_for_float16_and_nothing_more(tmp_path):
    cache, now = filled(tmp_path / "cache"), logits(1, [7])[0]
    cache.verify(1, 7, now)
    cache.verify(1, 7, now * 1.005)  # another device
    for change in (now * 1.02, logits(1, [6])[0], now.flip(0)):
        with pytest.raises(InputError, match=r"view 1 of image 7"):
            cache.verify(1, 7, change)
    now[2] += 0.02 * now.abs().max()
    with pytest.raises(InputError, match=f"output 2 for view 1 of image 7 .*{now[2]:.5g}"):
        cache.verify(1, 7, now)


def test_filling_asks_for_what_is_missing_and_goes_on_where_it_stopped(cache, tmp_path):
    data = Data()
    data.bad = (6,)
    rows = [(view, position) for view in range(3) for position in range(10) if position != 6]

    def stopped(batch):
        if len(data.asked) == 7:
            raise KeyboardInterrupt
        return data.ask(batch)

    with pytest.raises(KeyboardInterrupt):
        fill(cache, data, stopped)
    assert data.asked == rows[:7]  # of 28 numbers, too few to tell a teacher of probabilities by, and yet kept
    cache = TeacherCache(tmp_path / "cache", MANIFEST)
    assert cache.missing(0).tolist() == [6, 8, 9]
    data.asked.clear()
    fill(cache, data, data.ask)
    assert data.asked == rows[7:]
    cache = TeacherCache(tmp_path / "cache", MANIFEST, cache_only=True)  # complete without the unreadable image
    for view in range(3):
        assert cache.missing(view).tolist() == [6]  # which is tried again when a fit starts
        assert torch.equal(cache.read(view, 9), torch.full((1, 4), 20.0 * view + 9))
    verify_some(cache, data, data.ask)
    data.grey = lambda view, position: 200 - position  # other pixels under the same names
    with pytest.raises(InputError, match="out of date"):
        verify_some(cache, data, data.ask)
    with pytest.raises(InputError, match="view 2 of image 6"):
        cache.read([2, 2], [5, 6])


@pytest.mark.parametrize(("function", "kept"), [("sigmoid", 0), ("logit", 40)])
def test_of_a_teacher_of_probabilities_nothing_is_kept(tmp_path, monkeypatch, function, kept):
    """Which it is shows at 64 numbers: after 32 images of 2 outputs, in batches of 4."""
    code = f"import torch\ndef f(x):\n    return torch.{function}(x.float().mean((2, 3))[:, :2] / 256 + 0.1)\n"
    (tmp_path / f"late_{function}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    teacher, data = load_teacher(f"late_{function}:f"), Data(views=1, images=40)
    cache = TeacherCache(tmp_path / "cache", manifest_of(data, NAMES, 2, "d1e9"))
    asked = []

    def ask(batch):
        asked.append(teacher(batch["images"]))
        return asked[-1]

    with contextlib.nullcontext() if kept else pytest.raises(InputError, match="probabilities"):
        fill(cache, data, ask)
    assert len(asked) >= 7  # not at the first
    assert 40 - len(cache.missing(0)) == kept
