"""A whole sixth task, how many discs are in an image, with one head and one reader: the contracts ask for no more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from data.folders import list_images
from data.module import WholeImageDataModule
from data.records import Records
from data.splits import assign_splits
from tasks.commands import main
from tasks.head import Head
from tasks.module import TaskModule
from tasks.pooled import PooledLinear
from tasks.predict import Described, PredictCommand, Started
from tasks.predictor import Predictor


def read(root: Path) -> Records:
    """Images called <count>_<name>.png."""
    names = list_images(root)
    counts = np.array([int(name.partition(b"_")[0]) for name in names.tolist()], np.float32)
    return Records(root, names, {"counts": counts})


class CountingDataModule(WholeImageDataModule):
    targets = ("counts",)

    def read(self) -> Records:
        return assign_splits(read(self.root), source=self.root, **self.split_options)


class CountingHead(Head):
    monitor, mode = "mae", "min"
    headline = {"mae": "mean absolute error"}  # noqa: RUF012

    def __init__(self, channels):
        super().__init__()
        self.layers = PooledLinear(channels, 1)

    def forward(self, maps):
        return self.layers(maps)[:, 0]

    def loss(self, outputs, batch):
        return {"counts": F.smooth_l1_loss(outputs, batch["counts"])}

    def update(self, outputs, batch):
        self.predictions.add(batch["positions"], outputs.float().cpu().numpy())

    def compute(self, records, split):
        positions, [self.counts], _ = self.predictions.take()
        self.errors = np.abs(self.counts - records["counts"][positions])
        return {"mae": float(self.errors.mean())}

    def report(self, folder, split, data, settings):
        (folder / "worst.txt").write_text(data.file(split, int(self.errors.argmax())))

    def predict(self, outputs, sizes, **options):
        return outputs.tolist()


class CountingModule(TaskModule):
    task = "counting"

    def __init__(self, input_size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.attach(CountingHead(self.trunk.channels))


def start(options, predictor, run):
    return Started(lambda item, size, count, number: Described({"count": count}, f"{count:.1f} discs"))


def run(*args):
    predict = PredictCommand("Count the discs of images.", lambda parser: None, start)
    return main("counting", "Counting.", lambda: (CountingModule, CountingDataModule), predict, args)


@pytest.fixture
def root(tmp_path):
    folder, generator = tmp_path / "discs", np.random.default_rng(0)
    folder.mkdir()
    for i in range(40):
        image = Image.fromarray(generator.integers(90, 130, (48, 48, 3), dtype=np.uint8))
        for place in generator.permutation(9)[: i % 5].tolist():
            x, y = 16 * (place % 3), 16 * (place // 3)
            ImageDraw.Draw(image).ellipse((x + 2, y + 2, x + 13, y + 13), fill=(250, 240, 60))
        image.save(folder / f"{i % 5}_{i:02}.png")
    return folder


@pytest.mark.slow
def test_a_new_task_is_a_head_and_a_reader(root):
    quick = "--data.image_size 48 --data.batch_size 8 --data.num_workers 0 --trainer.max_epochs 4 --model.lr 0.004"
    shown = ["--model.width_mult", "0.25", "--model.warmup_steps", "2", "--data.val_fraction", "0.3"]
    assert run("fit", "--data.root", str(root), *quick.split(), *shown, "--data.augment", "false") == 0
    [best] = Path("runs/counting").glob("2*/checkpoints/best.ckpt")
    scores = torch.load(best, weights_only=True)["callbacks"]
    [smallest] = [float(state["best_model_score"]) for name, state in scores.items() if "val/mae" in name]
    assert run("validate", "--ckpt_path", str(best)) == 0
    validated = sorted(Path("runs/counting").glob("2*/metrics.csv"))[-1].read_text().splitlines()
    assert float(dict(zip(*(line.split(",") for line in validated), strict=True))["val/mae"]) == pytest.approx(smallest)
    assert run("test", "--ckpt_path", str(best)) == 0
    assert run("predict", "--ckpt_path", str(best), "--source", str(root)) == 0
    [file] = Path("runs/counting").glob("2*/predictions.jsonl")
    predicted = {Path(row["file"]).name: row["count"] for row in map(json.loads, file.read_text().splitlines())}
    assert len(predicted) == 40
    counted = Predictor.from_checkpoint(CountingModule, best)(root / "3_23.png")
    assert counted == pytest.approx(predicted["3_23.png"], abs=1e-4)
