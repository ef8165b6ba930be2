"""What a module does with its teacher: asks it, online or out of a cache that is filled first, and weighs its loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from backbone.errors import InputError, check_options
from data.folders import say
from tasks.distillation.cache import Manifest, TeacherCache, fill, keys_digest
from tasks.distillation.losses import binary_kl, mse_logits, softmax_kl
from tasks.distillation.teachers import Ensemble, Teacher, load_teacher

TeacherOption = str | list[dict[str, Any]] | None
Found = TypeVar("Found")

Probabilities = Literal["softmax", "sigmoid"]  # one class of all, or yes and no for each


class Distiller:
    """The teacher of a module whose answers are logits, one for each of `names`: checked, loaded, asked and weighed.

    `options` are the module's, `input_size`, `teacher`, `teacher_weight`, `temperature`, `distance`, `cache` and
    `cache_only` among them. Without a teacher labels are all there is. Plain, so that a teacher is in no checkpoint, no
    optimizer and no average of weights.
    """

    def __init__(self, options: Mapping[str, Any], names: Sequence[str], probabilities: Probabilities) -> None:
        temperature = options["temperature"]
        rule = "above 0; 1 leaves the logits as they are"
        check_options("model", ("temperature", temperature, 0 < temperature < math.inf, rule))
        self._options = options
        self._names = tuple(names)
        self._probabilities: Probabilities = probabilities
        self.teacher: Teacher | Ensemble | None = None
        self._lessons: Lessons | None = None
        self._compares = False

    def __deepcopy__(self, memo: dict) -> "Distiller":
        return self

    @property
    def teaches(self) -> bool:
        """Whether a teacher's answers, kept or not, are asked for."""
        return self._options["teacher"] is not None or self._options["cache_only"]

    @property
    def weight(self) -> float:
        """The teacher's part of the loss: by default all of it, and without a teacher none."""
        asked: float | None = self._options["teacher_weight"]
        return float(self.teaches) if asked is None or not self.teaches else asked

    def prepare(self, views: int) -> None:
        """Load and try the teacher for a fit, before anything is written; `views` are the data's. Raises InputError."""
        check_lessons(self._options, views)
        if self.teacher is None and not self._options["cache_only"]:
            self.teacher = self._build()
            if self.teacher is not None:
                count_answers(self.teacher, self._options["input_size"])

    def _build(self) -> Teacher | Ensemble | None:
        return build_teacher(self._options["teacher"], self._names, self._probabilities)

    def start(self, data: Any, device: torch.device) -> None:
        """Have the answers at hand that a fit will need: fill the cache, where there is one."""
        self._compares = False
        if self.weight == 0:
            return
        cache = {name: self._options[name] for name in ("cache", "cache_only")}
        teacher = at_hand(self._build, NOT_COMPARED) if cache["cache_only"] else self.teacher
        self._lessons = Lessons(teacher, len(self._names), data, device, names=self._names, **cache)

    def weigh(
        self, batch: Mapping[str, Any], images: Tensor, logits: Tensor, of_labels: Callable[[], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `logits` (B, K) on `images`, uint8 (B, 3, H, W), and its parts by the names they are logged by.

        What has no weight is not computed: neither the teacher's answers nor the loss `of_labels`.
        """
        weight = self.weight
        parts, loss = {}, logits.new_zeros((), dtype=torch.float32)
        if weight > 0:
            assert self._lessons is not None  # start() was called
            parts["train/loss_teacher"] = self._distance(logits, self._lessons(batch, images))
            loss = loss + weight * parts["train/loss_teacher"]
        if weight < 1:
            parts["train/loss_labels"] = of_labels()
            loss = loss + (1 - weight) * parts["train/loss_labels"]
        return loss, parts

    def compare(self, device: torch.device) -> None:
        """Load the teacher for an evaluation, or say why it cannot be had."""
        if self.teacher is None:
            self.teacher = at_hand(self._build, "without the teacher's figures")
        if self.teacher is not None:
            self.teacher.to(device)
            self._compares = True

    def beside(self, images: Tensor, logits: Tensor, files: Sequence[str]) -> np.ndarray:
        """Logits (B, K) of an evaluation, float32 (B, 1, K), or (B, 2, K) with the teacher's after `compare`.

        `files` name the images where an answer is not finite.
        """
        both = [logits.float()]
        if self._compares and self.teacher is not None:
            both.append(self.teacher(images, files))
        return torch.stack(both, 1).cpu().numpy()

    def _distance(self, logits: Tensor, answers: Tensor) -> Tensor:
        if self._options["distance"] == "mse_logits":
            return mse_logits(logits, answers)
        divergence = softmax_kl if self._probabilities == "softmax" else binary_kl
        return divergence(logits, answers, self._options["temperature"])


def build_teacher(
    asked: TeacherOption, names: Sequence[str], probabilities: Probabilities
) -> Teacher | Ensemble | None:
    """The teacher that `--model.teacher` names, with an answer for each of `names`; None where it names none.

    A text is a source of `load_teacher`. A list has a mapping of `load_teacher`'s arguments for each teacher, and
    `share`, its weight among them (1 by default). Raises InputError where one cannot be loaded or does not know a name.
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        return load_teacher(asked).matched(names)
    teachers, shares = [], []
    for options in asked:
        given = dict(options)
        try:
            shares.append(float(given.pop("share", 1.0)))
            teachers.append(load_teacher(**given).matched(names))
        except InputError:  # a ValueError as well
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"--model.teacher has {options}, which cannot be read: {error}.") from error
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers, probabilities, shares)


NOT_COMPARED = "the cache is taken as it is"


def at_hand(load: Callable[[], Found], without: str) -> Found | None:
    """What `load` gives; where it raises InputError, None, and a line that says why after what is then `without`."""
    try:
        return load()
    except InputError as error:
        say(f"{without}: {error}")
        return None


def count_answers(teacher: Teacher | Ensemble, input_size: tuple[int, int]) -> int:
    """How many numbers it answers a picture of (height, width) px with: it is asked about two pictures of noise.

    Raises InputError where it cannot answer, which so is found before anything is written.
    """
    noise = torch.randint(256, (2, 3, *input_size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return teacher(noise, ["of noise, which it was tried on"] * 2).shape[1]


class Lessons:
    """A teacher's answers to training batches, K each, in order for `names`; plain, so that it is in no checkpoint.

    Without `cache` the teacher is asked about the very pixels that the student sees. With one, it is asked once about
    each of the data's fixed views (`--data.views`), and what it said is read from then on. With `cache_only` there must
    be nothing left to ask; where it is given all the same, the cache must be its own, as some of the answers show.
    """

    def __init__(
        self,
        teacher: Teacher | Ensemble | None,
        answers: int,
        data: Any,
        device: torch.device,
        *,
        names: Sequence[str] = (),
        cache: str | None = None,
        cache_only: bool = False,
    ) -> None:
        self._data = data
        self.teacher = None if teacher is None or cache_only else teacher.to(device)
        self._cache = None
        if cache:
            manifest = Manifest(
                None if teacher is None else teacher.digest,
                data.train_view_transform_id(),
                keys_digest(keys := data.train_keys()),
                keys_digest(names),
                data.hparams["views"],
                len(keys),
                answers,
            )
            self._cache = TeacherCache.open(cache, manifest, cache_only=cache_only)
            if teacher is not None:
                self._verify(self._cache, teacher.to(device), device)
            if self.teacher is not None:
                self._complete(self._cache, self.teacher, device)

    def __call__(self, batch: Mapping[str, Any], images: Tensor) -> Tensor:
        """Its answers, float32 (B, K), about a batch's `images` uint8 (B, 3, H, W)."""
        if self._cache is not None:
            return self._cache.read(batch["view"].cpu(), batch["positions"].cpu()).to(images.device)
        assert self.teacher is not None  # without a cache there is one
        return self.teacher(images, self._files(batch["positions"]))

    def __deepcopy__(self, memo: dict) -> "Lessons":
        return self  # an average of the student's weights needs no second teacher

    def _files(self, positions: Tensor) -> list[str]:
        return [self._data.file("train", position) for position in positions.tolist()]

    def _verify(self, cache: TeacherCache, teacher: Teacher | Ensemble, device: torch.device) -> None:
        """Compare some of what is kept with the teacher's answers of now."""
        for view, position in zip(*cache.sample(), strict=True):
            for batch in self._data.train_views(int(view), [int(position)]):
                if len(batch["images"]):
                    answers = teacher(batch["images"].to(device), self._files(batch["positions"]))
                    cache.verify(view, position, answers)

    def _complete(self, cache: TeacherCache, teacher: Teacher | Ensemble, device: torch.device) -> None:
        """Ask for what is missing."""
        data, views = self._data, self._data.hparams["views"]
        together = dist.is_available() and dist.is_initialized()
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        # By the picture, as this list is shorter for a process that comes after another has begun to write.
        missing = {view: (rows := cache.missing(view))[rows % ranks == rank] for view in range(views)}

        def batches() -> Any:
            for view, positions in missing.items():
                if not len(positions):
                    continue
                answered = [np.zeros(0, np.int64)]
                for batch in data.train_views(view, positions.tolist()):
                    data.bad_images.note(batch["bad"])
                    answered.append(batch["positions"].numpy())
                    yield batch["view"], batch["positions"], batch["images"].to(device)
                cache.skip(view, np.setdiff1d(positions, np.concatenate(answered)))

        total = sum(map(len, missing.values()))
        fill(cache, teacher, batches(), total=total, file=lambda position: data.file("train", position))
        if together:
            dist.barrier()


def check_lessons(options: Mapping[str, Any], views: int) -> None:
    """Raise InputError where the options of a teacher contradict each other, or `views` of the data."""
    teacher, weight, cache = options["teacher"], options["teacher_weight"], options["cache"]
    if teacher is None and not (options["cache_only"] and cache):
        for name in ("cache", "cache_only", "teacher_weight"):  # a config may hold these, and the command the teacher
            if options[name]:
                raise InputError(
                    f"--model.{name} is {options[name]}, but there is no --model.teacher to ask; name one."
                )
    if options["distance"] == "mse_logits" and options["temperature"] != 1:
        raise InputError(
            f"--model.temperature is {options['temperature']}, but the squared error of logits (--model.distance "
            "mse_logits) has none; leave one of them out."
        )
    if options["cache_only"] and not cache:
        raise InputError("--model.cache_only is true, but there is no --model.cache; name the folder.")
    if weight is not None and not 0 <= weight <= 1:
        raise InputError(f"--model.teacher_weight is {weight}; it must be from 0 (labels alone) to 1 (no labels).")
    if cache and views < 1:
        raise InputError(
            "--model.cache keeps answers for fixed views of each picture, but --data.views is 0, a new view every "
            "epoch; give --data.views 8, say."
        )
    for name in ("mixup_alpha", "cutmix_alpha"):
        if cache and options.get(name, 0) > 0:
            raise InputError(
                f"--model.{name} is {options[name]}, but a --model.cache has no answers about mixed pictures; leave "
                "one of them out."
            )
