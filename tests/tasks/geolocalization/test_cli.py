"""The real command, in-process: what a user types, what they see, and what is left on disk."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import refused, tree
from PIL import Image

from tasks.geolocalization import load
from tasks.geolocalization.__main__ import main

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"]
CELLS = ["--model.max_images", "2", "--model.min_images", "1"]
QUIET = ["--trainer.enable_progress_bar", "false"]


def last_run(capsys):
    return Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))


@pytest.fixture(scope="module")
def trained(places_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(places_root), "--trainer.default_root_dir", str(folder), *SMALL, *CELLS, *QUIET]
    assert main(["fit", *given, "--trainer.max_epochs", "2"]) == 0
    return (folder / "geolocalization" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


def test_a_run_leaves_its_report_and_the_data_as_they_were(best, places_root, capsys):
    before = tree(places_root)
    # cells and crops that are not the checkpoint's: its own cells are kept, with a line that says so
    asked = ["--model.max_images", "3", "--model.points", "centre", "--data.crops", "5"]
    assert main(["test", "--ckpt_path", best, *asked, *QUIET]) == 0
    printed = capsys.readouterr().out
    notes = [line for line in printed.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert "--model.max_images 3" in notes[0]
    assert "--model.points centre" in notes[1]
    run = Path(printed.splitlines()[-1].removeprefix("run: "))
    assert tree(places_root) == before
    reports = {"metrics.json", "predictions.csv", "by_region.csv", "table_11.md", "model_card.md", "pictures"}
    assert {path.name for path in run.iterdir()} >= {"config.yaml", *reports}
    assert len(list((run / "pictures").iterdir())) == 7
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["test/images"] == 6
    with (run / "predictions.csv").open(newline="") as file:
        distances = [float(row["distance_km"]) for row in csv.DictReader(file)]
    assert figures["test/within_2500km"] == pytest.approx(np.mean(np.array(distances) <= 2500), abs=1e-6)


def test_a_checkpoint_predicts_in_a_fresh_process_without_the_data_or_a_network(best, places_root, tmp_path, request):
    image = next((places_root / "test").iterdir())
    Image.open(image).save(tmp_path / "image.jpg")  # without EXIF
    # the very folder that its checkpoint names is not there
    aside = places_root.with_name("aside")
    places_root.rename(aside)
    request.addfinalizer(lambda: aside.rename(places_root))
    script = (
        "import socket, sys\n"
        "def blocked(*args, **kwargs): raise OSError('no network here')\n"
        "socket.socket.connect = blocked\n"
        "from tasks.geolocalization.__main__ import main\n"
        f"sys.exit(main(['predict', '--source', 'image.jpg', '--ckpt_path', {best!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"checkpoint: {best} (val/geoscore ")
    [file] = (tmp_path / "runs" / "geolocalization").glob("*/predictions.jsonl")
    row = json.loads(file.read_text())
    result = load(best)(tmp_path / "image.jpg")
    assert (row["latitude"], row["longitude"]) == pytest.approx(tuple(result.latlng), abs=1e-5)
    assert [cell["cell"] for cell in row["cells"]] == result.tokens
    [geojson] = (tmp_path / "runs" / "geolocalization").glob("*/geojson/*")
    run = geojson.parents[1]
    [point, *cells] = json.loads(geojson.read_text())["features"]
    assert point["geometry"]["coordinates"] == pytest.approx([row["longitude"], row["latitude"]], abs=1e-5)
    assert len(cells) == 5
    assert (run / "pictures" / "image.png").stat().st_size > 10_000


def test_positions_in_exif_are_read_only_to_compare_whatever_the_files_name(best, places_root, tmp_path, capsys):
    photo = sorted((places_root / "test").iterdir())[0]  # near Paris, as the fixture draws it
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["\u00e9" * 120 + "long.jpg", "two\nlines\t.jpg", "without.png"]
    for name in names[:2]:
        (folder / name).write_bytes(photo.read_bytes())
    Image.open(photo).save(folder / names[2])
    given = ["predict", "--source", str(folder), "--ckpt_path", best]
    assert main(given) == 0
    run = last_run(capsys)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert {Path(row["file"]).name for row in rows} == set(names)
    assert not any({"exif", "distance_km"} & set(row) for row in rows)
    for kind, ending in (("geojson", ".geojson"), ("pictures", ".png")):
        written = {path.name for path in (run / kind).iterdir()} - {"predictions_001.png"}
        assert written == {f"{stem}{ending}" for stem in ("two_lines_", "without", "\u00e9" * 100)}
    [point, *_] = json.loads((run / "geojson" / "two_lines_.geojson").read_text("utf-8"))["features"]
    assert point["properties"]["file"] == names[1]

    assert main([*given, "--compare", "--top", "2", "--decode", "expected", "--crops", "5"]) == 0
    with_exif, without, _ = map(json.loads, (last_run(capsys) / "predictions.jsonl").read_text("utf-8").splitlines())
    assert with_exif["exif"][0] == pytest.approx(48.86, abs=1)
    assert with_exif["distance_km"] > 0
    assert len(with_exif["cells"]) == 2
    assert isinstance(without["exif"], str)
    result = load(best, crops=5, decode="expected")(folder / names[1])
    assert (with_exif["latitude"], with_exif["longitude"]) == pytest.approx(tuple(result.latlng), abs=1e-5)


def test_a_partition_made_beforehand_is_trained_for_and_kept_when_the_run_goes_on(places_root, capsys):
    made = ["partition", "--root", str(places_root), "--out", "cells.npz", "--max_images", "2", "--min_images", "1"]
    assert main(made) == 0
    given = ["--data.root", str(places_root), *SMALL, *QUIET, "--model.partition", "cells.npz"]
    assert main(["fit", *given, "--trainer.max_epochs", "1"]) == 0
    last = last_run(capsys) / "checkpoints" / "last.ckpt"
    Path("cells.npz").unlink()  # the checkpoint holds its cells
    assert main(["fit", "--ckpt_path", str(last), "--trainer.max_epochs", "2", *QUIET]) == 0
    again = load(last_run(capsys) / "checkpoints" / "best.ckpt")
    assert again.head.state == load(last).head.state


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--data.root", "missing"], "--data missing"),
        (["fit", "--data.root", "{root}", *SMALL], r"12 images make 0 cells.*--model\.max_images"),
        (["fit", "--data.root", "{root}", "--model.partition", "no.npz"], "no.npz"),
        (["test", "--ckpt_path", "no.ckpt"], "no.ckpt"),
        (["predict", "--ckpt_path", "{best}", "--source", "no.jpg"], "no.jpg"),
        (["predict", "--ckpt_path", "{best}", "--source", "x", "--top", "0"], "--top 0"),
        (["predict", "--ckpt_path", "{best}"], "--source"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(args, message, best, places_root, capsys):
    refused(main, [arg.format(root=places_root, best=best) for arg in args], message, capsys)
