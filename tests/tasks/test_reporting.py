import csv
import json
import os

import numpy as np
import pytest
from helpers import HOSTILE, harmless, largest_file, one_sentence, pixels
from matplotlib.figure import Figure

import tasks.reporting
from data.folders import count_of
from tasks.plotting import contact_sheet
from tasks.reporting import (
    as_code,
    clipped,
    figures_table,
    legible,
    markdown_table,
    save_figure,
    write_csv,
    write_curves,
    write_json,
    write_model_card,
)


def test_names_are_drawn_in_one_line_and_what_the_font_lacks_is_told_by_the_number():
    names = ["пудель", "a\n b", "柴犬", "🐶 dog", "Ærø", " "]
    assert legible(names, "class") == ["пудель", "a b", "class 2", "dog (class 3)", "Ærø", "class 5"]


def test_long_names_keep_both_ends():
    assert clipped("n02088364-beagle") == "n02088364-beagle"
    assert clipped("a" * 14 + "b" * 30 + "c" * 11) == "a" * 14 + "…" + "c" * 11
    alike = ["a" * 40 + letter + "a" * 40 for letter in "xyz"]
    assert [name[-10:] for name in legible(alike, "class")] == [f" (class {k})" for k in range(3)]


def test_numbers_agree_with_their_nouns():
    given = [(1, "class"), (2000, "class"), (0, "image"), (1, "training image"), (2, "box")]
    expected = ["1 class", "2,000 classes", "0 images", "1 training image", "2 boxes"]
    assert [count_of(*one) for one in given] == expected


def test_what_could_not_be_measured_is_null(tmp_path):
    written = write_json(tmp_path / "m.json", {"a": float("nan"), "b": None, "c": 0.5})
    assert json.loads((tmp_path / "m.json").read_text()) == written == {"a": None, "b": None, "c": 0.5}


def test_names_in_json_are_exact_and_harmless(tmp_path):
    write_json(tmp_path / "m.json", {name: k for k, name in enumerate(HOSTILE)})
    assert list(json.loads((tmp_path / "m.json").read_text("utf-8"))) == HOSTILE
    harmless(tmp_path)


def read_back(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_file_name_that_is_no_utf_8_is_escaped(tmp_path):
    write_csv(tmp_path / "t.csv", ["file"], [[os.fsdecode(b"\xff.jpg")], ["a,b"]])
    assert read_back(tmp_path / "t.csv") == [["file"], ["\\udcff.jpg"], ["a,b"]]


@pytest.mark.parametrize(
    ("given", "cell"),
    [
        *(
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1+1", "'+1+1"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
        ),
        *((" =1", "' =1"), ("\uff1d1", "'\uff1d1"), ("-", "'-"), ("-1_000", "'-1_000"), ("-inf", "'-inf")),
        *(
            ("-1.5", "-1.5"),
            ("+.5e-3", "+.5e-3"),
            ("-3.", "-3."),
            (-1.5, "-1.5"),
            (np.float32(-1.5), "-1.5"),
            (-2, "-2"),
        ),
        *(
            ("a=b", "a=b"),
            ("'=", "'="),
            ("\t=1", r"\t=1"),
            ("\r=1", r"\r=1"),
            ("a\nb", r"a\nb"),
            ("n" * 5000, "n" * 5000),
        ),
        *((None, ""), ("", "")),
    ],
)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe_and_a_number_none(given, cell, tmp_path):
    write_csv(tmp_path / "t.csv", ["a", given], [["b", given]])
    assert read_back(tmp_path / "t.csv") == [["a", cell], ["b", cell]]


def test_a_table_keeps_its_columns_whatever_is_in_its_cells():
    lines = markdown_table(["a|b", "c"], [["d\ne", "=1"]]).split("\n")
    assert lines == ["| a/b | c |", "| --- | --- |", "| d e | =1 |"]


@pytest.mark.parametrize("place", ["title", "tick", "legend", "text"])
def test_dollars_are_no_mathematics_wherever_they_are_drawn(place, tmp_path):
    def draw(text, path):
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot(xscale="log")
        axes.plot([1, 100], [1, 2], label=text if place == "legend" else "x")
        axes.legend()
        axes.set_title(text if place == "title" else "x")
        axes.set_yticks([1], [text if place == "tick" else "x"])
        axes.text(10, 1, text if place == "text" else "x")
        save_figure(figure, path, tight=False)
        return pixels(path)

    broken = draw("$\\frac{$", tmp_path / "a.png")  # no mathematics: matplotlib would raise
    assert (broken != draw("x", tmp_path / "b.png")).any()
    assert (draw("$x$", tmp_path / "c.png") != draw("x", tmp_path / "b.png")).any()


@pytest.mark.parametrize("write", ["csv", "json", "card", "figure", "sheet"])
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(write, tmp_path):
    path = tmp_path / "file.png"
    path.write_text("old")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    calls = {
        "csv": lambda: write_csv(path, ["a"], [["x" * 200_000]]),
        "json": lambda: write_json(path, {"x" * 200_000: 1.0}),
        "card": lambda: write_model_card(path, task="t", model="x" * 200_000, data="", licence="", parts={}),
        "figure": lambda: save_figure(Figure(figsize=(50, 50)), path),
        "sheet": lambda: contact_sheet([noise], [""], path, columns=2, title=""),
    }
    with largest_file(10_000), one_sentence(r"file\.png cannot be written \(File too large\)"):
        calls[write]()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_card_has_its_parts_by_heading_and_a_table_cell_no_bar(tmp_path):
    table = figures_table({"a": float("nan"), "b": 0.5, "c": 1}, {"b": "the b", "a": "the a"})
    assert table == "| figure | value |\n| --- | --- |\n| the b | 0.500 |\n| the a | not measured |"
    assert as_code("a|b`") == "`a/b `"
    write_model_card(tmp_path / "c.md", task="t", model="M.", data="D.", licence="L.", parts={"Figures": table})
    assert (tmp_path / "c.md").read_text().split("\n\n") == [
        *("# Model card: t", "M.", "## Data and licence", "D. L.", "## Figures", table + "\n")
    ]


def curves(monkeypatch, run, text):
    """Each panel's title and its lines' points, as they are drawn of a metrics.csv."""
    figures = []
    run.mkdir()
    (run / "metrics.csv").write_text(text)
    monkeypatch.setattr(tasks.reporting, "save_figure", lambda figure, path: figures.append((figure, path)))
    write_curves(run, "val/map")
    if not figures:
        return {}
    [(figure, path)] = figures
    assert path == run / "pictures" / "curves.png"
    axes = {panel.get_title(): panel for panel in figure.axes}
    return {
        title: {line.get_label(): np.transpose(line.get_data()).tolist() for line in panel.get_lines()}
        for title, panel in axes.items()
    }


def test_curves_are_the_losses_and_the_rate_by_step_and_the_figure_by_epoch(tmp_path, monkeypatch):
    head = "epoch,step,train/loss,train/loss_boxes,train/loss_classes,train/lr,val/map,val/other\n"
    rows = "4,49,3.0,1.0,2.0,0.002,,\n4,49,,,,,0.25,7\n5,59,2.5,0.5,2.0,0.001,,\n6,69,,,,,0.5,7\n"
    assert curves(monkeypatch, tmp_path / "run", head + rows) == {  # of a resumed run, which began in epoch 5
        "loss": {"loss": [[49, 3], [59, 2.5]], "loss_boxes": [[49, 1], [59, 0.5]], "loss_classes": [[49, 2], [59, 2]]},
        "learning rate": {"lr": [[49, 0.002], [59, 0.001]]},
        "val/map": {"val/map": [[5, 0.25], [7, 0.5]]},
    }


def test_a_loss_of_one_part_is_drawn_once_and_what_is_not_there_not_at_all(tmp_path, monkeypatch):
    text = "epoch,step,train/loss,train/loss_labels\n0,9,2.0,2.0\n0,19,nan,nan\n"
    drawn = curves(monkeypatch, tmp_path / "run", text)
    assert list(drawn) == ["loss"]
    assert list(drawn["loss"]) == ["loss"]
    assert curves(monkeypatch, tmp_path / "begun", "epoch,step\n") == {}
    write_curves(tmp_path / "no such run", "val/map")


def test_curves_are_a_picture(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,9,2.0\n0,19,1.0\n")
    write_curves(tmp_path, "val/map")
    assert (pixels(tmp_path / "pictures" / "curves.png") != 255).any()
