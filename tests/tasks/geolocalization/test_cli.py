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
CELLS = ["--model.max_photos", "2", "--model.min_photos", "1"]
SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


def last_run(capsys):
    return Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))


@pytest.fixture(scope="module")
def trained(places_root, tmp_path_factory):
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["--data.root", str(places_root), "--trainer.default_root_dir", str(folder), *SMALL, *CELLS, *SHORT]
    assert main(["fit", *given]) == 0
    return (folder / "geolocalization" / "latest").resolve()


@pytest.fixture
def best(trained):
    return str(trained / "checkpoints" / "best.ckpt")


def test_a_run_leaves_what_the_readme_promises_and_the_data_as_they_were(best, places_root, capsys):
    before = tree(places_root)
    assert main(["test", "--ckpt_path", best, "--data.crops", "5"]) == 0
    run = last_run(capsys)
    assert tree(places_root) == before
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.json",
        "predictions.csv",
        "by_region.csv",
        "table_11.md",
        "model_card.md",
        "pictures",
    }
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["test/images"] == 6
    with (run / "predictions.csv").open(newline="") as file:
        distances = [float(row["distance_km"]) for row in csv.DictReader(file)]
    assert figures["test/within_2500km"] == pytest.approx(np.mean(np.array(distances) <= 2500), abs=1e-6)
    card = (run / "model_card.md").read_text().lower()
    assert "stalk" in card
    assert "dox" in card


def test_a_checkpoint_locates_in_a_fresh_process_without_the_data_or_a_network(best, places_root, tmp_path, request):
    photo = next((places_root / "test").iterdir())
    Image.open(photo).save(tmp_path / "photo.jpg")  # without EXIF
    # the very folder that its checkpoint names is not there
    aside = places_root.with_name("aside")
    places_root.rename(aside)
    request.addfinalizer(lambda: aside.rename(places_root))
    script = (
        "import socket, sys\n"
        "def blocked(*args, **kwargs): raise OSError('no network here')\n"
        "socket.socket.connect = blocked\n"
        "from tasks.geolocalization.__main__ import main\n"
        f"sys.exit(main(['predict', '--source', 'photo.jpg', '--ckpt_path', {best!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[0])
    found = load(best)(tmp_path / "photo.jpg")
    assert (row["latitude"], row["longitude"]) == pytest.approx(tuple(found.latlng), abs=1e-5)
    assert [place["cell"] for place in row["places"]] == found.tokens
    run = tmp_path / "runs" / "geolocalization" / "latest"
    [geojson] = (run / "geojson").iterdir()
    [answer, *cells] = json.loads(geojson.read_text())["features"]
    assert answer["geometry"]["coordinates"] == pytest.approx([row["longitude"], row["latitude"]], abs=1e-5)
    assert len(cells) == 5
    assert (run / "pictures" / "00000_photo.png").stat().st_size > 10_000


def test_a_long_name_or_one_with_control_characters_is_located_too(best, places_root, tmp_path, capsys):
    photo = sorted((places_root / "test").iterdir())[0]
    for name in ("\u00e9" * 120 + "long.jpg", "two\nlines\t.jpg"):
        copy = tmp_path / "in" / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(photo.read_bytes())
    assert main(["predict", "--source", str(tmp_path / "in"), "--ckpt_path", best]) == 0
    run = last_run(capsys)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert {Path(row["file"]).name for row in rows} == {path.name for path in (tmp_path / "in").iterdir()}
    for folder, ending in (("geojson", ".geojson"), ("pictures", ".png")):
        names = sorted(path.name for path in (run / folder).iterdir() if path.name[0] == "0")
        assert names == ["00000_two_lines_" + ending, "00001_" + "\u00e9" * 50 + ending]
    [answer, *_] = json.loads((run / "geojson" / "00000_two_lines_.geojson").read_text("utf-8"))["features"]
    assert answer["properties"]["file"] == "two\nlines\t.jpg"


def test_positions_in_exif_are_read_only_to_compare(best, places_root, tmp_path, capsys):
    photo = sorted((places_root / "test").iterdir())[0]
    assert main(["predict", "--source", str(photo), "--ckpt_path", best]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert not {"exif", "distance_km"} & set(row)
    assert main(["predict", "--source", str(photo), "--ckpt_path", best, "--compare", "--top_k", "2"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["exif"][0] == pytest.approx(48.86, abs=1)  # near Paris, as the fixture draws it
    assert len(row["places"]) == 2
    Image.open(photo).save(tmp_path / "bare.png")
    assert main(["predict", "--source", str(tmp_path / "bare.png"), "--ckpt_path", best, "--compare"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert isinstance(row["exif"], str)


def test_a_resumed_run_goes_on_with_the_cells_it_has(trained, places_root, capsys):
    last = str(trained / "checkpoints" / "last.ckpt")
    given = ["--ckpt_path", last, "--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *given, "--trainer.default_root_dir", "elsewhere"]) == 0
    run = last_run(capsys)
    again, before = load(str(run / "checkpoints" / "best.ckpt")), load(last)
    assert again.atlas.to_list() == before.atlas.to_list()


def test_a_partition_made_beforehand_is_trained_for(places_root, capsys):
    assert (
        main(
            ["partition", "--root", str(places_root), "--out", "cells.npz", *["--max_photos", "2"], "--min_photos", "1"]
        )
        == 0
    )
    assert Path("cells.png").is_file()
    given = ["--data.root", str(places_root), *SMALL, "--trainer.max_epochs", "1", "--model.partition", "cells.npz"]
    assert main(["fit", *given, "--trainer.enable_progress_bar", "false"]) == 0
    best = last_run(capsys) / "checkpoints" / "best.ckpt"
    assert (
        main(["partition", "--root", str(places_root), "--out", "other.npz", "--max_photos", "4", "--min_photos", "1"])
        == 0
    )
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(best), "--model.partition", "other.npz"]) == 2
    assert "--model.partition is other.npz, but the checkpoint was trained for" in capsys.readouterr().err
    Path("cells.npz").unlink()
    assert main(["test", "--ckpt_path", str(best)]) == 0  # the checkpoint holds its cells


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--data.root", "missing"], "--data.root missing does not exist"),
        (["fit", "--data.root", "{root}", *SMALL], "12 photographs make 0 cells"),
        (["fit", "--data.root", "{root}", "--model.partition", "no.npz"], "no.npz does not exist"),
        (["fit", "--data.root", "{root}", *CELLS, "--model.max_photos", "0"], "--model.max_photos is 0"),
        (["fit", "--data.root", "{root}", *CELLS, "--model.min_photos", "9"], "--model.min_photos is 9"),
        (["fit", "--data.root", "{root}", *CELLS, "--model.tau_km", "-1"], "--model.tau_km is -1"),
        (["test", "--ckpt_path", "{best}", "--model.points", "centre"], "--model.points is centre"),
        (["test", "--ckpt_path", "no.ckpt"], "no.ckpt does not exist"),
        (["predict", "--ckpt_path", "{best}", "--source", "no.jpg"], "there is no such file"),
        (["predict", "--ckpt_path", "{best}", "--source", "x", "--top_k", "0"], "--top_k 0"),
        (["predict", "--ckpt_path", "{best}"], "name pictures to locate with --source"),
        (["partition", "--csv", "no.csv", "--out", "p.npz"], "no.csv"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(args, message, best, places_root, capsys):
    refused(main, [arg.format(root=places_root, best=best) for arg in args], message, capsys)
