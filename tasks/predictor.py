"""Images in, the task's results out: a checkpoint as a function, for Python and for `predict`."""

import collections
import contextlib
import copy
import functools
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from backbone import InputError
from backbone.timm_trunk import reparameterized
from data.images import ImageError, open_image, to_array
from data.transforms import (
    apply_to_image,
    apply_with_boxes,
    build_classification_eval,
    build_detection_eval,
    needed_in_evaluation,
)
from tasks.module import TaskModule

_NO_BOXES = np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros((0, 4))
_MOST_THREADS = 16
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_KEPT_BYTES = 8 * 10**6  # of a decoded image: a larger one is decoded again where it is drawn

OneImage = str | Path | Image | np.ndarray
_ONE = str, Path, Image, np.ndarray, torch.Tensor, bytes, Mapping, io.IOBase  # the last four are refused as an image


class Seen(NamedTuple):
    """What came of one image: its result, or the error that says why it could not be read."""

    item: Any
    size: tuple[int, int]  # (height, width) px as it was decoded
    result: Any
    error: ImageError | None = None
    image: np.ndarray | None = None  # uint8 RGB (H, W, 3), where it was to be kept and is not too large
    seconds: float = 0.0  # in the network and behind it, its share of the batch


class Predictor:
    """`predict(image)`, or a list or an iterator of images: the results of a module's head in the images' own terms.

    `module` is in evaluation mode. An image is resized as in evaluation: its middle, `central_fraction` of the
    side, or with None the whole, squashed to the network's size. A trunk that has a form for inference takes it.
    """

    def __init__(self, module: TaskModule, central_fraction: float | None, interpolation: str = "bilinear") -> None:
        module.trunk = reparameterized(module.trunk)
        self.module = module.eval().to(memory_format=torch.channels_last)
        self.head = module.head
        self._central_fraction, self._interpolation = central_fraction, interpolation
        self.resize_to(module.evaluated_size)
        self.data_options: dict[str, Any] = {}  # those of the data that the checkpoint was trained on
        self.figure = ""  # how good it was, such as "val/map 0.544"; "" where that is not known

    def resize_to(self, size: tuple[int, int]) -> None:
        """Let images be resized to (height, width) px, where this is not what the module is evaluated at."""
        self.size = size
        if self._central_fraction is None:
            self._transform, self.at_least = build_detection_eval(size), None
        else:
            self._transform = build_classification_eval(size, self._central_fraction, self._interpolation)
            self.at_least = needed_in_evaluation(size, self._central_fraction)
        self._of_thread = threading.local()  # transforms hold state while they work

    @classmethod
    def from_checkpoint(cls, module_class: type[TaskModule], path: str | Path, device: str = "auto") -> "Predictor":
        """The predictor of a checkpoint of the module's task, with its EMA weights; or InputError."""
        module, checkpoint = module_class.from_checkpoint(path, device_of(device))
        options = checkpoint["datamodule_hyper_parameters"]
        predictor = cls(module, options.get("central_fraction"), options.get("interpolation", "bilinear"))
        predictor.data_options = options
        predictor.figure = _best_figure(checkpoint, f"val/{module.head.monitor}")
        return predictor

    @property
    def default_batch(self) -> int:
        """How many images the network sees at once, where nothing else is asked for."""
        return 16 if self.module.device.type == "cpu" else 64

    def open(self, image: OneImage) -> np.ndarray:
        """An image as uint8 RGB (H, W, 3), a large JPEG no larger than needed. InputError where it cannot be read."""
        return open_image(image, at_least=self.at_least) if isinstance(image, str | Path) else to_array(image)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of a uint8 RGB (H, W, 3) image: uint8 (height, width, 3)."""
        transform = getattr(self._of_thread, "transform", None)
        if transform is None:
            transform = self._of_thread.transform = copy.deepcopy(self._transform)
        if self._central_fraction is None:
            return apply_with_boxes(transform, image, *_NO_BOXES, seed=0).image
        return apply_to_image(transform, image, seed=0)

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """The same as a batch of one on the network's device: uint8 (1, 3, height, width)."""
        return self._batch([self.resized(image)])

    def _batch(self, resized: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack(resized)).to(self.module.device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), channels last

    @torch.inference_mode()
    def answer(self, resized: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], **options: Any) -> list[Any]:
        """The results of resized images, whose own (height, width) are `sizes`, in one pass of the network."""
        return self.head.predict(self.module(self._batch(resized)), sizes, **options)

    def __call__(self, images: OneImage | Iterable[OneImage], *, batch: int | None = None, **options: Any) -> Any:
        """The result for a path, a PIL image or a uint8 RGB (H, W, 3) array; a list of them for a list of these.

        For any other iterable an iterator of results, in order, which reads a batch or so ahead. `batch` is how many
        the network sees at once; `options` are those of `head.predict`, such as `conf` and `top`. InputError where an
        image cannot be read, which ends an iterator after the results of those before it.
        """
        if batch is not None:
            check_at_least_1("batch", batch)
        if isinstance(images, _ONE) or not isinstance(images, Iterable):
            array = self.open(images)  # type: ignore[arg-type]  # what is no image is refused there
            [result] = self.answer([self.resized(array)], [_size(array)], **options)
            return result
        results = self._results(self.stream(images, batch=batch, **options))
        return list(results) if isinstance(images, Sequence) else results

    @staticmethod
    def _results(seen: Iterable[Seen]) -> Iterator[Any]:
        for one in seen:
            if one.error:
                raise one.error
            yield one.result

    def stream(
        self,
        items: Iterable[Any],
        *,
        batch: int | None = None,
        open_item: Callable[[Any], np.ndarray] | None = None,
        keep: Callable[[np.ndarray], np.ndarray | None] | None = None,
        **options: Any,
    ) -> Generator[Seen]:
        """What came of each item, in order. Threads decode and resize while the network works on the batch before.

        `open_item` gives an item's image, `self.open` where it is None; `keep`, called in the thread too, gives what of
        an image is handed on. At most two batches of images and one for each thread are in memory.
        """
        answer = functools.partial(self.answer, **options)
        return stream(items, open_item or self.open, self.resized, answer, batch or self.default_batch, keep)


def stream(
    items: Iterable[Any],
    open_item: Callable[[Any], np.ndarray],
    resized: Callable[[np.ndarray], np.ndarray],
    answer: Callable[[Sequence[np.ndarray], Sequence[tuple[int, int]]], Sequence[Any]],
    batch: int,
    keep: Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> Generator[Seen]:
    """As `Predictor.stream`, of any network: `answer` gives the results of resized images of these sizes."""

    def prepared(item: Any) -> tuple[Seen, np.ndarray | None]:
        try:
            array = open_item(item)
        except ImageError as error:
            return Seen(item, (0, 0), None, error), None
        return Seen(item, _size(array), None, image=keep(array) if keep else None), resized(array)

    threads = min(_CORES, _MOST_THREADS)
    waiting = collections.deque[Future[tuple[Seen, np.ndarray | None]]]()
    pool, rest = ThreadPoolExecutor(threads, "decode"), iter(items)
    try:
        waiting.extend(pool.submit(prepared, item) for item in itertools.islice(rest, batch + threads))
        while waiting:
            group: list[tuple[Seen, np.ndarray | None]] = []
            while waiting and len(group) < batch:
                group.append(waiting.popleft().result())
                waiting.extend(pool.submit(prepared, item) for item in itertools.islice(rest, 1))
            yield from _seen(group, answer)
    finally:  # not waiting: where garbage is collected, as after an error, a thread that is joined may never end
        pool.shutdown(wait=False, cancel_futures=True)


def _seen(
    group: Sequence[tuple[Seen, np.ndarray | None]],
    answer: Callable[[Sequence[np.ndarray], Sequence[tuple[int, int]]], Sequence[Any]],
) -> Iterator[Seen]:
    start = time.perf_counter()
    read = [(seen.size, resized) for seen, resized in group if resized is not None]
    results = iter(answer([resized for _, resized in read], [size for size, _ in read]) if read else [])
    share = (time.perf_counter() - start) / max(1, len(read))
    for seen, _ in group:
        yield seen if seen.error else seen._replace(result=next(results), seconds=share)


def device_of(word: str) -> str:
    """The device of torch's that a word means: auto, cpu, cuda, cuda:1, mps. InputError where it is not here."""
    if word == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    with contextlib.suppress(RuntimeError, AssertionError, NotImplementedError):
        device = torch.device(word)
        if str(device) == "cpu" or device.type in ("cuda", "mps"):
            torch.zeros(1, device=device)
            return str(device)
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    raise InputError(f"device {word}: torch finds no such device here; give auto, {' or '.join(here)}.")


def kept_if_small(image: np.ndarray) -> np.ndarray | None:
    """The image, where one for each place of the queues fits into memory."""
    return image if image.nbytes <= _KEPT_BYTES else None


def _size(array: np.ndarray) -> tuple[int, int]:
    return array.shape[0], array.shape[1]


def _best_figure(checkpoint: dict[str, Any], monitor: str) -> str:
    """The figure by which the run's best checkpoint was chosen."""
    states = (state for state in checkpoint.get("callbacks", {}).values() if isinstance(state, dict))
    scores = [state.get("best_model_score") for state in states if state.get("monitor") == monitor]
    known = [score for score in scores if score is not None]
    return f"{monitor} {float(known[0]):.3f}" if known else ""


def check_at_least_1(name: str, value: int) -> None:
    """Raise InputError where a number of results, `top`, is below 1."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value}; it must be a whole number, 1 or more.")


def check_fraction(name: str, value: float) -> None:
    """Raise InputError where a threshold, `conf`, is not from 0 to 1."""
    if not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; it must be from 0 to 1.")
