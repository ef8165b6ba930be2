"""Drawn faces whose people are known, and a net of attributes to learn from."""

import pytest
import torch
from helpers import fitted
from torch import nn

from data.attributes import AttributesDataModule
from tasks.face_attributes.module import FaceAttributesModule


@pytest.fixture(scope="session")
def people_root(write_faces, tmp_path_factory):
    """CelebA's layout with a person on every two images, 8 in each split, and 4 more in a folder beside."""
    root = write_faces(tmp_path_factory.mktemp("data") / "people", {"train": 8, "val": 8, "test": 8}, unlabelled=4)
    rows = [f"{i + 1:06}.jpg {i // 2}" for i in range(24)]
    (root / "identity_CelebA.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="session")
def teacher(people_root, tmp_path_factory):
    """A checkpoint of a net of two attributes, 256 pooled features wide.

    So short a training leaves norms whose statistics are not yet those of its images, and features that are alike for
    all of them; they are measured once more.
    """
    folder = tmp_path_factory.mktemp("teacher")
    datamodule = AttributesDataModule(root=str(people_root), image_size=32, batch_size=8, num_workers=0)
    torch.manual_seed(0)
    module = FaceAttributesModule(datamodule.categories, datamodule.input_size, width_mult=0.25, lr=0.01)
    training, _ = fitted(folder, module, datamodule, max_epochs=2)
    training.save_checkpoint(folder / "teacher.ckpt")
    module.train()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # a plain mean
            norm.reset_running_stats()
    with torch.no_grad():
        for batch in datamodule.train_views(0, range(8)):
            module(batch["images"])
    checkpoint = torch.load(folder / "teacher.ckpt", weights_only=True)
    torch.save({**checkpoint, "state_dict": module.state_dict()}, folder / "teacher.ckpt")
    return str(folder / "teacher.ckpt")
