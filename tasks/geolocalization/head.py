"""The head of geolocalization: a linear layer over cells of the Earth's surface."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbone.trunk import trunk_words
from data.folders import count_of, say
from data.geotagged import GeotaggedDataModule
from data.records import Records
from tasks.geolocalization import s2
from tasks.geolocalization.cells import Partition, partitions_of
from tasks.geolocalization.decoding import top_cells
from tasks.geolocalization.hierarchy import CellHierarchy, Decode
from tasks.geolocalization.loss import cross_entropy, haversine_labels
from tasks.geolocalization.metrics import Ranks, evaluate, rank_cells
from tasks.head import Head
from tasks.kept import Kept
from tasks.pooled import PooledLinear
from tasks.predictor import check_at_least_1, check_fraction
from tasks.processes import of_all

DRAWN_CELLS = 100  # of an image, the likeliest: what is kept for its map
_DRAWABLE = 20_000  # images of which they are kept, 16 MB; of ten million they would be 8 GB

_LARGE = 3  # a cell above this level of S2's is more than a thousand kilometres across
OWN_IMAGES = 100, 10  # max_images and min_images of configs/geolocalization/own_images.yaml


class Geolocation(NamedTuple):
    """Where one image was taken. The K likeliest cells come best first."""

    latlng: np.ndarray  # (2,) degrees: the prediction
    half_radius_km: float  # within which half of the probability lies
    cells: np.ndarray  # (K,) int64 of the finest partition
    cells_latlng: np.ndarray  # (K, 2) the cells' points
    cells_probability: np.ndarray  # (K,)
    tokens: list[str]  # K names of S2 cells
    probabilities: np.ndarray  # (C,) of all cells of the finest partition


class GeolocalizationHead(Head):
    """Logits of the cells of all levels from pooled features; the outputs of an image may be of several crops.

    `partition` names files of cells, or cells are built from the training images by `max_images` (several numbers make
    a hierarchy), `min_images` and `points`, as `partitions_of` does. `loss_kind` is "cross_entropy" or "haversine",
    whose labels fall off with `tau_km`.
    """

    monitor = "geoscore"
    best_figure = 5000.0
    headline = {  # noqa: RUF012
        "within_25km": "within 25 km",
        "within_750km": "within 750 km",
        "baseline_within_750km": "of the most frequent cell within 750 km",
        "median_km": "median km",
        "geoscore": "GeoScore",
    }
    points: Tensor  # float32 (sum of all C, 3): the cells' unit vectors

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        partition: Sequence[str] = (),
        max_images: Sequence[int] = (10_000,),
        min_images: int = 50,
        points: Literal["mean", "centre"] = "mean",
        bottleneck: int = 0,
        dropout: float = 0.0,
        loss_kind: str = "cross_entropy",
        tau_km: float = 65.0,
        decode: Decode = "best",
    ) -> None:
        super().__init__()
        self.drawable = Kept()  # the likeliest cells, best first, and their probabilities
        self._channels, self._bottleneck, self._dropout = channels, bottleneck, dropout
        self._files, self._cell_options = partition, (max_images, min_images, points)
        self.loss_kind, self.tau_km, self.decode = loss_kind, tau_km, decode
        self._hierarchy: CellHierarchy | None = None
        self.layers = PooledLinear(channels, 1, dropout)  # until the cells are known
        self.register_buffer("points", torch.empty(0, 3), persistent=False)

    @property
    def hierarchy(self) -> CellHierarchy:
        """The cells, known once a fit has started or a checkpoint was loaded."""
        if self._hierarchy is None:
            raise RuntimeError("the cells are not known: call start(data), or load a checkpoint")
        return self._hierarchy

    def take(self, partitions: Sequence[Partition]) -> None:
        """Take these cells, with new layers for them. Raises InputError where they are no hierarchy."""
        self._hierarchy = cells = CellHierarchy(partitions)
        device = self.layers.linear.weight.device
        self.layers = PooledLinear(self._channels, sum(cells.sizes), self._dropout, self._bottleneck)
        self.layers.to(device).train(self.training)
        self.points = torch.from_numpy(np.concatenate([p.points for p in cells.partitions])).float().to(device)

    @property
    def state(self) -> dict[str, Any]:
        """The partitions, from fine to coarse: a checkpoint predicts with nothing else."""
        return {"partitions": [partition.to_dict() for partition in self.hierarchy.partitions]}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        if self._hierarchy is None or self.state != state:  # a checkpoint is asked again when its weights are loaded
            self.take([Partition.from_dict(entries) for entries in state["partitions"]])

    def start(self, data: GeotaggedDataModule) -> None:  # type: ignore[override]  # its own data
        """Build the cells from the training images, or read them. Raises InputError."""
        if self._hierarchy is not None:  # a resumed run
            return
        if self._files:
            self.take([Partition.load(Path(file)) for file in self._files])
        else:
            (max_images, min_images, points), leaves = self._cell_options, s2.leaf_ids(data.train_latlng())
            self.take(partitions_of(leaves, max_images, min_images=min_images, points=points, prefix="--model."))
        for cells in self.hierarchy.partitions:
            levels, kept = s2.levels(cells.ids), cells.counts.sum() / cells.total
            say(
                f"{count_of(len(cells), 'cell')} of {cells.min_images:,} to {cells.max_images:,} images, levels "
                f"{levels.min()} to {levels.max()}, with {kept:.1%} of {count_of(cells.total, 'image')}"
            )
        if not self._files and (advice := _advice(self.hierarchy.finest)):
            say(f"note: {advice}")

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Logits (B, sum of all C), of the levels from fine to coarse."""
        return self.layers(maps)

    def loss(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The sum of the levels' cross-entropies with the cell of `batch["latlng"]`, float64 (B, 2) in degrees.

        After Müller-Budack et al. (2018). Each level has its own mean: an image may have a coarse cell and no fine one.
        """
        cells, latlng = self.hierarchy, batch["latlng"].cpu()
        labels = [torch.from_numpy(p.lookup(latlng.numpy())).to(outputs.device) for p in cells.partitions]
        targets = labels
        if self.loss_kind == "haversine":
            true, points = latlng.float().to(outputs.device), self.points.split(cells.sizes)
            targets = [haversine_labels(true, *level, self.tau_km) for level in zip(points, labels, strict=True)]
        losses = [cross_entropy(*level) for level in zip(outputs.split(cells.sizes, 1), targets, strict=True)]
        return {"cells": torch.stack(losses).sum()}

    def _decode(self, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return self.hierarchy.decode(outputs if outputs.ndim == 3 else outputs[:, None], self.decode)

    def update(self, outputs: Tensor, batch: Mapping[str, Any]) -> None:
        """Keep what is scored and, unless `batch` has a "reported" that is false, what only a report needs."""
        self._keep(*self._decode(outputs), batch)

    def _keep(self, probabilities: np.ndarray, latlng: np.ndarray, batch: Mapping[str, Any]) -> None:
        ranks = rank_cells(probabilities, self.hierarchy.finest.lookup(batch["latlng"].cpu().numpy()))
        reported = batch.get("reported", True)
        radius = self.hierarchy.half_radius_km(probabilities, latlng) if reported else np.full(len(latlng), np.nan)
        small = ranks._replace(rank=ranks.rank.astype(np.int32), best=ranks.best.astype(np.int32))
        # of an image 48 bytes: all probabilities would not fit into memory
        self.predictions.add(batch["positions"], latlng, *small, radius)
        if reported and len(self.drawable) < _DRAWABLE:
            best = top_cells(probabilities, DRAWN_CELLS)
            likeliest = np.take_along_axis(probabilities, best, axis=1).astype(np.float32)
            self.drawable.add(batch["positions"], best.astype(np.int32), likeliest)

    def compute(self, records: Records, split: str) -> dict[str, float]:
        """Distances, GeoScore, accuracy and calibration of the cells, and what the cells allow."""
        self.positions, [latlng, *ranks, self.half_radius_km], _ = self.predictions.take()
        if any(of_all(len(self.drawable))):
            self.likeliest = self.drawable.take()
        truth = records["latlng"][self.positions]
        self.scores = evaluate(latlng, truth, Ranks(*ranks), self.hierarchy.finest)
        return self.scores.figures

    def report(self, folder: Path, split: Any, data: GeotaggedDataModule, settings: Mapping[str, Any]) -> None:
        """Write metrics, tables, maps and a model card."""
        from tasks.geolocalization.report import write_report  # here, as training needs no matplotlib

        positions = self.positions.tolist()
        drawable, [cells, chances], _ = self.likeliest
        rows = np.searchsorted(self.positions, drawable).tolist()
        height, width = settings["input_size"]
        root = data.source or "the built-in sample"
        write_report(
            folder,
            split=split,
            scores=self.scores,
            half_radius_km=self.half_radius_km,
            likeliest=dict(zip(rows, zip(cells, chances, strict=True), strict=True)),
            partition=self.hierarchy.finest,
            files=[data.file(split, position) for position in positions],
            open_image=lambda k: data.image(split, positions[k]),
            model=f"A {trunk_words(settings)} for images of {height} x {width} px.",
            data=f"Scored on {count_of(len(positions), 'image')} of {root}.",
        )

    def drawn(self, image: np.ndarray, result: Geolocation) -> tuple[np.ndarray, str]:
        """The image, and where it is taken to be from."""
        from tasks.geolocalization.maps import position_text  # here, as training needs no matplotlib

        return image, f"{position_text(result.latlng)}\nhalf within {result.half_radius_km:,.0f} km"

    def answer(self, outputs: Tensor) -> dict[str, Tensor]:
        """The finest cells' probabilities (B, C), and the predicted places (B, 2) in degrees."""
        crops = outputs if outputs.ndim == 3 else outputs[:, None]
        probabilities, latlng = self.hierarchy.decode_tensors(crops, self.decode)
        return {"probabilities": probabilities, "latlng": latlng}

    @property
    def answer_facts(self) -> dict[str, Any]:
        """The finest cells' places and names."""
        finest = self.hierarchy.finest
        cells = {"latlng": finest.latlng.round(5).tolist(), "tokens": s2.tokens(finest.ids), "decode": self.decode}
        return {"names": [], "cells": cells}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """As `update`, of a file's probabilities and places."""
        self._keep(answer["probabilities"].numpy(), answer["latlng"].double().numpy(), batch)

    def predict(
        self, outputs: Tensor, sizes: Sequence[tuple[int, int]], top: int = 5, conf: float = 0.0
    ) -> list[Geolocation]:
        """Where each image was taken, with its `top` likeliest cells, those of a probability of `conf` or more."""
        check_at_least_1("top", top)
        check_fraction("conf", conf)
        (probabilities, latlng), finest = self._decode(outputs), self.hierarchy.finest
        best, radius = top_cells(probabilities, top), self.hierarchy.half_radius_km(probabilities, latlng)
        results = []
        for at, km, likeliest, row in zip(latlng, radius, best, probabilities, strict=True):
            cells = likeliest[row[likeliest] >= conf]
            points = finest.latlng[cells], row[cells], s2.tokens(finest.ids[cells])
            results.append(Geolocation(at, float(km), cells, *points, row))
        return results


def _advice(partition: Partition) -> str:
    """What to say of cells that will teach little; empty where they are not so, or as small as advised."""
    large, kept = (partition.counts[s2.levels(partition.ids) < end].sum() / partition.total for end in (_LARGE, 31))
    fault = ""
    if large > 0.5 and partition.max_images > OWN_IMAGES[0]:
        fault = f"{large:.0%} of the images lie in cells of a thousand kilometres and more"
    elif kept < 0.75 and partition.min_images > OWN_IMAGES[1]:
        fault = f"{1 - kept:.0%} of the images lie in no cell, as too few are near them"
    remedy = "; lower --model.max_images and --model.min_images, as configs/geolocalization/own_images.yaml does"
    return fault and fault + remedy
