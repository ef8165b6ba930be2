import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone.errors import InputError
from data.module import WholeImageDataModule
from data.records import Records
from tasks.distillation.losses import masked_bce
from tasks.distillation.module import DistilledLogitsModule, DistilledModule, check_distillation
from tasks.head import Head
from tasks.pooled import PooledLinear


class FacesDataModule(WholeImageDataModule):
    """conftest's faces: two attributes."""

    targets = ("attributes",)

    def read(self) -> Records:
        rows = [line.split() for line in (self.root / "list_attr_celeba.txt").read_text().splitlines()[2:]]
        splits = [line.split()[1] for line in (self.root / "list_eval_partition.txt").read_text().splitlines()]
        columns = {
            "attributes": np.array([[value == "1" for value in row[1:]] for row in rows], np.int8),
            "split": np.array(splits, np.int8),
        }
        return Records(self.root / "img_align_celeba", np.array([row[0].encode() for row in rows]), columns)


class TinyHead(Head):
    monitor = "teacher"
    headline = {}  # noqa: RUF012
    names = ("disc", "bar")

    def __init__(self, channels, outputs=2):
        super().__init__()
        self.layers = PooledLinear(channels, outputs)
        self.compared = {}

    @property
    def state(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    @state.setter
    def state(self, state):
        self.names = tuple(state["names"])

    def forward(self, maps):
        return self.layers(maps)

    def loss(self, outputs, batch):
        return {"labels": masked_bce(outputs, batch["attributes"])}

    def update(self, outputs, batch):
        teacher = batch.get("teacher", outputs.new_full(outputs.shape, math.nan))
        self.kept.update(zip(batch["positions"].tolist(), teacher.cpu(), strict=True))

    def compute(self, records, split):
        positions, kept = self.take_kept()
        self.compared = dict(zip(positions.tolist(), kept, strict=True))
        return {"teacher": float(torch.stack(kept).mean())}

    def report(self, folder, split, data, settings):
        pass


class Student(DistilledLogitsModule):
    task = "tiny"
    kind = "sigmoid"

    def __init__(self, input_size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.attach(TinyHead(self.trunk.channels))


def build(root, student=Student, **settings):
    names = ("views", "num_workers", "batch_size", "seed")
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "min_crop_area": 0.6}
    data |= {name: settings.pop(name) for name in names if name in settings}
    datamodule = FacesDataModule(root=str(root), **data)
    torch.manual_seed(0)
    return student(datamodule.input_size, **{"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01, **settings}), datamodule


class Losses(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"].item())


@pytest.fixture(scope="module")
def teacher(faces_root, tmp_path_factory):
    """A checkpoint of a net trained for two epochs."""
    folder = tmp_path_factory.mktemp("teacher")
    training = trainer(folder, max_epochs=2)
    training.fit(*build(faces_root))
    training.save_checkpoint(folder / "teacher.ckpt")
    return str(folder / "teacher.ckpt")


def fit(root, folder, **settings):
    losses = Losses()
    student, data = build(root, **settings)
    trainer(folder, callbacks=[losses]).fit(student, data)
    return student.state_dict(), losses.seen


def test_x(faces_root, teacher, tmp_path):
    print(fit(faces_root, tmp_path, teacher=teacher)[1])
    print(fit(faces_root, tmp_path, teacher=teacher, views=2)[1])
    print(fit(faces_root, tmp_path, teacher=teacher, views=2, cache=str(tmp_path / "cache"))[1])
