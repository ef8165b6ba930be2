from pathlib import Path

import numpy as np
import pytest

from backbone import InputError
from data.image_folder import LabelledImages
from data.image_list import ImageList, list_pictures, without_used


def touched(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listed(root):
    return ImageList(root, list_pictures(root))


def test_a_tree_of_pictures_is_listed_by_path(tmp_path):
    touched(tmp_path, "b.png", "a/z.JPG", "a/b/c.webp", ".hidden.png", ".git/d.png", "notes.txt")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert list_pictures(tmp_path).tolist() == [b"a/b/c.webp", b"a/z.JPG", b"b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no picture by its ending"):
        list_pictures(tmp_path / "empty")


def test_each_file_is_used_once_by_whatever_folder_it_is_named(tmp_path, capsys):
    pool = touched(tmp_path / "a" / "pool", "0.png", "2.png", "4.png", "deep/1.png", "deep/3.png", "deep/5.png")
    inner, outer = listed(pool / "deep"), listed(tmp_path / "a")
    assert [len(inner), len(outer)] == [3, 6]
    used = inner.take(np.array([1]))
    kept = without_used(ImageList.joined([outer, inner]), [used, outer.take(np.array([0]))])
    assert [name.decode() for name in kept.file_names] == [f"pool/{n}.png" for n in ("2", "4", "deep/1", "deep/5")]
    assert "train: 5 of 9 images in" in capsys.readouterr().out
    assert len(without_used(inner, [outer.take(np.array([0]))])) == 3
    assert not capsys.readouterr().out


def test_joined_lists_keep_their_rows_and_what_all_of_them_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxes = np.zeros((2, 4), np.float32)
    first = LabelledImages(Path("data"), np.array([b"a.png", b"long/name.png"]), np.array([3, 1]), boxes)
    same = LabelledImages(tmp_path / "data", np.array([b"b.png"]), np.array([2]), boxes[:1] + 1)
    joined = LabelledImages.joined([first, same])
    assert joined.folder == Path("data")
    assert joined.file_names.tolist() == [b"a.png", b"long/name.png", b"b.png"]
    assert joined.labels.tolist() == [3, 1, 2]
    assert joined.boxes_xyxy[:, 0].tolist() == [0, 0, 1]
    other = LabelledImages(tmp_path / "more" / "of it", np.array([b"c.png"]), np.array([0]))
    joined = LabelledImages.joined([first, other])
    expected = [tmp_path / "data/a.png", tmp_path / "data/long/name.png", other.path(0)]
    assert [joined.path(i) for i in range(3)] == expected
    assert joined.labels.tolist() == [3, 1, 0]
    assert joined.boxes_xyxy is None
