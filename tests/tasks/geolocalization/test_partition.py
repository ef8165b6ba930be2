import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.geotagged_splits import training_coordinates
from tasks.geolocalization import maps, partition, s2
from tasks.geolocalization.__main__ import main as command
from tasks.geolocalization.cells import Partition, build_hierarchy, build_partition, parent_of

PARIS, SYDNEY, FIJI, TOKYO = (48.8566, 2.3522), (-33.8688, 151.2093), (-17.5, 180.0), (35.68, 139.69)


def main(*args):
    return command(["partition", *map(str, args)])


@pytest.fixture
def drawn(monkeypatch):
    """What would have been drawn, as drawing takes its time."""
    calls = []
    monkeypatch.setattr(maps, "draw_partition", lambda path, of, title: calls.append((path, of.digest, title)))
    return calls


@pytest.fixture
def places():
    """200 around each of four cities, of which one is on the antimeridian, and 9 elsewhere."""
    generator = np.random.default_rng(0)
    around = np.repeat([PARIS, SYDNEY, FIJI, TOKYO], 200, axis=0) + generator.normal(size=(800, 2)) * 0.2
    latlng = np.concatenate([around, generator.uniform(-60, 60, (9, 2))])
    latlng[:, 1] = (latlng[:, 1] + 180) % 360 - 180
    return latlng.round(6)


def write(file, latlng, head="latitude,longitude", rows="{0},{1}"):
    lines = [rows.format(latitude, longitude, k) for k, (latitude, longitude) in enumerate(latlng.tolist())]
    file.write_text("\n".join([head, *lines]) + "\n")
    return file


def test_a_table_of_coordinates_becomes_a_partition_with_its_figures_and_map(places, drawn, capsys):
    file = write(Path("places.csv"), places)
    before = file.read_bytes()
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 100, "--min_photos", 10) == 0
    built = Partition.load("P.npz")
    expected = build_partition(places, max_photos=100, min_photos=10)
    assert built.digest == expected.digest
    assert (built.max_photos, built.min_photos, built.max_level) == (100, 10, 18)
    assert drawn == [(Path("P.png"), built.digest, "Cells of 10 to 100 photographs")]
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == ["P.npz", "places.csv"]
    assert file.read_bytes() == before

    printed = capsys.readouterr().out
    kept = built.counts.sum()
    assert f"809 training photographs, {len(built)} cells" in printed
    assert f"{100 * kept / 809:.2f} % of the photographs are in a cell, {809 - kept} in none" in printed
    by_level = {int(level): int(cells) for level, cells in re.findall(r"^ +(\d+) +\S+ k?m +(\d+) ", printed, re.M)}
    levels, cells = np.unique(s2.levels(built.ids), return_counts=True)
    assert by_level == dict(zip(levels.tolist(), cells.tolist(), strict=True))


def test_figures_by_hand():
    """Three in a row on the equator 2 degrees apart, 222.39 km, and one that is alone on its face."""
    latlng = np.array([(0.5, 1), (0.5, 3), (0.5, 3), (0.5, 5), (0, 100), (0, 100), (0, -100)])
    built = build_partition(latlng, max_photos=4, min_photos=2, max_level=9)
    lines = partition.figures(built, np.sort(s2.leaf_ids(latlng))).splitlines()
    assert lines[0] == "7 training photographs, 2 cells"
    assert lines[1] == "85.71 % of the photographs are in a cell, 1 in none"
    assert lines[4].split() == ["0", "9,220", "km", "2", "6", "85.7", "%"]
    rows = {line[:30].strip(): line[30:].split() for line in lines[-3:]}
    # at the mean (0.5, 3) are two and at (0, 100) two; 222 km off two; the last is 103 degrees off, and in no cell
    assert rows["always the right cell"] == ["57.1", "57.1", "57.1", "85.7", "85.7", "0.0", "km"]
    assert rows["at best: nearest cell's point"] == ["57.1", "57.1", "57.1", "85.7", "85.7", "0.0", "km"]
    assert rows["always the most frequent cell"][:5] == ["28.6", "28.6", "28.6", "57.1", "57.1"]


def test_many_photographs_are_sampled_and_it_is_said(places, monkeypatch):
    built = build_partition(places, max_photos=100, min_photos=10)
    leaves = np.sort(s2.leaf_ids(places))
    monkeypatch.setattr(partition, "_SAMPLE", 300)
    assert partition.figures(built, leaves).endswith("measured on one photograph in 3, 270 of 809")


def test_several_limits_make_a_nested_hierarchy(places, drawn):
    file = write(Path("places.csv"), places)
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 300, 20, 100, "--min_photos", 10) == 0
    built = [Partition.load(f"P_{number}.npz") for number in (20, 100, 300)]
    expected = build_hierarchy(places, [20, 100, 300], min_photos=10)
    assert [of.digest for of in built] == [of.digest for of in expected]
    assert len(built[0]) > len(built[1]) > len(built[2])
    assert (parent_of(built[0], built[2]) >= 0).all()
    assert [path.name for path, _, _ in drawn] == ["P_20.png", "P_100.png", "P_300.png"]


def test_the_columns_of_a_known_data_set_and_centres(places, drawn):
    rows = "\t".join(["{2}", *["x"] * 9, "{1}", "{0}", *["x"] * 11])  # YFCC100M's first release: longitude first
    file = write(Path("yfcc100m"), places, rows.format(0, 0, "a"), rows)
    options = ["--max_photos", 100, "--min_photos", 10, "--val_fraction", 0, "--test_fraction", 0]
    assert main("--csv", file, "--preset", "yfcc100m", "--out", "Y.npz", "--points", "centre", *options) == 0
    expected = build_partition(places, max_photos=100, min_photos=10, points="centre")
    built = Partition.load("Y.npz")
    np.testing.assert_array_equal(built.ids, expected.ids)
    np.testing.assert_array_equal(built.points, expected.points)

    file = write(Path("mine.csv"), places, "lng;lat", "{1};{0}")
    named = ["--latitude_column", "lat", "--longitude_column", "lng"]
    assert main("--csv", file, *named, "--out", "M.npz", "--points", "centre", *options) == 0
    assert Partition.load("M.npz").digest == expected.digest


def test_only_the_training_split_counts(places, drawn, capsys):
    head, rows = "path,latitude,longitude,split", "{2}.jpg,{0},{1},"
    split = np.array(["val", "train", "test", "train"])[np.arange(len(places)) % 4]
    file = Path("places.csv")
    lines = [rows.format(*place, k) + split[k] for k, place in enumerate(places.tolist())]
    file.write_text("\n".join([head, *lines]))
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 50, "--min_photos", 5) == 0
    expected = build_partition(places[split == "train"], max_photos=50, min_photos=5)
    assert Partition.load("P.npz").digest == expected.digest

    file = write(Path("authors.csv"), places, "path,latitude,longitude,author", "{2}.jpg,{0},{1},{2}")
    settings = {"val_fraction": 0.2, "test_fraction": 0.3, "seed": 5}
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    assert main("--csv", file, "--out", "A.npz", "--max_photos", 50, "--min_photos", 5, *options) == 0
    training = np.concatenate(list(training_coordinates(file, **settings)))
    assert 300 < len(training) < 500
    assert "coordinates alone" not in capsys.readouterr().out
    assert Partition.load("A.npz").digest == build_partition(training, max_photos=50, min_photos=5).digest


def test_that_coordinates_alone_cannot_be_divided_is_said(places, drawn, capsys):
    file = write(Path("places.csv"), places)
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 100, "--min_photos", 10) == 0
    said = "places.csv has coordinates alone, by which nothing can be set aside: all its rows are taken, whatever --val"
    assert said in capsys.readouterr().out
    none = ["--val_fraction", 0, "--test_fraction", 0]
    assert main("--csv", file, "--out", "Q.npz", "--max_photos", 100, "--min_photos", 10, *none) == 0
    assert "coordinates alone" not in capsys.readouterr().out


def test_what_was_left_out_is_said(places, drawn, capsys):
    file = write(Path("places.csv"), np.concatenate([places, [(0, 0), (10, 190)]]))
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 100, "--min_photos", 10) == 0
    printed = capsys.readouterr().out
    assert "places.csv: 1 row at (0, 0), which stands for no position, left out (first: line 811)" in printed
    assert "places.csv: 1 row with a longitude above 180, of which 360 was taken (first: line 812)" in printed
    assert Partition.load("P.npz").total == 810


@pytest.mark.slow  # it imports what reads photographs
def test_a_folder_of_photographs_is_read_by_its_exif(drawn, capsys):
    generator = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 3, "test": 3}.items():
        (Path("photos") / split).mkdir(parents=True)
        for k in range(count):
            exif = Image.Exif()
            exif.get_ifd(ExifTags.IFD.GPSInfo).update(
                {1: "N" if k % 2 else "S", 2: (35.0, 30.0, 0.0), 3: "E", 4: (139.0, 45.0, 0.0)}
            )
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("photos") / split / f"{k}.jpg", exif=exif)
    assert main("--root", "photos", "--out", "P.npz", "--max_photos", 6, "--min_photos", 2) == 0
    built = Partition.load("P.npz")
    assert built.total == 12
    assert built.counts.tolist() == [6, 6]
    np.testing.assert_allclose(sorted(built.latlng.tolist()), [(-35.5, 139.75), (35.5, 139.75)], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "no.csv"], "no.csv does not exist; give"),
        (["--csv", "places.csv", "--max_photos", "0"], "--max_photos is 0; it must be"),
        (["--csv", "places.csv", "--max_photos", "10", "--min_photos", "11"], "min_photos is 11; it must be from 1"),
        (["--csv", "places.csv", "--max_photos", "100", "100"], "different numbers"),
        (["--csv", "places.csv", "--max_level", "31"], "max_level is 31"),
        (["--csv", "places.csv", "--min_photos", "1000"], "809 photographs make 0 cells of at least 1000"),
        (["--csv", "places.csv", "--preset", "flickr"], "'flickr' is unknown"),
        (["--csv", "places.csv", "--latitude_column", "lat"], "has no column 'lat'"),
        (["--csv", "places.csv", "--val_fraction", "0.6", "--test_fraction", "0.4"], "leave nothing to train on"),
        (["--csv", "places.csv", "--val_fraction", "nan"], "error: --val_fraction is nan; it must be 0 or more"),
        (["--root", ".", "--test_fraction", "1"], "error: --test_fraction is 1; it must be 0 or more, and below 1"),
        (["--csv", "places.csv", "--seed", "-1"], "error: --seed is -1; it must be from 0 to 4294967295"),
        (["--csv", "twice.csv"], "twice.csv lists 5.jpg more than once (lines 7 and 811); keep one"),
        (["--csv", "swapped.csv"], "likely swapped"),
        (["--csv", "places.csv", "--out", "P.png"], "it must end in .npz"),
        (["--csv", "places.csv", "--out", "no/P.npz"], "there is no folder no; create it first"),
        (["--csv", "places.csv", "--out", "there.npz"], "there.npz exists already"),
        (["--csv", "places.csv", "--out", "map.npz"], "map.png exists already"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(places, drawn, capsys, options, message):
    write(Path("places.csv"), places)
    write(Path("swapped.csv"), places[:, ::-1])
    write(Path("twice.csv"), places, "path,latitude,longitude", "{2}.jpg,{0},{1}")
    with Path("twice.csv").open("a") as file:
        file.write("./5.jpg,1,2\n")
    for name in ("there.npz", "map.png"):
        Path(name).write_text("mine")
    before = sorted(path.name for path in Path().iterdir())
    out = [] if "--out" in options else ["--out", "P.npz"]
    assert main(*options, *out) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not drawn
    assert sorted(path.name for path in Path().iterdir()) == before
    assert Path("there.npz").read_text() == Path("map.png").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [["--out", "P.npz"], ["--csv", "a", "--root", "b", "--out", "P.npz"], ["--csv", "a"]]
)
def test_one_source_and_one_output_are_wanted(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(*options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_imports_nothing_heavy_and_says_the_defaults_of_the_library(capsys):
    script = (
        "import sys\nfrom tasks.geolocalization.partition import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'numpy', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.endswith("HEAVY []\n")
    assert "default: 18, 35 m" in " ".join(run.stdout.split())
    assert build_partition.__kwdefaults__ == {"max_photos": 10_000, "min_photos": 50, "max_level": 18, "points": "mean"}


@pytest.mark.slow
def test_the_map_is_a_picture_beside_the_partition(places):
    file = write(Path("places.csv"), places)
    assert main("--csv", file, "--out", "P.npz", "--max_photos", 50, "--min_photos", 5) == 0
    with Image.open("P.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
