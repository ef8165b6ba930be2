import csv
import json

import numpy as np
import pytest
from helpers import HOSTILE, harmless
from PIL import Image

from tasks.geolocalization import maps, report, s2
from tasks.geolocalization.cells import Partition
from tasks.geolocalization.metrics import TABLE_11, THRESHOLDS_KM, evaluate, rank_cells
from tasks.geolocalization.report import by_region, near_to_far, regions_of, table_11, write_report
from tasks.geolocalization.sphere import haversine_km

pytestmark = pytest.mark.usefixtures("no_network")

PARIS, LONDON, YORK, SYDNEY = CITIES = np.array([[48.86, 2.35], [51.5, -0.12], [40.71, -74.0], [-33.87, 151.2]])
IDS = s2.parents(s2.leaf_ids(CITIES), 7)
ORDER = np.argsort(IDS)
# one cell around each city; the images of the fourth, Sydney, were fewest
CELLS = Partition(IDS[ORDER], np.array([40, 30, 20, 10])[ORDER], s2.centre_vectors(IDS[ORDER]), 120, 50, 1)
OF = CELLS.lookup(CITIES)  # the cell of each city
# four cities and a place in the Pacific, whose cell was dropped
TRUTH = np.concatenate([CITIES + 0.01, [[0.0, -150.0]]])


@pytest.fixture
def drawn(monkeypatch):
    """What the images were drawn of, instead of the images."""
    calls = {}
    for name in ("draw_partition", "draw_error_curve", "draw_errors_map", "draw_prediction"):
        monkeypatch.setattr(report, name, lambda path, *of: calls.__setitem__(path.name, of))
    monkeypatch.setattr(report, "locator_map", lambda *_: np.zeros((96, 240, 3), np.uint8))
    monkeypatch.setattr(report, "contact_sheet", lambda *of, **_: calls.__setitem__(of[2].name, of[:2]))
    return calls


def color_of(position):
    return 20 + 10 * position, 90, 150


def image_at(position):
    return np.full((40, 60, 3), color_of(position), np.uint8)


def chances(count, seed=0):
    raw = np.random.default_rng(seed).exponential(size=(count, 4)) ** 2
    return raw / raw.sum(axis=1, keepdims=True)


def scored(truth, probabilities, cells=CELLS):
    ranks = rank_cells(probabilities, cells.lookup(truth))
    return evaluate(cells.latlng[ranks.best], truth, ranks, cells)


def write(folder, truth, probabilities, files=None, open_image=image_at, cells=CELLS):
    scores = scored(truth, probabilities, cells)
    write_report(
        folder,
        split="test",
        scores=scores,
        half_radius_km=np.linspace(10, 90, len(truth)),
        likeliest={k: (np.argsort(-row), np.sort(row)[::-1]) for k, row in enumerate(probabilities)},
        partition=cells,
        files=files or [f"images/{k}.jpg" for k in range(len(truth))],
        open_image=open_image,
        model="0.25 MobileNet at 128 x 128.",
        data="Scenes drawn by code.",
    )
    return scores, json.loads((folder / "metrics.json").read_text())


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_figures_file_is_flat_and_holds_the_scores_and_what_the_cells_allow(tmp_path, drawn):
    scores, metrics = write(tmp_path, TRUTH, chances(5))
    assert metrics["test/coverage"] == 0.8
    assert metrics["test/images"] == 5
    for name, value in scores.figures.items():
        assert metrics[f"test/{name}"] == value
    points = [[haversine_km(place, point) for point in CELLS.latlng] for place in TRUTH]
    nearest = np.min(points, axis=1)  # the Pacific's too, whose own cell was dropped
    for limit in THRESHOLDS_KM:
        assert metrics[f"test/ceiling_within_{limit}km"] == np.mean(nearest <= limit)
    assert metrics["test/ceiling_median_km"] == pytest.approx(np.median(nearest))
    assert metrics["test/within_half_radius"] == np.mean(scores.distance_km <= np.linspace(10, 90, 5))


def test_every_image_has_its_row_with_the_numbers_of_the_arrays(tmp_path, drawn):
    probabilities = chances(5, seed=1)
    scores, _ = write(tmp_path, TRUTH, probabilities)
    rows = rows_of(tmp_path / "predictions.csv")
    assert [row["file"] for row in rows] == [f"images/{k}.jpg" for k in range(5)]
    tokens = s2.tokens(CELLS.ids)
    for k, row in enumerate(rows):
        expected = (*TRUTH[k], *scores.latlng[k], scores.distance_km[k], 10 + 20 * k)
        names = ("true_latitude", "true_longitude", "latitude", "longitude", "distance_km", "half_radius_km")
        assert [float(row[name]) for name in names] == pytest.approx(expected, abs=1e-6)
        best = int(probabilities[k].argmax())
        assert row["best_cell"] == tokens[best]
        assert float(row["best_probability"]) == pytest.approx(probabilities[k, best], rel=1e-5)
    for k in range(4):
        own = probabilities[k, OF[k]]
        assert (rows[k]["cell"], int(rows[k]["rank"])) == (tokens[OF[k]], 1 + int((probabilities[k] > own).sum()))
        assert float(rows[k]["probability"]) == pytest.approx(own, rel=1e-5)
    assert [rows[4][name] for name in ("cell", "rank", "probability")] == ["", "", ""]


def test_the_predictions_drawn_are_the_nearest_the_middle_and_the_farthest(tmp_path, drawn):
    probabilities = chances(5, seed=2)
    scores, _ = write(tmp_path, TRUTH, probabilities)
    assert len(drawn) == 7
    order = np.argsort(scores.distance_km)
    for name, k in (("nearest", order[0]), ("median", order[2]), ("farthest", order[4])):
        image, _, likeliest, latlng, radius, true, title = drawn[f"prediction_{name}.png"]
        assert (image == image_at(k)).all()
        assert (likeliest[1] == np.sort(probabilities[k])[::-1]).all()
        assert (latlng == scores.latlng[k]).all()
        assert (true == TRUTH[k]).all()
        assert radius == pytest.approx(10 + 20 * k)
        assert f"images/{k}.jpg" in title
    tiles, captions = drawn["near_to_far.png"]
    assert [caption.split("\n")[-1] for caption in captions] == [f"images/{k}.jpg" for k in order]
    assert [tuple(tile[90, 120].tolist()) for tile in tiles] == [color_of(k) for k in order.tolist()]


def test_the_sheet_shows_all_of_few_and_three_rows_of_many():
    assert near_to_far(8) == list(range(8))
    assert near_to_far(18) == list(range(18))
    assert near_to_far(19) == [*range(12), *range(13, 19)]
    assert near_to_far(101) == [*range(6), *range(47, 53), *range(95, 101)]


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_without_a_warning_and_the_same_input_gives_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "DPI", 25)
    names = ["$\\frac{$", "two\nlines.jpg", "not \udcff UTF-8", "眼" * 90 + "🎩", "n" * 300]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, TRUTH, chances(5), names)
    found = [row["file"] for row in rows_of(tmp_path / "a" / "predictions.csv")]
    assert found == ["$\\frac{$", "two\\nlines.jpg", "not \\udcff UTF-8", *names[3:]]
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    for path in (tmp_path / "a" / "pictures").iterdir():
        assert (np.asarray(Image.open(path).convert("RGB")) < 120).any()


@pytest.mark.filterwarnings("error")
def test_names_from_strangers_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "DPI", 20)
    nothing = maps.Outline(np.empty((0, 2)))
    monkeypatch.setattr(
        maps, "_coast_paths", lambda: ([], nothing)
    )  # quicker, and no name is in it, nor in the maps left out
    for name in ("draw_partition", "draw_error_curve", "draw_errors_map"):
        monkeypatch.setattr(report, name, lambda *_: None)
    monkeypatch.setattr(report, "locator_map", lambda *_: np.zeros((96, 240, 3), np.uint8))
    truth, probabilities, files = np.repeat(TRUTH, 4, axis=0)[:18], chances(18), HOSTILE[:18]
    order = np.argsort(scored(truth, probabilities).distance_km, kind="stable")
    in_titles = HOSTILE[0], "$x_{$", "".join(HOSTILE[1:])
    for k, name in zip(order[[0, 8, 17]], in_titles, strict=True):
        files[k] = name
    write(tmp_path, truth, probabilities, files)
    harmless(tmp_path)
    assert rows_of(tmp_path / "predictions.csv")[order[0]]["file"] == HOSTILE[0]


def table(text, head):
    """Rows of the table whose head begins so, by their first cell."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        assert len(rest) == lines[start].count("|") - 2 == lines[start + 1].count("|") - 2
        rows[first] = rest
    return rows


def test_table_11_is_the_papers_and_ours_which_are_told_apart():
    probabilities = np.zeros((5, 4))
    probabilities[np.arange(5), [OF[0], OF[1], OF[0], OF[0], OF[0]]] = 1
    text = table_11(scored(TRUTH, probabilities), "test")
    rows = table(text, "% of images within")
    assert rows["PlaNet MobileNet, the paper's, on Im2GPS"] == ["11.4", "31.7", "45.2", "60.3", "79.3"]
    assert rows["PlaNet, the paper's, on Im2GPS"] == ["11.0", "31.7", "51.1", "64.0", "77.6"]
    assert rows["Im2GPS, the paper's, on Im2GPS"] == ["2.5", "21.9", "32.1", "35.4", "51.9"]
    assert len(rows) == len(TABLE_11) + 3
    assert rows["**ours**, on `test`"][2:] == ["40.0", "40.0", "40.0"]  # Paris and London are in their cells
    assert rows["ours, if the cell were always right, on `test`"][2:] == ["80.0", "80.0", "80.0"]
    assert rows["ours, always the most frequent cell, on `test`"][2:] == ["20.0", "40.0", "40.0"]


@pytest.mark.parametrize(
    ("region", "latlngs"),
    {
        "Europe": [[38, 23.7], [64.1, -21.9], [55.8, 37.6], [36.7, -4.4], [35.9, 14.5]],
        "Africa": [[30, 31.2], [36.8, 10.2], [-33.9, 18.4], [9, 38.7], [28.1, -15.4]],
        "North and Central America": [[61.2, -149.9], [9, -79.5], [40.7, -74], [64.2, -51.7]],
        "South America": [[4.7, -74], [-0.7, -90.5], [10.5, -66.9], [-54.8, -68.3]],
        "Oceania and the Pacific": [[21.3, -157.9], [-18, 178], [-13.8, -171.8], [-12.5, 130.8]],
        "Asia, west and south": [[32.1, 34.8], [19, 72.8], [25.2, 55.3], [4.2, 73.5]],
        "Asia, east and south-east": [[13.7, 100.5], [35.7, 139.7], [-8.6, 115.2], [43, 141]],
        "Asia, north and central": [[43.2, 76.9], [55, 82.9], [64.7, 177.5], [66, -172]],
        "elsewhere (oceans, poles)": [[-77.8, 166.7], [-20.2, 57.5]],
    }.items(),
)
def test_a_position_is_in_its_region(region, latlngs):
    assert {list(report.REGIONS)[k] for k in regions_of(np.array(latlngs, float))} == {region}


def test_the_figures_by_region_are_those_of_its_images():
    truth = np.array([PARIS, LONDON, PARIS, YORK])
    rows = {row["region"]: row for row in by_region(truth, np.array([1.0, 100.0, 800.0, 30.0]), CELLS)}
    europe = rows["Europe"]
    assert (europe["images"], europe["training_images"], europe["median_km"]) == (3, 70, 100)
    shares = [europe[f"within_{limit}km"] for limit in (1, 25, 200, 750, 2500)]
    assert shares == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert rows["Oceania and the Pacific"]["training_images"] == 10
    assert np.isnan(rows["Oceania and the Pacific"]["median_km"])
    assert sum(row["images"] for row in rows.values()) == 4
    assert sum(row["training_images"] for row in rows.values()) == 100


def test_the_card_says_the_figures_by_region_too_and_what_the_net_is_not_for(tmp_path, drawn):
    write(tmp_path, TRUTH, chances(5))
    text = (tmp_path / "model_card.md").read_text("utf-8")
    for part in ("0.25 MobileNet at 128 x 128.", "4 cells", "83.3 % of the 120 images", "no licence", "stalkers"):
        assert part in text
    assert table(text, "figure")["share whose own cell was kept"] == ["0.800"]
    assert table(text, "region")["Europe"][:2] == ["70", "2"]
    assert table(text, "region")["Africa"][2:] == ["not measured"] * 6
    assert next(iter(table(text, "taken"))) == "100 % (5)"
    assert "**ours**, on `test`" in table(text, "% of images within")
    assert [line for line in text.splitlines() if line.startswith("#")][-1] == "## Responsible use"
