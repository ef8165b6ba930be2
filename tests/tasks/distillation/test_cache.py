import contextlib
import copy
import dataclasses
import json
import os
import re
import signal
import sys
import types

import numpy as np
import pytest
import torch

from backbone.errors import InputError
from tasks.distillation import cache as module
from tasks.distillation import teachers
from tasks.distillation.cache import Manifest, TeacherCache, fill, keys_digest

KEYS = [f"faces/{i:06}.jpg" for i in range(10)]
NAMES = keys_digest(["a", "b", "c", "d"])
MANIFEST = Manifest("d1e9", "crop 64, seed 0", keys_digest(KEYS), NAMES, views=3, images=10, answers=4)


def answers(view, positions):
    """What the teacher would say: a row of its own for every view and picture, in float16's numbers or between them."""
    rows = [np.random.default_rng((int(view), int(p))).normal(0, 8, 4) for p in positions]
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def filled(folder, manifest=MANIFEST):
    cache = TeacherCache.open(folder, manifest)
    for view in range(manifest.views):
        cache.write(view, cache.missing(view), answers(view, cache.missing(view)))
    return cache


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_read_is_what_was_written_in_any_order(tmp_path):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    order = np.random.default_rng(0).permutation(30)
    for rows in np.split(order, [7, 8, 20]):  # uneven batches that mix views
        views, positions = torch.from_numpy(rows % 3), torch.from_numpy(rows // 3)
        logits = torch.cat([answers(v, [p]) for v, p in zip(views, positions, strict=True)])
        cache.write(views, positions, logits)
        torch.testing.assert_close(cache.read(views, positions), logits.half().float(), rtol=0, atol=0)
    for opened in (cache, TeacherCache.open(tmp_path / "cache", MANIFEST, cache_only=True)):
        for view in range(3):
            kept = opened.read(np.full(10, view), np.arange(10))
            assert kept.dtype == torch.float32
            torch.testing.assert_close(kept, answers(view, range(10)), rtol=5e-4, atol=1e-4)  # float16: 11 bits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]  # nothing left over beside it


def test_the_files_are_plain_arrays_and_json(tmp_path):
    filled(tmp_path / "cache")
    logits = np.load(tmp_path / "cache" / "logits.npy")
    assert (logits.dtype, logits.shape) == (np.float16, (3, 10, 4))
    np.testing.assert_array_equal(logits[2, 7], answers(2, [7])[0].half().numpy())
    assert np.load(tmp_path / "cache" / "done.npy").tolist() == [[1] * 10] * 3
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert dataclasses.asdict(MANIFEST).items() <= manifest.items()
    assert manifest["dtype"] == "float16"
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_what_is_missing_is_counted_and_not_read(tmp_path):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    assert cache.missing(1).tolist() == list(range(10))
    cache.write(1, [0, 3, 4], answers(1, [0, 3, 4]))
    assert cache.missing(1).tolist() == [1, 2, 5, 6, 7, 8, 9]
    assert cache.missing(0).tolist() == list(range(10))
    torch.testing.assert_close(cache.read(1, 3), answers(1, [3]), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="no answer for 2 of 3 pictures asked for, first view 1 of picture 2"):
        cache.read([1, 1, 1], [3, 2, 5])
    with pytest.raises(InputError, match="no answer yet for 27 of 30 views"):
        TeacherCache.open(tmp_path / "cache", MANIFEST, cache_only=True)
    with pytest.raises(InputError, match="does not exist, so it cannot serve alone"):
        TeacherCache.open(tmp_path / "other", MANIFEST, cache_only=True)
    assert not (tmp_path / "other").exists()


def test_a_picture_that_cannot_be_read_is_not_waited_for_but_tried_again(tmp_path):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    for view in range(3):
        good = np.setdiff1d(np.arange(10), [6])
        cache.write(view, good, answers(view, good))
        cache.skip(view, cache.missing(view))
    again = TeacherCache.open(tmp_path / "cache", MANIFEST, cache_only=True)
    assert again.missing(0).tolist() == [6]
    with pytest.raises(InputError, match="first view 2 of picture 6"):
        again.read([2, 2], [5, 6])
    again.write(2, [6], answers(2, [6]))
    torch.testing.assert_close(again.read(2, 6), answers(2, [6]), rtol=1e-3, atol=1e-3)


def test_positions_that_do_not_exist_are_refused(tmp_path):
    cache = filled(tmp_path / "cache")
    before = files(tmp_path / "cache")
    for view, position in ((3, 0), (0, 10), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"."):
            cache.write(view, [position], torch.zeros(1, 4))
        with pytest.raises(ValueError, match=r"."):
            cache.read(view, [position])
    for shape in ((1, 5), (2, 4), (1, 1)):
        with pytest.raises(ValueError, match="1 rows of 4 answers"):
            cache.write(0, [0], torch.zeros(shape))
    assert files(tmp_path / "cache") == before


# --- kills and several processes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", range(1, 7))
def test_a_kill_at_any_flush_loses_no_more_than_a_batch(tmp_path, flush):
    """The process dies, unasked, in its n-th flush: odd ones are of numbers, even ones of marks."""
    child = os.fork()
    if child == 0:
        flushed, flush_to_disk = [0], os.fsync

        def fsync(number):
            flushed[0] += 1
            if flushed[0] == flush + 1:  # the first is the manifest's
                os.kill(os.getpid(), signal.SIGKILL)
            flush_to_disk(number)

        os.fsync = fsync
        try:
            cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
            for positions in np.split(np.arange(10), [3, 6]):
                cache.write(1, positions, answers(1, positions))
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    done = np.setdiff1d(np.arange(10), cache.missing(1))
    assert len(done) == {1: 0, 2: 3, 3: 3, 4: 6, 5: 6, 6: 10}[flush]
    if len(done):
        torch.testing.assert_close(cache.read(1, done), answers(1, done), rtol=1e-3, atol=1e-3)
    for position in cache.missing(1):
        cache.write(1, position, answers(1, [position]))
    torch.testing.assert_close(cache.read(1, np.arange(10)), answers(1, range(10)), rtol=1e-3, atol=1e-3)


def test_marks_come_after_numbers_that_are_on_the_disk(tmp_path, monkeypatch):
    cache, order = TeacherCache.open(tmp_path / "cache", MANIFEST), []

    def fsync(number):
        [name] = [
            path.name for path in (tmp_path / "cache").iterdir() if os.path.samestat(path.stat(), os.fstat(number))
        ]
        order.append((name, len(cache.missing(0))))

    monkeypatch.setattr(os, "fsync", fsync)
    cache.write(0, [1, 2], answers(0, [1, 2]))
    assert order == [("logits.npy", 10), ("done.npy", 8)]


def test_several_processes_fill_one_cache_at_once(tmp_path):
    """Each opens it by itself, all at the same time, and writes every fourth picture."""
    manifest = dataclasses.replace(MANIFEST, images=40, keys="k")
    children = []
    for rank in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                cache = TeacherCache.open(tmp_path / "cache", manifest)
                for view in range(3):
                    for position in np.arange(40)[rank::4]:
                        cache.write(view, [position], answers(view, [position]))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    cache = TeacherCache.open(tmp_path / "cache", manifest, cache_only=True)
    for view in range(3):
        kept = cache.read(view, np.arange(40))
        torch.testing.assert_close(kept, answers(view, range(40)), rtol=1e-3, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("teacher", "e77a", "of something else: the teacher .digest. is d1e9 there and e77a now"),
        (
            "transform",
            "crop 96, seed 0",
            "of something else: the transform has crop 64 there and crop 96 now",
        ),
        ("keys", keys_digest(KEYS[::-1]), "of something else: the list of pictures"),
        ("names", keys_digest(["a", "b", "d", "c"]), "of something else: what is answered .digest of the names. is"),
        ("images", 11, "of something else: the number of pictures is 10 there and 11 now"),
        ("views", 4, "of something else: the number of views is 3 there and 4 now"),
        ("answers", 5, "of something else: the number of answers is 4 there and 5 now"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_name(tmp_path, field, value, words):
    filled(tmp_path / "cache")
    before = files(tmp_path / "cache")
    other = dataclasses.replace(MANIFEST, **{field: value})
    for cache_only in (False, True):
        with pytest.raises(InputError, match=f"{words}.*; name another folder, or delete this one"):
            TeacherCache.open(tmp_path / "cache", other, cache_only=cache_only)
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize(
    ("old", "new", "there", "now"),
    [
        ("scale=(0.5, 1.0)", "scale=(0.6, 1.0)", "scale=(0.5, 1.0)", "scale=(0.6, 1.0)"),
        ("Flip(p=0.5)", "Flip(p=0.3)", "Flip(p=0.5", "Flip(p=0.3"),
        ("seed 0; views 2", "seed 7; views 2", "seed 0", "seed 7"),
        (" Flip(p=0.5),", "", "Flip(p=0.5", "nothing"),
        (
            "(32, 32)), ",
            "(64, 64)), Erasing(p=0.1, fill='x'), ",
            "size=(32, 32)",
            "size=(64, 64), Erasing(p=0.1, fill='x'",
        ),
    ],
)
def test_of_another_transform_what_differs_is_named_and_nothing_else(tmp_path, old, new, there, now):
    text = "Compose([ Crop(p=1.0, scale=(0.5, 1.0), size=(32, 32)), Flip(p=0.5), ], p=1.0); seed 0; views 2; numpy 1.26"
    filled(tmp_path / "cache", dataclasses.replace(MANIFEST, transform=text))
    assert text.count(old) == 1
    other = dataclasses.replace(MANIFEST, transform=text.replace(old, new))
    with pytest.raises(InputError, match=re.escape(f": the transform has {there} there and {now} now; ")):
        TeacherCache.open(tmp_path / "cache", other)


def test_a_cache_of_the_form_before_is_refused_by_its_number(tmp_path):
    filled(tmp_path / "cache")
    path = tmp_path / "cache" / "manifest.json"
    found = json.loads(path.read_text())
    del found["names"]
    path.write_text(json.dumps({**found, "format": 1}))
    with pytest.raises(InputError, match="is of format 1 and not 2; name another folder"):
        TeacherCache.open(tmp_path / "cache", MANIFEST)


def test_a_teacher_that_is_not_at_hand_is_not_compared(tmp_path):
    filled(tmp_path / "cache")
    without = dataclasses.replace(MANIFEST, teacher=None)
    cache = TeacherCache.open(tmp_path / "cache", without, cache_only=True)
    torch.testing.assert_close(cache.read(0, 0), answers(0, [0]), rtol=1e-3, atol=1e-3)


def test_the_digest_is_of_names_in_their_order():
    lists = [["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a"], [], ["aé", "b"]]
    assert len({keys_digest(keys) for keys in lists}) == len(lists)
    assert keys_digest(iter(KEYS)) == keys_digest(KEYS)


def test_damaged_caches_are_refused(tmp_path):
    filled(tmp_path / "whole")
    for i, (name, damage) in enumerate(
        [
            ("logits.npy", lambda path: path.write_bytes(path.read_bytes()[:-1])),
            ("logits.npy", lambda path: path.unlink()),
            ("logits.npy", lambda path: np.save(path, np.zeros((3, 10, 4), np.float32))),
            ("done.npy", lambda path: path.write_bytes(b"")),
            ("done.npy", lambda path: np.save(path, np.zeros((3, 9), np.uint8))),
            ("manifest.json", lambda path: path.write_text("{")),
            ("manifest.json", lambda path: path.write_text("[]")),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        for file, content in files(tmp_path / "whole").items():
            (folder / file).write_bytes(content)
        damage(folder / name)
        with pytest.raises(InputError, match=f"is damaged: its {name} is missing"):
            TeacherCache.open(folder, MANIFEST)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="holds other things than a cache"):
            TeacherCache.open(tmp_path / name, MANIFEST)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.jpg", "file", "photos"]
    (tmp_path / "empty").mkdir()
    TeacherCache.open(tmp_path / "empty", MANIFEST)


def test_a_cache_that_the_disk_cannot_hold_is_refused_before_it_is_made(tmp_path):
    huge = dataclasses.replace(MANIFEST, images=10**9, answers=10**4)
    with pytest.raises(InputError, match=r"needs 60003\.0 GB for 3 views of 1,000,000,000 pictures, and the disk has"):
        TeacherCache.open(tmp_path / "cache", huge)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_done(tmp_path, monkeypatch):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    cache.write(0, [1], answers(0, [1]))

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        cache.write(0, [2], answers(0, [2]))
    assert 2 in cache.missing(0)
    torch.testing.assert_close(cache.read(0, 1), answers(0, [1]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [65520.0, -7e4, float("inf"), float("nan")])
def test_numbers_beyond_float16_are_refused(tmp_path, value):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    logits = torch.full((2, 4), 65504.0)  # the largest that there is
    cache.write(0, [0, 1], logits)
    assert torch.equal(cache.read(0, [0, 1]), logits)
    logits[1, 2] = value
    with pytest.raises(InputError, match="answer 2 for view 0 of picture 5 is"):
        cache.write(0, [4, 5], logits)
    assert {4, 5} <= set(cache.missing(0).tolist())


def test_a_full_cache_is_served_from_where_nothing_can_be_written(tmp_path, monkeypatch):
    filled(tmp_path / "cache")
    monkeypatch.setattr(module, "_create", None)
    for path in (tmp_path / "cache").iterdir():
        path.chmod(0o400)
    (tmp_path / "cache").chmod(0o500)
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    assert len(cache.read(np.arange(3), np.arange(3))) == 3
    with pytest.raises(ValueError, match="read-only"):
        cache._logits[0] = 0
    (tmp_path / "cache").chmod(0o700)


# --- verification and filling -----------------------------------------------------------------------------------------


def test_eight_rows_are_drawn_from_those_that_are_done(tmp_path):
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    assert [len(part) for part in cache.sample()] == [0, 0]
    cache.write(2, [1, 4, 8], answers(2, [1, 4, 8]))
    views, positions = cache.sample()
    assert views.tolist() == [2, 2, 2]
    assert sorted(positions.tolist()) == [1, 4, 8]
    cache = filled(tmp_path / "full")
    drawn = [set(zip(*(part.tolist() for part in cache.sample()), strict=True)) for _ in range(30)]
    assert {len(rows) for rows in drawn} == {8}  # none twice
    assert set.union(*drawn) == {(view, position) for view in range(3) for position in range(10)}


def test_verification_allows_for_float16_and_nothing_more(tmp_path):
    cache = filled(tmp_path / "cache")
    views, positions = cache.sample()
    now = torch.cat([answers(v, [p]) for v, p in zip(views, positions, strict=True)])
    cache.verify(views, positions, now)
    cache.verify(views, positions, now * 1.005)  # another device
    for change in (now * 1.02, now.roll(1, 0), now.flip(1)):
        with pytest.raises(InputError, match=r"is out of date: for view . of picture ., answer ., it has .* now says"):
            cache.verify(views, positions, change)
    now[5, 2] += 0.02 * now[5].abs().max()
    with pytest.raises(InputError, match=f"view {views[5]} of picture {positions[5]}, answer 2"):
        cache.verify(views, positions, now)


def test_filling_asks_for_what_is_missing_and_goes_on_where_it_stopped(tmp_path):
    """A teacher that reads its answer off the picture, stopped in its third batch."""
    asked = []

    def teacher(images, files):
        asked.extend(files)
        return images.float().mean((2, 3)).repeat(1, 2)[:, :4]

    def batches(cache, stop=None):
        for view in range(3):
            for i, positions in enumerate(np.array_split(cache.missing(view), 3)):
                if (view, i) == stop:
                    raise KeyboardInterrupt
                images = torch.stack([torch.full((3, 4, 4), 20 * view + int(p)) for p in positions]).to(torch.uint8)
                yield torch.full((len(positions),), view), torch.from_numpy(positions), images

    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    with pytest.raises(KeyboardInterrupt):
        fill(cache, teacher, batches(cache, stop=(0, 2)), total=30, file=KEYS.__getitem__)
    assert asked == KEYS[:7]  # of 28 numbers, too few to tell a teacher of probabilities by, and yet kept
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST)
    assert cache.missing(0).tolist() == [7, 8, 9]
    asked.clear()
    fill(cache, teacher, batches(cache), total=23, file=KEYS.__getitem__)
    assert asked == KEYS[7:] + KEYS + KEYS
    cache = TeacherCache.open(tmp_path / "cache", MANIFEST, cache_only=True)
    for view in range(3):
        expected = (20.0 * view + torch.arange(10))[:, None].expand(10, 4)
        assert torch.equal(cache.read(view, np.arange(10)), expected)


@pytest.mark.parametrize(("answers", "kept"), [(torch.sigmoid, 0), (torch.logit, 40)])
def test_of_a_teacher_of_probabilities_nothing_is_kept(tmp_path, monkeypatch, answers, kept):
    """Which it is shows at 64 numbers: after 32 pictures of 2 answers, in batches of 3."""
    monkeypatch.setitem(sys.modules, "told_late", types.SimpleNamespace(f=None, __spec__=None))
    seen = []

    def f(images):
        seen.append(len(images))
        return answers(images.float().mean((2, 3))[:, :2] / 256 + 0.1)

    sys.modules["told_late"].f = f
    monkeypatch.setattr(teachers.inspect, "getsourcefile", lambda module: None)
    teacher = teachers.load_teacher("told_late:f")
    cache = TeacherCache.open(tmp_path / "cache", dataclasses.replace(MANIFEST, views=1, images=40, answers=2))

    def batches():
        for positions in torch.arange(40).split(3):
            yield torch.zeros_like(positions), positions, positions[:, None, None, None].expand(-1, 3, 4, 4).byte()

    with contextlib.ExitStack() as stack:
        if not kept:
            stack.enter_context(pytest.raises(InputError, match="which are probabilities"))
        fill(cache, teacher, batches(), total=40, file=str)
    assert len(seen) > 10  # not at the first
    assert 40 - len(cache.missing(0)) == kept


def test_a_copy_of_the_module_that_holds_it_is_no_copy_of_the_file(tmp_path):
    cache = filled(tmp_path / "cache")
    assert copy.deepcopy({"cache": cache})["cache"] is cache
