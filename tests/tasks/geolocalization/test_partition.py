import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.geolocalization import cells, maps, report, s2
from tasks.geolocalization.__main__ import main as command
from tasks.geolocalization.cells import Partition, partitions_of

PARIS, SYDNEY, FIJI, TOKYO = (48.8566, 2.3522), (-33.8688, 151.2093), (-17.5, 180.0), (35.68, 139.69)
USUAL = ("--max_images", 100, "--min_images", 10)


def main(*args):
    return command(["partition", *map(str, args)])


def built(latlng, limits=(100,), **options):
    return [of.to_dict() for of in partitions_of(s2.leaf_ids(latlng), limits, **{"min_images": 10, **options})]


@pytest.fixture
def drawn(monkeypatch):
    """Which maps would have been drawn, as drawing takes its time."""
    calls = []
    monkeypatch.setattr(maps, "draw_partition", lambda path, of, title: calls.append(path.name))
    return calls


@pytest.fixture
def places():
    """200 around each of four cities, of which one is on the antimeridian, and 9 elsewhere."""
    generator = np.random.default_rng(0)
    around = np.repeat([PARIS, SYDNEY, FIJI, TOKYO], 200, axis=0) + generator.normal(size=(800, 2)) * 0.2
    latlng = np.concatenate([around, generator.uniform(-60, 60, (9, 2))])
    latlng[:, 1] = (latlng[:, 1] + 180) % 360 - 180
    return latlng.round(6)


def write(file, latlng):
    rows = [f"{latitude},{longitude}" for latitude, longitude in latlng.tolist()]
    Path(file).write_text("\n".join(["latitude,longitude", *rows]) + "\n")
    return file


def test_a_table_of_coordinates_becomes_a_partition_with_its_figures_and_map(places, drawn, capsys):
    file = write("places.csv", places)
    before = Path(file).read_bytes()
    assert main("--csv", file, "--out", "P.npz", *USUAL) == 0
    of = Partition.load(Path("P.npz"))
    assert [of.to_dict()] == built(places)
    assert drawn == ["P.png"]
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == ["P.npz", "places.csv"]
    assert Path(file).read_bytes() == before
    printed, kept = capsys.readouterr().out, of.counts.sum()
    assert f"809 training images, {len(of)} cells" in printed
    assert f"{100 * kept / 809:.2f} % of the images are in a cell, {809 - kept} in none" in printed
    by_level = {int(level): int(cells) for level, cells in re.findall(r"^ +(\d+) +\S+ k?m +(\d+) ", printed, re.M)}
    assert by_level == dict(zip(*(column.tolist() for column in np.unique_counts(s2.levels(of.ids))), strict=True))


def test_figures_by_hand(monkeypatch):
    """Three in a row on the equator 2 degrees apart, 222.39 km, and one that is alone on its face."""
    monkeypatch.setattr(cells, "MAX_LEVEL", 9)
    leaves = s2.leaf_ids(np.array([(0.5, 1), (0.5, 3), (0.5, 3), (0.5, 5), (0, 100), (0, 100), (0, -100)]))
    [of] = partitions_of(leaves, [4], min_images=2)
    lines = report.partition_figures(of, leaves).splitlines()
    assert lines[0].split()[::3] == ["7", "2"]
    assert lines[1].split()[::9] == ["85.71", "1"]
    assert lines[4].split() == ["0", "9,220", "km", "2", "6", "85.7", "%"]
    rows = {line[:30].strip(): line[30:].split() for line in lines[-3:]}
    # at the mean (0.5, 3) are two and at (0, 100) two; 222 km off two; the last is 103 degrees off, and in no cell
    assert rows["always the right cell"] == ["57.1", "57.1", "57.1", "85.7", "85.7", "0.0", "km"]
    assert rows["at best: nearest cell's point"] == ["57.1", "57.1", "57.1", "85.7", "85.7", "0.0", "km"]
    assert rows["always the most frequent cell"][:5] == ["28.6", "28.6", "28.6", "57.1", "57.1"]
    monkeypatch.setattr(report, "_SAMPLE", 3)
    assert "one image in 3, 2 of 7" in report.partition_figures(of, leaves)


def test_several_limits_make_a_nested_hierarchy(places, drawn):
    file = write("places.csv", places)
    assert main("--csv", file, "--out", "P.npz", "--max_images", 300, 20, 100, "--min_images", 10) == 0
    fine, middle, coarse = (Partition.load(Path(f"P_{number}.npz")) for number in (20, 100, 300))
    assert [of.to_dict() for of in (fine, middle, coarse)] == built(places, [20, 100, 300])
    assert drawn == ["P_20.png", "P_100.png", "P_300.png"]


def test_only_the_training_split_counts(places, drawn, capsys):
    split = np.array(["val", "train", "test", "train"])[np.arange(len(places)) % 4]
    lines = [f"{k}.jpg,{lat},{lng},{split[k]}" for k, (lat, lng) in enumerate(places.tolist())]
    Path("places.csv").write_text("\n".join(["path,latitude,longitude,split", *lines]))
    assert main("--csv", "places.csv", "--out", "P.npz", *USUAL) == 0
    assert [Partition.load(Path("P.npz")).to_dict()] == built(places[split == "train"])


def test_issues_and_coordinates_alone_are_told(places, drawn, capsys):
    file = write("places.csv", np.concatenate([places, [(0, 0), (10, 190)]]))
    assert main("--csv", file, "--out", "P.npz", *USUAL) == 0
    alone, *lines = capsys.readouterr().out.splitlines()
    assert "places.csv has coordinates alone" in alone
    assert "--val_fraction" in alone
    assert re.search(r"places.csv: 1 .*\(0, 0\).*line 811", "\n".join(lines))
    assert re.search(r"places.csv: 1 .*above 180.*line 812", "\n".join(lines))
    assert Partition.load(Path("P.npz")).total == 810
    none = ["--val_fraction", 0, "--test_fraction", 0]
    assert main("--csv", file, "--out", "Q.npz", *USUAL, *none) == 0
    assert "coordinates alone" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_of_images_is_read_by_its_exif_and_mapped(places_root):
    assert main("--root", places_root, "--out", "P.npz", "--max_images", 2, "--min_images", 2) == 0
    of = Partition.load(Path("P.npz"))
    assert of.total == 12
    assert of.counts.tolist() == [2] * 6
    pixels = np.asarray(Image.open("P.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "no.csv"], "no.csv"),
        (["--csv", "places.csv", "--max_images", "0"], "--max_images is 0"),
        (["--csv", "places.csv", "--min_images", "1000"], "809 images make 0 cells of at least 1000"),
        (["--root", ".", "--test_fraction", "1"], "test_fraction is 1"),
        (["--csv", "places.csv", "--out", "P.png"], "P.png"),
        (["--csv", "places.csv", "--out", "no/P.npz"], "no/P.npz"),
        (["--csv", "places.csv", "--out", "there.npz"], "there.npz exists already"),
        (["--csv", "places.csv", "--out", "map.npz"], "map.png exists already"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(places, drawn, capsys, options, message):
    write("places.csv", places)
    for name in ("there.npz", "map.png"):
        Path(name).write_text("mine")
    before = sorted(path.name for path in Path().iterdir())
    out = [] if "--out" in options else ["--out", "P.npz"]
    assert main(*options, *out) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not drawn
    assert sorted(path.name for path in Path().iterdir()) == before
    assert Path("there.npz").read_text() == Path("map.png").read_text() == "mine"
