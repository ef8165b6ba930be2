from pathlib import Path

import numpy as np
import pytest

from data import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_kept_belongs_to_its_kind_and_its_folder_by_whatever_path(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        cache.save("x", tmp_path / name, {"name": np.array([name.encode()]), "empty": np.zeros((0, 4), np.uint64)})
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "link", tmp_path / "b" / ".." / "a", Path()):
        assert cache.load("x", path)["name"].tolist() == [b"a"]
    assert cache.load("x", tmp_path / "b")["name"].tolist() == [b"b"]
    assert cache.load("x", tmp_path / "b")["empty"].shape == (0, 4)
    assert cache.load("y", tmp_path / "a") == cache.load("x", tmp_path) == {}


@pytest.mark.parametrize("relative", ["", "somewhere"])
def test_by_default_it_lies_in_the_home_folder(tmp_path, monkeypatch, relative):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    assert cache.file("x", tmp_path).parent == tmp_path / "home" / ".cache" / "mobilenet-tasks" / "x"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    cache.save("x", tmp_path, {"a": np.arange(3)})
    whole = np.savez

    def disk_full(path, **arrays):
        whole(path, **arrays)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", disk_full)
    cache.save("x", tmp_path, {"a": np.arange(5)})
    assert cache.load("x", tmp_path)["a"].tolist() == [0, 1, 2]
    assert len(list(cache.file("x", tmp_path).parent.iterdir())) == 1
