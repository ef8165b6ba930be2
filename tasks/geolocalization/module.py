"""Training and evaluation of the net that places photographs: wiring only."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from backbone import InputError
from backbone.errors import check_options
from tasks import steps
from tasks.geolocalization import s2
from tasks.geolocalization.atlas import Answer, Atlas, Located, five_crops
from tasks.geolocalization.cells import MAX_LEVEL, Partition, build_hierarchy
from tasks.geolocalization.loss import haversine_labels, hierarchical
from tasks.geolocalization.metrics import Ranks, evaluate, rank_cells
from tasks.geolocalization.report import write_model_card, write_report
from tasks.mixing import drawing
from tasks.optim import asked_optimizer, check_training, train_unfrozen
from tasks.pooled import PooledClassifier
from tasks.trunk import build_trunk

_OF_CELLS = ("partition", "max_photos", "min_photos", "max_level", "points")  # options that say what the cells are
_LARGE = 3  # a cell above this level of S2's is more than a thousand kilometres across
_OF_OWN_PHOTOS = 100, 10  # max_photos and min_photos of configs/geolocalization/own_photos.yaml


class GeolocalizationModule(LightningModule):
    """A net of C cells of the Earth's surface, and its evaluation.

    Args:
        categories: None; the classes are cells.
        input_size: (height, width) in pixels; the data say it.
        width_mult: The paper's width multiplier, any number above 0; by default that of `weights`, or 1.
        weights: Weights to start the trunk from: timm's, Keras', Hugging Face's, or a checkpoint of this project.
        numerics: Padding, epsilon, activation, mean and std; they come along with `weights` or a checkpoint.
        partition: File of cells that the `partition` command wrote, or several of a hierarchy; by default cells are
            built from the training photographs.
        max_photos: A cell of more photographs is split. Several numbers make a hierarchy, which is learned together.
        min_photos: A cell of fewer is dropped, with its photographs.
        max_level: Of S2's, from which on no cell is split; 18 is 35 m across.
        points: A cell's answer is the mean direction of its photographs, or its centre.
        bottleneck: Rank of the last layer's matrix; 0 is full. At 256, 26,263 cells take 10 M parameters, not 30 M.
        dropout: Of the pooled features.
        loss: Cross-entropy with the cell (the paper's), or with labels that fall off with the distance (haversine).
        tau_km: How fast those fall off, in km.
        answer: The best cell; the best by the product down the hierarchy; or the mean place around that.
        mode_radius_km: How far around the best cell that mean goes.
        optimizer: RMSprop is the paper's; AdamW needs the fewest steps on small data.
        lr: Learning rate at its height.
        weight_decay: Never on norms, biases and depthwise filters.
        warmup_steps: Steps in which the rate rises; a fifth of the run at most.
        trunk_lr_mult: The trunk's rate as a multiple of `lr`; 0 freezes it with its norms.
        ema_decay: Of the average of the weights, which is what is validated and saved; 0 keeps the last.

    """

    monitor = "val/geoscore"
    headline = {  # noqa: RUF012
        "within_25km": "within 25 km",
        "within_750km": "within 750 km",
        "baseline_within_750km": "of the most frequent cell within 750 km",
        "median_km": "median km",
        "geoscore": "GeoScore",
    }

    def __init__(
        self,
        categories: dict[int, str],
        input_size: tuple[int, int],
        width_mult: float | None = None,
        weights: str | None = None,
        numerics: dict[str, Any] | None = None,
        partition: str | list[str] | None = None,
        max_photos: int | list[int] = 10_000,
        min_photos: int = 50,
        max_level: int = MAX_LEVEL,
        points: Literal["mean", "centre"] = "mean",
        bottleneck: int = 0,
        dropout: float = 0.0,
        loss: Literal["cross_entropy", "haversine"] = "cross_entropy",
        tau_km: float = 65.0,
        answer: Answer = "best",
        mode_radius_km: float = 200.0,
        optimizer: Literal["sgd", "rmsprop", "adamw"] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        trunk_lr_mult: float = 1.0,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_options(
            "model",
            ("bottleneck", bottleneck, bottleneck >= 0, "0 (none) or more"),
            ("tau_km", tau_km, 0 < tau_km < float("inf"), "above 0, and the smaller, the closer to plain labels"),
            ("mode_radius_km", mode_radius_km, mode_radius_km >= 0, "0 or more"),
        )
        check_training(self.hparams)
        trunk, _ = build_trunk(self.hparams)
        self.model = PooledClassifier(trunk, 1, dropout)  # until the cells are known
        self.atlas: Atlas | None = None  # from the training photographs, or the checkpoint
        self._points: list[Tensor] = []  # of each partition, float32 (C, 3) on the device
        self._found: dict[int, np.ndarray] = {}  # what is kept of each photograph's answer, by position in the split
        self.train()

    _data = property(steps.datamodule_of)

    @property
    def _cells(self) -> Atlas:
        if self.atlas is None:
            raise RuntimeError("the cells are not known: call prepare_fit(data), or load a checkpoint")
        return self.atlas

    def prepare_fit(self, data: Any) -> None:
        """Build the cells from the training photographs, or read them. Raises InputError before anything is written.

        Who trains without the command calls this first: an average of the weights starts before a trainer's setup.
        """
        if self.atlas is not None:  # a resumed run
            return
        asked = self.hparams
        if asked["partition"]:
            self._take([Partition.load(Path(path)) for path in _listed(asked["partition"])])
            hint = self._overridden()
        else:
            options = {name: asked[name] for name in ("min_photos", "max_level", "points")}
            places, max_photos = data.train_latlng(), _listed(asked["max_photos"])
            self._take(build_hierarchy(places, max_photos, **options, prefix="--model."))
            hint = _too_few_or_large(self._cells.finest)
        print(_described(self._cells))
        if hint:
            print(f"note: {hint}")

    def _overridden(self) -> str:
        """Which options of the cells were given and are not those of the partition that was read."""
        asked, held = self.hparams, _held(self._cells.partitions)
        default = inspect.signature(type(self)).parameters
        names = [
            f"--model.{name} {asked[name]}"
            for name in _OF_CELLS[1:]
            if asked[name] not in (default[name].default, held.get(name))
        ]
        if not names:
            return ""
        files = " and ".join(map(str, _listed(asked["partition"])))
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not looked at: the cells are {files}'s"

    def _take(self, partitions: Any) -> None:
        asked = self.hparams
        partitions = sorted(partitions, key=len, reverse=True)
        self.atlas = Atlas(partitions, asked["answer"], asked["mode_radius_km"])
        self.model = PooledClassifier(self.model.trunk, sum(self.atlas.sizes), asked["dropout"], asked["bottleneck"])
        self.model.to(memory_format=torch.channels_last)
        self.train(self.training)

    def on_fit_start(self) -> None:
        """Bring the cells' points to the device."""
        self._points = [torch.from_numpy(p.points).float().to(self.device) for p in self._cells.partitions]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; 0 where no image of it could be read."""
        if not steps.any_readable(self, batch):
            return steps.no_loss(self)
        with drawing(self, batch_idx):
            logits = self._cells.split(self.model(batch["images"]))
        return steps.log_loss(self, hierarchical(logits, self._targets(batch["latlng"])), batch)

    def _targets(self, latlng: Tensor) -> list[Tensor]:
        """What each partition's logits are held to: labels (B,), or soft ones (B, C)."""
        labels = [torch.from_numpy(level).to(self.device) for level in self._cells.labels(latlng.numpy())]
        if self.hparams["loss"] == "cross_entropy":
            return labels
        true, tau = latlng.float().to(self.device), self.hparams["tau_km"]
        return [haversine_labels(true, *level, tau) for level in zip(self._points, labels, strict=True)]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep of each answer what is scored: the probabilities themselves would not fit into memory."""
        if not steps.any_readable(self, batch):
            return
        located = self._locate(batch["images"])
        labels = self._cells.finest.lookup(batch["latlng"].numpy())
        radius = self._cells.half_radius_km(located) if self.trainer.state.fn != "fit" else np.zeros(len(labels))
        ranks = rank_cells(located.probabilities, labels)
        rows = np.column_stack([located.latlng, radius, labels, *ranks])  # float64 holds any label exactly
        self._found.update(zip(batch["positions"].tolist(), rows, strict=True))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score the validation photographs."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test photographs."""
        self._score("test")

    def _score(self, split: Literal["val", "test"]) -> None:
        """Log the figures; outside `fit`, write metrics, tables, maps and a model card into the run folder too."""
        found, self._found = steps.gather_answers(self._found, split), {}
        positions, finest = list(found), self._cells.finest
        rows = np.stack(list(found.values()))  # (N, 8)
        latlng, radius, labels = rows[:, :2], rows[:, 2], rows[:, 3].astype(np.int64)
        ranks = Ranks(rows[:, 4].astype(np.int64), rows[:, 5], rows[:, 6].astype(np.int64), rows[:, 7])
        truth = self._data.latlng(split, positions)
        scores = evaluate(latlng, truth, labels, ranks, finest.latlng, finest.counts)
        steps.log_figures(self, split, scores.figures)
        if (folder := steps.report_folder(self)) is None:
            return
        write_report(
            folder,
            split=split,
            scores=scores,
            places=latlng,
            truth=truth,
            half_radius_km=radius,
            partition=finest,
            files=[self._data.file(split, position) for position in positions],
            open_image=lambda i: self._data.photograph(split, positions[i]),
            probabilities=lambda i: self._locate(self._data.pixels(split, positions[i])).probabilities[0],
            extra={"within_half_radius": float((scores.distance_km <= radius).mean())},
        )
        height, width = self.hparams["input_size"]
        write_model_card(
            folder / "model_card.md",
            model=f"A MobileNet of width {self.hparams['width_mult']:g} for pictures of {height} x {width} px.",
            data=f"Scored on {len(positions):,} pictures of {self._data.hparams['root'] or 'the built-in sample'}.",
            licence="",
            split=split,
            scores=scores,
            truth=truth,
            partition=finest,
        )

    @torch.inference_mode()
    def _locate(self, images: Tensor) -> Located:
        """Images uint8 (B, 3, H, W), of the input's size or larger for its crops, to probabilities and places."""
        crops = five_crops(images.to(self.device), self.hparams["input_size"])  # (B, crops, 3, H, W)
        return self._cells.locate(self.model(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]))

    train = train_unfrozen
    configure_optimizers = asked_optimizer
    configure_callbacks = steps.common_callbacks

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is, and keep the cells: it answers with nothing else."""
        checkpoint["task"] = "geolocalization"
        checkpoint["partitions"] = self._cells.to_list()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the cells that the weights were trained for. Raises InputError where others are asked for."""
        if self.atlas is not None and self.atlas.to_list() == checkpoint["partitions"]:
            return
        theirs = [Partition.from_dict(entries) for entries in checkpoint["partitions"]]
        cells = " and ".join(f"{len(partition):,}" for partition in theirs)
        saved, held = checkpoint["hyper_parameters"], _held(theirs)
        for name in _OF_CELLS:
            ours = self.hparams[name]
            if name == "partition":
                if not ours or _holds(ours, theirs, saved[name]):
                    continue
                if ours == saved[name]:
                    raise InputError(
                        f"--model.partition is {ours}, which holds other cells than the {cells} that the checkpoint "
                        "was trained for; move the file away, and the checkpoint's own cells are taken."
                    )
            elif ours == saved[name] or (name in held and _listed(ours) == _listed(held[name])):
                continue
            raise InputError(
                f"--model.{name} is {ours}, but the checkpoint was trained for {cells} cells of another {name} "
                f"({held.get(name, saved[name])}), which it holds; leave it out, or start from its trunk alone with "
                "--model.weights."
            )
        self._take(theirs)


def _holds(paths: str | list[str], partitions: list[Partition], saved: str | list[str] | None) -> bool:
    """Whether files hold these partitions; one that was trained from and is gone does, as a checkpoint needs none."""
    files = [Path(path) for path in _listed(paths)]
    there = [file for file in files if paths != saved or file.exists()]
    digests, theirs = {Partition.load(file).digest for file in there}, {partition.digest for partition in partitions}
    return digests == theirs if len(there) == len(files) else digests <= theirs


def _held(partitions: Sequence[Partition]) -> dict[str, Any]:
    """The options that partitions, which may come from files, were made with."""
    limits, finest = sorted(partition.max_photos for partition in partitions), partitions[0]
    max_photos = limits[0] if len(limits) == 1 else limits
    return {"max_photos": max_photos, "min_photos": finest.min_photos, "max_level": finest.max_level}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _too_few_or_large(partition: Partition) -> str:
    """What to say of cells that will teach little; empty where they are not so."""
    large = partition.counts[s2.levels(partition.ids) < _LARGE].sum() / partition.total
    dropped = 1 - partition.counts.sum() / partition.total
    max_photos, min_photos = _OF_OWN_PHOTOS  # with these already there is nothing to advise
    if large > 0.5 and partition.max_photos > max_photos:
        fault = f"{large:.0%} of the photographs lie in cells of a thousand kilometres and more"
    elif dropped > 0.25 and partition.min_photos > min_photos:
        fault = f"{dropped:.0%} of the photographs lie in no cell, as too few are near them"
    else:
        return ""
    return f"{fault}; lower --model.max_photos and --model.min_photos, as configs/geolocalization/own_photos.yaml does"


def _described(atlas: Atlas) -> str:
    lines = []
    for partition in atlas.partitions:
        levels, kept = s2.levels(partition.ids), partition.counts.sum() / partition.total
        lines.append(
            f"cells: {len(partition):,}, levels {levels.min()} to {levels.max()}, with {kept:.1%} of "
            f"{partition.total:,} photographs"
        )
    return "\n".join(lines)
