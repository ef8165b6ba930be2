import csv
import json
import os

from data.folders import count_of
from tasks.reporting import as_code, clipped, figures_table, legible, write_csv, write_json, write_model_card


def test_names_are_drawn_in_one_line_and_what_the_font_lacks_is_told_by_the_number():
    names = ["пудель", "a\n b", "柴犬", "🐶 dog", "Ærø"]
    assert legible(names, "class") == ["пудель", "a b", "class 2", "dog (class 3)", "Ærø"]


def test_long_names_keep_both_ends():
    assert clipped("n02088364-beagle") == "n02088364-beagle"
    assert clipped("a" * 14 + "b" * 30 + "c" * 11) == "a" * 14 + "…" + "c" * 11


def test_numbers_agree_with_their_nouns():
    given = [(1, "class"), (2000, "class"), (0, "image"), (1, "training image"), (2, "box")]
    expected = ["1 class", "2,000 classes", "0 images", "1 training image", "2 boxes"]
    assert [count_of(*one) for one in given] == expected


def test_what_could_not_be_measured_is_null(tmp_path):
    written = write_json(tmp_path / "m.json", {"a": float("nan"), "b": None, "c": 0.5})
    assert json.loads((tmp_path / "m.json").read_text()) == written == {"a": None, "b": None, "c": 0.5}


def test_a_file_name_that_is_no_utf_8_is_escaped(tmp_path):
    write_csv(tmp_path / "t.csv", ["file"], [[os.fsdecode(b"\xff.jpg")], ["a,b"]])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["file"], ["\\udcff.jpg"], ["a,b"]]


def test_a_model_card_has_its_parts_by_heading_and_a_table_cell_no_bar(tmp_path):
    table = figures_table({"a": float("nan"), "b": 0.5, "c": 1}, {"b": "the b", "a": "the a"})
    assert table == "| figure | value |\n| --- | --- |\n| the b | 0.500 |\n| the a | not measured |"
    assert as_code("a|b`") == "`a/b `"
    write_model_card(tmp_path / "c.md", task="t", model="M.", data="D.", licence="L.", parts={"Figures": table})
    assert (tmp_path / "c.md").read_text().split("\n\n") == [
        *("# Model card: t", "M.", "## Data and licence", "D. L.", "## Figures", table + "\n")
    ]
