"""The order of the samples, the seed of each, and the loaders.

Two faults of the stack are cured here by one device, a sampler that yields (epoch, index):
albumentations' generators repeat themselves in every worker and every epoch, so each sample is seeded by
(seed, epoch, index); and Lightning replays the order of epoch 0 in the first epoch after a resume, so the sampler is
built with the epoch it starts in. A run with 2 workers then equals one with 0, and a resumed run an uninterrupted one.
"""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochSampler(DistributedSampler):
    """Yields (epoch, index); with `shuffle` in an order that depends on (seed, epoch) alone.

    With several replicas, a shuffled order (training) is padded from its beginning so that every rank has equally
    many; one that is not shuffled (evaluation) is dealt out without padding, so that nothing is counted twice.
    `start` leaves out that many items of this rank once, in the epoch the sampler is built with: a resume in mid-epoch.
    Its length stays that of a whole epoch, since Lightning counts the batches before `start` as done.
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
    ) -> None:
        super().__init__(range(size), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # only its length is used
        self.size = size
        self.epoch = self.first_epoch = epoch  # set_epoch(), which Lightning calls, is inherited
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
            order = np.resize(order, len(self) * self.num_replicas)  # repeats from the beginning
        else:
            order = np.arange(self.size)
        mine = order[self.rank :: self.num_replicas]
        epoch = self.epoch
        for index in mine[self.start if epoch == self.first_epoch else 0 :].tolist():
            yield epoch, index

    def __len__(self) -> int:
        if self.shuffle:
            return -(-self.size // self.num_replicas)
        return len(range(self.rank, self.size, self.num_replicas))


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 64-bit seed for one sample in one epoch, unrelated between neighbours (numpy's SeedSequence is a hash)."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


def make_loader(
    dataset: Dataset,
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_workers: int,
    collate: Callable[[list[Any]], Any],
    drop_last: bool = False,
) -> DataLoader:
    """The DataLoader of one split. `drop_last` holds only where more than one batch would be left to train on."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last and len(sampler) > batch_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker,
        # One of its own: the loader would otherwise draw from the global generator, and a resumed run, which draws
        # less often, would differ from an uninterrupted one.
        generator=torch.Generator(),
    )


def _start_worker(worker_id: int) -> None:
    """Workers are the parallelism; threads inside them would fight the training step for the same cores.

    Ctrl-C reaches every process of the terminal: the main one alone decides when to stop, and then ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
