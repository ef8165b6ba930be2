"""What `predict --source` names, in which order, and where the results of each image go."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import image_file, one_sentence

from tasks.sources import find_sources


@pytest.fixture(autouse=True)
def folder():
    for name in ("in/b.png", "in/a/c.png", "in/a/d/e.png", "other/b.png", "in/.hidden.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        image_file(Path(name), 0)


def named(*words):
    found = find_sources(words)
    return {str(path): str(place) for path, place in zip(found.files, found.places, strict=True)}


INSIDE = {"in/a/c.png": "a/c", "in/a/d/e.png": "a/d/e", "in/b.png": "b"}


def test_a_folder_is_taken_to_its_bottom_and_its_tree_is_kept():
    assert named("in") == INSIDE
    assert named("in", "in/b.png", str(Path("in").absolute())) == INSIDE  # each image once
    assert named("in/b.png", "other") == {"in/b.png": "b", "other/b.png": "b_2"}


def test_a_glob_that_the_shell_left_keeps_the_folders_from_its_first_wildcard_on():
    assert named("in/**/*.png") == INSIDE
    Path("in/empty").mkdir()
    assert named("in/**") == INSIDE
    assert named("*/b.png") == {"in/b.png": "in/b", "other/b.png": "other/b"}
    Path("x[1].png").write_bytes(Path("in/b.png").read_bytes())
    assert named("x[1].png") == {"x[1].png": "x[1]"}
    with one_sentence("matches nothing"):
        named("in/*.tif")


def test_a_list_names_files_from_its_folder_or_the_working_one_and_nothing_else():
    Path("in/list.txt").write_bytes(b"a/c.png\r\nother/b.png\n\n0\n-\n*/b.png\n")
    found = list(named("in/list.txt"))
    assert found == ["in/a/c.png", "other/b.png", "in/0", "in/-", "in/*/b.png"]
    Path("in/up.txt").write_text("../other/b.png\n")
    assert named("in/up.txt") == {"in/../other/b.png": "b"}
    Path("in/notes.txt").write_text("hello\n")
    with one_sentence("notes.txt"):
        find_sources(["in/notes.txt"])


def test_two_images_of_one_name_in_two_sources_have_their_whole_paths_as_file_names():
    found = find_sources(["in", "other"])
    items = list(found.items(lambda key: False, 1, lambda error: None))
    names = [item.file_name for item in items]
    assert len(set(names)) == len(names)
    assert {"in/b.png", "other/b.png"} <= set(names)
    assert all(item.file_name in (str(item.path), str(item.place.parent / item.path.name)) for item in items)


@pytest.mark.parametrize("data", [b"in/b.png\nother/b.png\n", b"in/b.png\0other/b.png\0"])
def test_paths_on_standard_input_end_with_a_line_or_a_zero_byte(data, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert named("-") == {"in/b.png": "in/b", "other/b.png": "other/b"}


def test_a_camera_comes_alone_and_one_that_is_not_there_is_told_of(monkeypatch):
    assert find_sources(["0"]).camera == 0
    with one_sentence("camera"):
        find_sources(["0", "in"])
    Path("0").write_bytes(Path("in/b.png").read_bytes())
    assert named("0") == {"0": "0"}  # a file of that name
    with one_sentence("no camera 98"):
        list(find_sources(["98"]).items(lambda key: False, 1, lambda error: None))


def test_a_video_gives_its_frames_by_number_and_seconds_and_those_done_are_passed_over():
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(9):
        video.write(np.full((48, 64, 3), 25 * i, np.uint8))
    video.release()
    found = find_sources(["clip.mp4", "in/b.png"])
    items = list(found.items(lambda key: key == ("clip.mp4", 4), 2, lambda error: None))
    assert [(item.frame, item.number, item.seconds) for item in items] == [
        (0, 1, 0.0),
        (2, 2, 0.2),
        (6, 4, 0.6),
        (8, 5, 0.8),
        (None, 6, None),
    ]
    assert [str(item.place) for item in items][1:4:2] == ["clip/000002", "clip/000008"]
    for item in items[:4]:
        assert item.pixels.shape == (48, 64, 3)
        assert abs(int(item.pixels.mean()) - 25 * item.frame) < 6
    Path("bad.mp4").write_bytes(b"no video")
    errors = []
    assert not list(find_sources(["bad.mp4"]).items(lambda key: False, 1, errors.append))
    assert "bad.mp4" in str(errors[0])
