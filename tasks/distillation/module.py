"""The modules of students: what a teacher outputs for an image is what the head's outputs are trained towards.

The teacher runs in every step on the very pixels that the student sees, or, for `--data.views` fixed views of
each image, once, and its outputs are cached. It is a plain object, in no checkpoint, optimiser or average of weights.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from backbone.errors import InputError, check_options
from data.folders import say
from tasks.distillation.cache import TeacherCache, fill, manifest_of, read_manifest, verify_some
from tasks.distillation.losses import binary_kl, mse_logits, softmax_kl
from tasks.distillation.teachers import Ensemble, Kind, Teacher, TeacherOption, build_teacher
from tasks.mixing import mix
from tasks.module import TaskModule


class DistilledModule(TaskModule):
    """A module whose head learns a teacher's outputs; a subclass says what they are and how far apart two are.

    `teacher` is the one loaded, or None; `teacher_size` the numbers that it outputs for an image, known after
    `prepare`. In evaluation outside `fit`, and with `compared_in_fit` within it too, `batch["teacher"]` (B, K) is what
    the teacher outputs, where it can be loaded. A head of logits has `names`, those of its outputs.

    Args:
        teacher: A checkpoint (x.ckpt), a program (x.pt, x.pt2), "package.module:function", or a mapping of `source`
            (one of these, torchvision:NAME or timm:NAME), `weights`, `names`, `mean`, `std`, `image_size`, `output`; or
            a list of several (a weighted ensemble). Programs and functions are code, and are run: use what you trust.
            Classes are found by name. Without one, labels alone are learned. One only a checkpoint names is not loaded.
        cache: Folder to cache the teacher's outputs in; needs --data.views.
        cache_only: Take all outputs from the cache; the teacher, where it can be loaded, must be that of the cache.

    """

    kind: ClassVar[Kind]
    compared_in_fit: ClassVar[bool] = False

    def __init__(
        self, *, teacher: TeacherOption = None, cache: str | None = None, cache_only: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.teacher: Teacher | Ensemble | None = None
        self.teacher_size: int | None = None
        self._cache: TeacherCache | None = None
        self._of_validation: dict[int, Tensor] = {}  # in a fit, by position: the images are the same in every epoch

    @property
    def teacher_weight(self) -> float:
        """The teacher's part of the loss; the rest is the labels'."""
        return float(self.hparams["teacher"] is not None or self.hparams["cache_only"])

    def distance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far a batch's outputs are from the teacher's (B, K), as a scalar that is 0 where they match."""
        raise NotImplementedError

    def prepare(self, data: Any) -> None:
        """Also load the teacher and try it on noise, so that one that cannot be used is found now."""
        options = self.hparams
        check_distillation(options, data.hparams["views"])
        if options["cache_only"]:
            self.teacher_size = len(self._names) or read_manifest(options["cache"]).get("outputs", 0)
        elif options["teacher"] is not None:
            self.teacher = self._load_teacher()
            generator = torch.Generator().manual_seed(0)
            noise = torch.randint(256, (2, 3, *data.input_size), generator=generator).to(torch.uint8)
            self.teacher_size = self.teacher(noise, ["of noise, which it was tried on"] * 2).shape[1]
        super().prepare(data)

    @property
    def _names(self) -> tuple[str, ...]:
        head: Any = self.head
        return () if self.kind == "embeddings" else head.names

    def _load_teacher(self) -> Teacher | Ensemble:
        return build_teacher(self.hparams["teacher"], self._names, self.kind)

    def _load_if_available(self, otherwise: str) -> Teacher | Ensemble | None:
        """The teacher; where it cannot be loaded, None, and a line that says what is done `otherwise` and why."""
        try:
            return None if self.hparams["teacher"] is None else self._load_teacher()
        except InputError as error:
            say(f"{otherwise}: {error}")
            return None

    def on_fit_start(self) -> None:
        """Open the teacher's cache, where there is one; compare it with the teacher, and fill it."""
        options, teacher = self.hparams, self.teacher
        self._of_validation, self._cache = {}, None
        if self.teacher_weight == 0:
            return
        if options["cache_only"]:
            teacher = self._load_if_available("the cache is used without being compared with the teacher")
        if teacher is not None:
            teacher.to(self.device)
        if options["cache"]:
            manifest = manifest_of(self.data, self._names, self.teacher_size or 0, getattr(teacher, "digest", None))
            self._cache = TeacherCache(options["cache"], manifest, cache_only=options["cache_only"])
            if teacher is not None:
                verify_some(self._cache, self.data, partial(self._ask, teacher, "train"))
            if self.teacher is not None:
                fill(self._cache, self.data, partial(self._ask, self.teacher, "train"))

    def losses(self, outputs: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Of the teacher and of the labels, by their weights; what has no weight is not computed."""
        weight, losses = self.teacher_weight, {}
        if weight > 0:
            if self._cache is not None:
                targets = self._cache.read(batch["view"].cpu(), batch["positions"].cpu()).to(self.device)
            else:
                targets = self._ask(self.teacher, "train", batch)
            losses["teacher"] = weight * self.distance(outputs, targets)
        if weight < 1:
            losses |= {name: (1 - weight) * loss for name, loss in self.head.loss(outputs, batch).items()}
        return losses

    def _ask(self, teacher: Any, split: Literal["train", "val", "test"], batch: Mapping[str, Any]) -> Tensor:
        files = [self.data.file(split, position) for position in batch["positions"].tolist()]
        return teacher(batch["images"].to(self.device), files)

    def on_validation_start(self) -> None:
        """Outside a fit, load the teacher for a comparison, where it can be loaded."""
        if self.trainer.state.fn == "fit":
            return
        if self.teacher is None:
            self.teacher = self._load_if_available("the teacher's figures are left out")
        if self.teacher is not None:
            self.teacher.to(self.device)

    on_test_start = on_validation_start

    def evaluated(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the teacher's outputs, where it is compared with."""
        in_fit = self.trainer.state.fn == "fit"
        if self.teacher is None or (in_fit and not self.compared_in_fit):
            return batch
        if not in_fit:
            return {**batch, "teacher": self._ask(self.teacher, "test" if self.trainer.testing else "val", batch)}
        positions, cached = batch["positions"].tolist(), self._of_validation
        if any(position not in cached for position in positions):
            cached.update(zip(positions, self._ask(self.teacher, "val", batch).cpu(), strict=True))
        return {**batch, "teacher": torch.stack([cached[position] for position in positions]).to(self.device)}


class DistilledLogitsModule(DistilledModule):
    """A module whose head learns a teacher's logits, labels or both.

    Args:
        teacher_weight: The teacher's part of the loss; the rest is the labels'. At 1, the default with a teacher,
            labels are not used.
        temperature: Softens the probabilities of student and teacher alike in the distillation loss.
        distance: The distillation loss: divergence of the probabilities, or squared error of the logits.
        mixup_alpha: Blend images, for student and teacher alike, by a part drawn from Beta(alpha, alpha).
        cutmix_alpha: The same with rectangles; where both are given they take turns.

    """

    def __init__(
        self,
        *,
        teacher_weight: float | None = None,
        temperature: float = 1.0,
        distance: Literal["kl", "mse_logits"] = "kl",
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)

    @property
    def teacher_weight(self) -> float:
        """The teacher's part of the loss: by default all of it, and without a teacher none."""
        given: float | None = self.hparams["teacher_weight"]
        return super().teacher_weight if given is None or not super().teacher_weight else given

    def distance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The distillation loss of logits (B, K)."""
        if self.hparams["distance"] == "mse_logits":
            return mse_logits(outputs, targets)
        divergence = softmax_kl if self.kind == "softmax" else binary_kl
        return divergence(outputs, targets, self.hparams["temperature"])

    def mix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Mix images, and no labels."""
        images = batch["images"]
        alike = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return {**batch, "images": mix(images, alike, 1, self.hparams["mixup_alpha"], self.hparams["cutmix_alpha"])[0]}


def check_distillation(options: Mapping[str, Any], views: int) -> None:
    """Raise InputError where a module's options contradict each other, or `views` of the data."""
    mixing, unmixed = ("mixup_alpha", "cutmix_alpha"), "0 with a --model.cache, which has no outputs for mixed images"
    values = {"teacher_weight": None, "temperature": 1.0, "distance": "", **dict.fromkeys(mixing, 0.0), **options}
    weight, temperature, cache = values["teacher_weight"], values["temperature"], values["cache"]
    taught = values["teacher"] is not None or (values["cache_only"] and cache)
    rules = [  # an option, whether it is as it must be, and what it must be
        *(
            (name, taught or not values[name], "left out where there is no --model.teacher")
            for name in ("cache", "cache_only", "teacher_weight")
        ),
        ("cache_only", cache or not values["cache_only"], "false without a --model.cache"),
        ("teacher_weight", weight is None or 0 <= weight <= 1, "from 0 (labels alone) to 1 (no labels)"),
        ("temperature", 0 < temperature < math.inf, "above 0; 1 leaves the logits as they are"),
        ("temperature", temperature == 1 or values["distance"] != "mse_logits", "1 with --model.distance mse_logits"),
        ("cache", views > 0 or not cache, "left out where --data.views is 0; give --data.views 8, say"),
        *((name, not (cache and values[name]), unmixed) for name in mixing),
    ]
    check_options("model", *((name, values[name], bool(holds), rule) for name, holds, rule in rules))
