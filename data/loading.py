"""The order of the samples, the seed of each, and the loaders; what all data modules ask of their options.

Two faults of the stack are cured here by one device, a sampler that yields (epoch, index):
albumentations' generators repeat themselves in every worker and every epoch, so each sample is seeded by
(seed, epoch, index); and Lightning replays the order of epoch 0 in the first epoch after a resume, so the sampler is
built with the epoch it starts in. A run with 2 workers then equals one with 0, and a resumed run an uninterrupted one.
"""

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from backbone import scaled_image_size
from backbone.errors import InputError
from data.folders import say

SHARED_MEMORY = Path(
    "/dev/shm"
)  # through which loading processes hand over their batches; Linux alone has it as a folder
TIMEOUT = (
    120  # s without a batch, after which a loading process is given up: one that finds no shared memory says nothing
)
_PREFETCHED = 2  # batches that each loading process is ahead: DataLoader's default
_TARGETS = 16 << 10  # bytes beside an image's pixels: each tensor takes a page of 4 KiB at least
_AGAIN = 1_000_003  # a prime, so that an image that is drawn several times has all of a few fixed views in turn
_TOGETHER, _MIXED = 100, 1000  # of images of 100 kB, 10 MB are read in one go and a worker's order is within 100 MB


class EpochSampler(DistributedSampler):
    """Yields (epoch, index); with `shuffle` in an order that depends on (seed, epoch) alone.

    With several replicas, a shuffled order (training) is padded from its beginning so that every rank has equally
    many; one that is not shuffled (evaluation) is dealt out without padding. Only a rank for which none is left takes
    one that another has too, since without a batch it would sit out what all do together; by index, it counts once.
    `start` leaves out that many items of this rank once, in the epoch the sampler is built with: a resume in mid-epoch.
    Its length stays that of a whole epoch, since Lightning counts the batches before `start` as done.
    `runs`, int64 (S,), are the numbers of items that lie together on a disk: an order then takes them near each other.
    `draws`, float64 (size,), say instead how often an order has each item: so often, rounded up or down at random. One
    that comes again comes with another number for the epoch, _AGAIN higher, and is so augmented in another way.
    """

    # A DistributedSampler so that Lightning does not replace it by one of its own when training on several devices.

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool,
        epoch: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        start: int = 0,
        runs: np.ndarray | None = None,
        draws: np.ndarray | None = None,
    ) -> None:
        super().__init__(range(size), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # only its length is used
        self.size = size
        self.epoch = self.first_epoch = epoch  # set_epoch(), which Lightning calls, is inherited
        self.start = start
        self.runs = runs
        self.draws = draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, mine = np.arange(self.size), self._dealt()
        if self.shuffle:
            generator = np.random.default_rng((self.seed, self.epoch))
            if self.draws is not None:
                order = drawn(self.draws, generator)
            else:
                order = generator.permutation(self.size) if self.runs is None else shuffled_runs(self.runs, generator)
            order = np.resize(order, len(self) * self.num_replicas)  # repeats from the beginning
            if self.runs is not None:  # what lies together is one device's
                mine = slice(self.rank * len(self), (self.rank + 1) * len(self))
        epochs = np.full(len(order), self.epoch)
        if self.draws is not None:
            epochs += _AGAIN * _times_before(order)
        rest = slice(self.start if self.epoch == self.first_epoch else 0, None)
        yield from zip(epochs[mine][rest].tolist(), order[mine][rest].tolist(), strict=True)

    def __len__(self) -> int:
        if self.shuffle:
            return -(-self.size // self.num_replicas)
        return len(range(self.size)[self._dealt()])

    def _dealt(self) -> slice:
        """The part of an order without padding that is this rank's: not empty, unless the order is."""
        return slice(self.rank % (min(self.size, self.num_replicas) or 1), None, self.num_replicas)


def shuffled_runs(runs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order of runs.sum() items, int64, that is random, but reads a disk in pieces of _TOGETHER that lie together.

    Such pieces of the runs, int64 (S,), in any order; of _MIXED items in that order then any before any other.
    """
    starts = np.cumsum(runs) - runs
    pieces = [
        np.arange(first, min(first + _TOGETHER, start + length))
        for start, length in zip(starts.tolist(), runs.tolist(), strict=True)
        for first in range(start, start + length, _TOGETHER)
    ]
    order = np.concatenate([pieces[i] for i in generator.permutation(len(pieces))])
    for start in range(0, len(order), _MIXED):
        generator.shuffle(order[start : start + _MIXED])
    return order


def drawn(draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """N places in random order, int64, each of them as often as `draws`, float64 (N,) of sum N, rounded up or down."""
    order = generator.permutation(len(draws))
    ends = np.cumsum(draws[order])  # a line on which each has a piece as long as its draws, and a mark at every 1
    marks = np.arange(len(draws)) + generator.random()
    return generator.permutation(order[np.searchsorted(ends[:-1], marks, side="right")])


def _times_before(order: np.ndarray) -> np.ndarray:
    """For each place of an order how often its item came before, int64."""
    seen, before = Counter[int](), np.zeros(len(order), np.int64)
    for place, item in enumerate(order.tolist()):
        before[place] = seen[item]
        seen[item] += 1
    return before


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 64-bit seed for one sample in one epoch, unrelated between neighbours (numpy's SeedSequence is a hash)."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


def make_loader(
    dataset: Dataset,
    *,
    seed: int,
    shuffle: bool,
    batch_size: int,
    num_workers: int,
    collate: Callable[[list[Any]], Any],
    trainer: Trainer | None = None,
    runs: np.ndarray | None = None,
    draws: np.ndarray | None = None,
    samples: Sequence[tuple[int, int]] | None = None,
) -> DataLoader:
    """The DataLoader of one split, for this process's share of it; `runs` and `draws` as EpochSampler's.

    With `shuffle` it begins where the trainer stands, and drops a last, smaller batch unless it is the only one. With
    `samples`, (epoch, index), it has these in that order instead, all of them in every process.
    """
    epoch, start = training_position(trainer, batch_size) if shuffle and trainer else (0, 0)
    sampler: Any = samples
    if samples is None:
        sampler = EpochSampler(
            len(dataset),  # type: ignore[arg-type]
            seed=seed,
            shuffle=shuffle,
            epoch=epoch,
            rank=trainer.global_rank if trainer else 0,
            num_replicas=trainer.world_size if trainer else 1,
            start=start,
            runs=runs,
            draws=draws,
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        timeout=TIMEOUT if num_workers else 0,
        collate_fn=collate,
        drop_last=shuffle and len(sampler) > batch_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        # One of its own: the loader would otherwise draw from the global generator, and a resumed run, which draws
        # less often, would differ from an uninterrupted one.
        generator=torch.Generator(),
    )


def training_position(trainer: Trainer, batch_size: int) -> tuple[int, int]:
    """The epoch to train next, and how many samples of it this rank has had: not 0 only after a mid-epoch resume.

    `fit_loop` has its counters back by the time it asks for the loader. A checkpoint saved by a validation at the
    end of an epoch says that the epoch is still running with its last batch done; that is the next one's start.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current  # Any: Lightning annotates a class too general
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    done: int = batches.current.processed
    # Not trainer.current_epoch: that counts completed epochs, one less in a checkpoint saved on_train_epoch_end,
    # and workers draw ahead from the order of the epoch they are given before Lightning corrects it.
    epoch: int = epochs.processed
    if epochs.ready == epochs.processed:  # between two epochs
        return epoch, 0
    if batches.is_last_batch and done == batches.current.ready:
        return epoch + 1, 0
    return epoch, done * batch_size


def input_size(image_size: int | list[int], resolution_mult: float) -> tuple[int, int]:
    """(height, width) in px of a side or [height, width], times the paper's resolution multiplier; or InputError."""
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2:
        raise InputError(f"--data.image_size is {image_size}; give one side in px, or [height, width].")
    return scaled_image_size(sides[0], resolution_mult), scaled_image_size(sides[1], resolution_mult)


def worker_count(num_workers: int | Literal["auto"]) -> int:
    """The number of loading processes: auto is one for each core that this process may use, 8 at most."""
    if num_workers != "auto":
        return num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)  # decoding keeps a fast GPU fed by then, and each has its own copy of the libraries


def fitting_workers(
    num_workers: int | Literal["auto"],
    *,
    batch_size: int,
    image_size: tuple[int, int],
    sizes: Sequence[int],
    processes: int,
) -> int:
    """The number of loading processes whose batches find room in shared memory; auto takes as many as fit, and says so.

    `image_size` is (height, width) in px, `sizes` the numbers of images of the splits that are loaded at the same time,
    and `processes` share a machine. Raises InputError where the number that was asked for does not fit.
    """
    wanted = worker_count(num_workers)
    if not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free

    def needed(workers: int) -> int:
        waiting = (_PREFETCHED + 1) * workers * batch_size  # of a split; and one that is being made
        images = sum(min(waiting, size) for size in sizes)
        return processes * images * (3 * image_size[0] * image_size[1] + _TARGETS)

    fitting = next(workers for workers in range(wanted, -1, -1) if needed(workers) <= free)
    if fitting == wanted:
        return wanted
    found = f"shared memory ({SHARED_MEMORY}) has {_megabytes(free)} free of the {_megabytes(needed(wanted))}"
    if num_workers != "auto":
        raise InputError(
            f"{found} that --data.num_workers {wanted} needs; give --data.num_workers {fitting}, a smaller "
            "--data.batch_size, or more of it (in Docker: docker run --shm-size 1g)."
        )
    say(
        f"{found} that {wanted} loading processes need: loading with --data.num_workers {fitting} "
        "(in Docker, docker run --shm-size 1g gives more)"
    )
    return fitting


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _end_by_the_main_process() -> None:
    """End where SIGTERM comes from the process that has started this one, and no other's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def start_worker(worker_id: int) -> None:
    """Workers are the parallelism; threads inside them would fight the training step for the same cores.

    Ctrl-C reaches every process of the terminal, and SIGTERM from `timeout` or a scheduler every process of the group:
    the main one alone decides when to stop, and then ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which macOS and Windows lack
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_the_main_process, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
