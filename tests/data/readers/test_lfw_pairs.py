import unicodedata

import numpy as np
import pytest
from helpers import LFW_LINES, lfw, write_lines
from PIL import Image

from backbone.errors import InputError
from data.readers.lfw_pairs import read, read_list


def listed(file):
    """The pairs of a list by the names of their images, and the pairs."""
    images, pairs = read_list(file)
    assert images == sorted(set(images))
    return [images[i] for i in pairs.first], [images[i] for i in pairs.second], pairs


PEOPLE = {"Ann_Lee": 10, "Bo": 12, "Cy": 3}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [0, 2])
def test_pairs_are_read_in_folds_of_matched_then_mismatched(tmp_path, end, blank):
    first, second, pairs = listed(write_lines(tmp_path / "pairs.txt", LFW_LINES + blank * [""], end))
    assert first == [
        *("Ann_Lee/Ann_Lee_0001.jpg", "Bo/Bo_0012.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "Cy/Cy_0001.jpg"),
        *("Cy/Cy_0001.jpg", "Cy/Cy_0002.jpg", "Bo/Bo_0001.jpg", "Bo/Bo_0002.jpg"),
    ]
    assert second == [
        *("Ann_Lee/Ann_Lee_0004.jpg", "Bo/Bo_0003.jpg", "Bo/Bo_0001.jpg", "Ann_Lee/Ann_Lee_0010.jpg"),
        *("Cy/Cy_0002.jpg", "Cy/Cy_0003.jpg", "Cy/Cy_0001.jpg", "Cy/Cy_0001.jpg"),
    ]
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4


def test_spaces_divide_as_tabs_do_and_a_header_of_one_number_means_one_fold(tmp_path):
    lines = [line.replace("\t", "  ") for line in ["2", *LFW_LINES[1:5]]]
    _, second, pairs = listed(write_lines(tmp_path / "pairsDevTest.txt", lines))
    assert second[2:] == ["Bo/Bo_0001.jpg", "Ann_Lee/Ann_Lee_0010.jpg"]
    assert pairs.folds.tolist() == [0] * 4
    tabbed = write_lines(tmp_path / "spaces.txt", ["1", "Ann van Lee\t1\t2", "Ann van Lee\t1\tBo\t2"])
    assert listed(tabbed)[0] == ["Ann van Lee/Ann van Lee_0001.jpg"] * 2


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "10\t300\t5", "line 1 is '10\t300\t5'; it must be the number of folds"),
        (1, "ten\t300", "line 1 is 'ten\t300'"),
        (1, "0\t2", "line 1 is"),
        (1, "2\t3", "ends at line 9, but the header '2\t3' promises 13 lines"),
        (1, "1\t2", "ends at line 9, but the header '1\t2' promises 5 lines"),
        (2, "Ann_Lee\t1\tBo\t4", "line 2 is 'Ann_Lee\t1\tBo\t4'; it must be 'name i j', two images of one person"),
        (3, "Bo\t12", "line 3 is 'Bo\t12'"),
        (3, "Bo\t3\t3", "line 3 .* 'name i j'"),  # one image with itself
        (3, "Bo\t3\t03", "line 3"),
        (3, "Bo\t0\t3", "line 3 .* numbered from 1"),
        (3, "Bo\tx\t3", "line 3"),
        (3, "Bo\t-1\t3", "line 3"),
        (4, "Ann_Lee\t2\t3", "line 4 is 'Ann_Lee\t2\t3'; it must be 'name i name j', two people"),
        (4, "Bo\t2\tBo\t1", "line 4 .* two people"),
        (5, "Cy\t1\tAnn_Lee\t1.5", "line 5"),
        (5, "\t1\tAnn_Lee\t1", "line 5"),
        (7, "", "line 7 is ''"),
    ],
)
def test_a_list_that_is_none_is_refused_by_its_line(tmp_path, line, text, message):
    lines = LFW_LINES.copy()
    lines[line - 1] = text
    message = message.replace("\t", r"\\t")  # as it is said
    with pytest.raises(InputError, match=rf"pairs\.txt,? {message}"):
        read_list(write_lines(tmp_path / "pairs.txt", lines))


def test_a_web_page_an_empty_file_an_image_and_no_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a web page"):
        read_list(write_lines(tmp_path / "pairs.txt", ["<!DOCTYPE html>", "<p>Quota exceeded"]))
    with pytest.raises(InputError, match="line 1 is ''"):
        read_list(write_lines(tmp_path / "pairs.txt", []))
    (tmp_path / "face.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for name, reason in (("face.jpg", "not UTF-8"), (".", "Is a directory"), ("missing.txt", "does not exist")):
        with pytest.raises(InputError, match=reason) as refused:
            read_list(tmp_path / name)
        assert "Errno" not in str(refused.value)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".JPG"])
def test_the_images_of_a_list_come_once_and_the_pairs_point_to_them(tmp_path, ending):
    records = read(write_lines(tmp_path / "pairs.txt", LFW_LINES), lfw(tmp_path / "lfw", PEOPLE, ending))
    names = [records.path(i).relative_to(tmp_path / "lfw").as_posix() for i in range(len(records))]
    assert len(set(names)) == len(names) == 11
    *theirs, pairs = listed(tmp_path / "pairs.txt")
    for ours, wanted in zip((records.pairs.first, records.pairs.second), theirs, strict=True):
        assert [names[i] for i in ours] == [name.removesuffix(".jpg") + ending for name in wanted]
    assert all(map(np.array_equal, records.pairs, pairs))


def test_a_jpg_is_preferred_and_missing_images_are_refused_by_name(tmp_path):
    folder = lfw(tmp_path / "lfw", PEOPLE)
    Image.new("RGB", (8, 8)).save(folder / "Bo" / "Bo_0012.png")
    records = read(write_lines(tmp_path / "pairs.txt", LFW_LINES), folder)
    assert [name for name in records.file_names.tolist() if b"Bo_0012" in name] == [b"Bo/Bo_0012.jpg"]
    (folder / "Cy" / "Cy_0002.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the 11 images of .*pairs.txt are not in .*lfw.*Cy/Cy_0002.jpg;"):
        read(tmp_path / "pairs.txt", folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="11 of the 11 images"):
        read(tmp_path / "pairs.txt", tmp_path / "other")


def test_people_of_another_unicode_form_and_case_are_found(tmp_path):
    folder = lfw(tmp_path / "lfw", PEOPLE)
    written, on_disk = unicodedata.normalize("NFC", "Zoë_É"), unicodedata.normalize("NFD", "zoë_É")
    (folder / "Bo").rename(folder / on_disk)
    for file in (folder / on_disk).iterdir():
        file.rename(file.with_name(file.name.replace("Bo", on_disk)))
    lines = [line.replace("Bo", written) for line in LFW_LINES]
    records = read(write_lines(tmp_path / "pairs.txt", lines), folder)
    assert all(records.path(i).is_file() for i in range(len(records)))
    assert len(records) == 11
    assert len(records.notes) == 1
