"""`python -m tasks.face_attributes`."""

import sys
from collections.abc import Sequence
from typing import Any

import tasks.face_attributes
from tasks import commands
from tasks.face_attributes.predict import PREDICT
from tasks.short_options import TaskHelp

_EXPERIMENT = """usage: python -m tasks.face_attributes experiment [options]

Train students of several shapes by one teacher, and the same students on labels, as in the paper's Table 12. It ends
in a table and pictures. What is finished is not done again: the same command goes on after an interruption.

options:
  --teacher T             a .ckpt, or a config to train one first; default: the sample's
  --students S            the shapes, as [{width_mult: 0.5, image_size: 96}]
  --arms A                [distilled], [labels], or both, which is the default
  --steps N               of every student's run
  --config F              the experiment; default: the built-in sample's, experiment_sample.yaml
  --name NAME             of the experiment's folder; default: that of the config
  --out DIR               where run folders go (default: runs)
  --data DIR              your data; default: the built-in sample
  --data.unlabelled DIR   images without labels, which the teacher labels
  --weights F             weights that the students start from
  --batch N; --lr R       of every student
  --workers auto|N        processes that load images
  --device D              auto, cpu, cuda or mps
  --precision P           auto (fastest safe one), bf16-mixed, 32-true, ...
  --logger L              tensorboard, wandb or csv, beside metrics.csv
  --seed S                of order, augmentation and splits (default: 0)
  -h, --help; --help-all  this; all options, their types and defaults

examples:
  python -m tasks.face_attributes experiment
  python -m tasks.face_attributes experiment --teacher runs/face_attributes/TIME/checkpoints/best.ckpt
  python -m tasks.face_attributes experiment --config configs/face_attributes/table12.yaml --data DIR"""

_HELP = TaskHelp(
    "DIR holds attributes.csv of path,attribute,... (1, 0 or empty) with its images, or is CelebA. "
    "`check --data DIR` shows how it is read.",
    {
        "data.attributes NAMES": "learn these alone, as [smiling,glasses]",
        "model.teacher T.ckpt": "learn from the outputs of a larger network",
        "data.unlabelled IMAGES": "a folder of images to ask the teacher for",
    },
    ("fit", "fit --data DIR --weights imagenet --epochs 20", "fit --resume"),
    {"experiment": _EXPERIMENT},
)


def _classes() -> tuple[Any, Any]:
    from data.attributes import AttributesDataModule
    from tasks.face_attributes.module import FaceAttributesModule

    return FaceAttributesModule, AttributesDataModule


def _experiment(args: list[str]) -> int:
    from tasks.face_attributes.experiment import main

    return main(args)


def _check(args: list[str]) -> int:
    from data.layouts import read_attributes
    from tasks.check import main

    return main("face_attributes", read_attributes, args, sample="faces")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; see `python -m tasks.face_attributes --help`."""
    more = {"experiment": ("train students of several shapes by one teacher, as in Table 12", _experiment)}
    return commands.main(
        "face_attributes",
        tasks.face_attributes.__doc__ or "",
        _classes,
        PREDICT,
        args,
        more,
        check=_check,
        of_task=_HELP,
    )


if __name__ == "__main__":
    sys.exit(main())
