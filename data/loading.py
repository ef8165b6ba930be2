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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torch.utils.data._utils import signal_handling

from backbone import scaled_image_size
from backbone.errors import InputError
from data.folders import say

SHARED_MEMORY = Path("/dev/shm")  # through which processes hand over their batches; Linux alone has it as a folder
TIMEOUT = 120  # s without a batch, after which a loading process is given up: one without shared memory says nothing
_PREFETCHED = 2  # batches that each loading process is ahead: DataLoader's default
_TARGETS = 16 << 10  # bytes beside an image's pixels: each tensor takes a page of 4 KiB at least
_AGAIN = 1_000_003  # a prime, so that an image that is drawn several times has all of a few fixed views in turn
_TOGETHER, _MIXED = 100, 1000  # of images of 100 kB, 10 MB are read in one go and a worker's order is within 100 MB
_GROUP = 4  # shards, of 256 MB each 1 GB: what is held on the local disk while it is trained on, and the next fetched


class EpochSampler(DistributedSampler):
    """Yields (epoch, index); with `shuffle` in an order that depends on (seed, epoch) alone.

    With several replicas, a shuffled order (training) is padded from its beginning so that every rank has equally
    many; one that is not shuffled (evaluation) is dealt out without padding. Only a rank for which none is left takes
    one that another has too, since without a batch it would sit out what all do together; by index, it counts once.
    `start` leaves out that many items of this rank once, in the epoch the sampler is built with: a resume in mid-epoch.
    Its length stays that of a whole epoch, since Lightning counts the batches before `start` as done.
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
        draws: np.ndarray | None = None,
    ) -> None:
        super().__init__(range(size), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # only its length is used
        self.size = size
        self.epoch = self.first_epoch = epoch  # set_epoch(), which Lightning calls, is inherited
        self.start = start
        self.draws = draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, mine = np.arange(self.size), self._dealt()
        if self.shuffle:
            generator = np.random.default_rng((self.seed, self.epoch))
            order = generator.permutation(self.size) if self.draws is None else drawn(self.draws, generator)
            order = np.resize(order, len(self) * self.num_replicas)  # repeats from the beginning
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


class ShardSampler(DistributedSampler):
    """Yields batches, lists of (epoch, index), of items in shards of `sizes`, int64 (S,): each item once an epoch.

    The shards in an order of (seed, epoch) are cut into a part for each rank, equal to within one item, and a part into
    equally many batches, all of `batch_size` or few less: none is padded or dropped. Only where a rank has fewer items
    than batches does it take some that another has too. A rank goes through its part in groups of some shards, each of
    which it needs once; before a group is begun, `ahead` is told the shards of it and of the next.
    `start` and `draws` are as EpochSampler's, but `start` counts batches, and draws are made within a group.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        start: int = 0,
        draws: np.ndarray | None = None,
        ahead: Callable[[list[int]], None] | None = None,
    ) -> None:
        super().__init__(range(int(sizes.sum())), num_replicas, rank, True, seed)  # type: ignore[arg-type]
        self.sizes = sizes
        self.batch_size = batch_size
        self.epoch = self.first_epoch = epoch
        self.start = start
        self.draws = draws
        self.ahead = ahead

    def __len__(self) -> int:
        return -(-int(self.sizes.sum()) // (self.num_replicas * self.batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, last = self._part()
        steps = len(self)
        step = min(self.start, steps) if self.epoch == self.first_epoch else 0
        ends = (np.arange(steps + 1) * (last - first) // max(steps, 1)).tolist()
        skipped, groups, waiting = ends[step], self.groups(), list[tuple[int, int]]()
        for number, group in enumerate(groups):
            count = int((group[:, 2] - group[:, 1]).sum())
            if skipped >= count:
                skipped -= count
                continue
            if self.ahead:
                self.ahead([int(shard) for near in groups[number : number + 2] for shard in near[:, 0]])
            # a generator for each group, so that a resumed epoch can leave groups out
            epochs, order = self._mixed(group, np.random.default_rng((self.seed, self.epoch, self.rank, number)))
            waiting += zip(epochs[skipped:].tolist(), order[skipped:].tolist(), strict=True)
            skipped = begun = 0
            while step < steps and begun + ends[step + 1] - ends[step] <= len(waiting):
                size = ends[step + 1] - ends[step]
                yield waiting[begun : begun + size]
                begun, step = begun + size, step + 1
            waiting = waiting[begun:]

    def groups(self) -> list[np.ndarray]:
        """What this rank goes through, in groups of rows (shard, first, last): last is the item behind the last one.

        A group has at least _GROUP shards and at least _MIXED items, unless nothing more is left.
        """
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[order])
        begins, (first, last) = ends - self.sizes[order], self._part()
        inside = np.maximum(begins, first) < np.minimum(ends, last)
        starts = (np.cumsum(self.sizes) - self.sizes)[order] - begins  # from a place in the order to an item
        rows = np.stack([order, np.maximum(begins, first) + starts, np.minimum(ends, last) + starts], 1)[inside]
        groups, begun, held = [], 0, 0
        for row, count in enumerate((rows[:, 2] - rows[:, 1]).tolist(), 1):
            held += count
            if row - begun >= _GROUP and held >= _MIXED:
                groups.append(rows[begun:row])
                begun, held = row, 0
        return [*groups, rows[begun:]] if begun < len(rows) else groups

    def _part(self) -> tuple[int, int]:
        """The first of this rank's places in the order of all items, and that behind its last: one for each batch."""
        size, steps = int(self.sizes.sum()), len(self)
        first, last = (size * rank // self.num_replicas for rank in (self.rank, self.rank + 1))
        if last - first < steps:
            first = max(min(first, size - steps), 0)
            last = first + min(steps, size)
        return first, last

    def _mixed(self, group: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The epochs and items of a group, int64, in an order that is random, but reads a disk in pieces.

        Pieces of _TOGETHER items in any order; of _MIXED items in that order then any before any other.
        """
        pieces = [
            np.arange(begin, min(begin + _TOGETHER, last))
            for _, first, last in group.tolist()
            for begin in range(first, last, _TOGETHER)
        ]
        order = np.concatenate([pieces[i] for i in generator.permutation(len(pieces))])
        epochs = np.full(len(order), self.epoch)
        if self.draws is not None:
            draws = self.draws[order]
            order = order[drawn(draws * (len(draws) / draws.sum()), generator)]
            return epochs + _AGAIN * _times_before(order), order
        for begin in range(0, len(order), _MIXED):
            generator.shuffle(order[begin : begin + _MIXED])
        return epochs, order


@dataclass(eq=False)
class _InBatches(Dataset):
    """The samples of a whole batch at once, as a sampler of batches asks for them."""

    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, items: list[Any]) -> list[Any]:
        return [self.samples[item] for item in items]


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
    timeout: float | None = None,
) -> DataLoader:
    """The DataLoader of one split, for this process's share of it; `draws` as EpochSampler's.

    With `shuffle` it begins where the trainer stands, and drops a last, smaller batch unless it is the only one. With
    `runs`, the numbers of images in each shard, int64 (S,), it has the batches of ShardSampler.
    With `samples`, (epoch, index), it has these in that order instead, all of them in every process.
    A loading process that gives nothing for `timeout` s, by default TIMEOUT, is given up.
    """
    epoch, start = training_position(trainer, batch_size if runs is None else 1) if shuffle and trainer else (0, 0)
    of_trainer: dict[str, Any] = {"rank": trainer.global_rank, "num_replicas": trainer.world_size} if trainer else {}
    sampler: Any = samples
    if runs is not None:
        sampler = ShardSampler(
            runs, batch_size=batch_size, seed=seed, epoch=epoch, start=start, draws=draws, **of_trainer
        )
    elif samples is None:
        sampler = EpochSampler(
            len(dataset),  # type: ignore[arg-type]
            seed=seed,
            shuffle=shuffle,
            epoch=epoch,
            start=start,
            draws=draws,
            **of_trainer,
        )
    batches: dict[str, Any] = {"batch_size": batch_size, "drop_last": shuffle and len(sampler) > batch_size}
    if runs is not None:  # no `batch_sampler`: Lightning knows nothing of it, and would neither tell it the epoch
        dataset, batches = _InBatches(dataset), {"batch_size": None}
    hear_of_killed_workers()
    return DataLoader(
        dataset,
        **batches,
        sampler=sampler,
        num_workers=num_workers,
        timeout=(timeout or TIMEOUT) if num_workers else 0,
        collate_fn=collate,
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


def hear_of_killed_workers() -> None:
    """Let the loss of a loading process be an error at once, not after TIMEOUT, also in what follows a fit.

    torch listens from its first loader on, and once. A trainer that began before it takes that away at its end.
    """
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False
        signal_handling._set_SIGCHLD_handler()


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
