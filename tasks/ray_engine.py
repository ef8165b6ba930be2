"""Ray (https://www.ray.io) as what runs `predict --shards` on a cluster; a shard stays the unit of work.

Each actor keeps its network and does whole shards, decoding in threads of its own, as many as it has CPUs. So no pixels
go from process to process, and what is done is told by the files alone: Ray Data's own checkpoints are for whole
pipelines and still changing, and its actors cost a quarter of the speed (Ray #44905).
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tasks.predict_shards import Network, Outcome, Shard, outcome_of

_TRIES = 3  # of a shard whose actor was killed


class _Worker:
    def __init__(self, make: Callable[[], Network], out: Path, batch: int | None) -> None:
        self._network, self._out, self._batch = make(), out, batch

    def outcome(self, shard: Shard) -> Any:
        return outcome_of(shard, self._network, self._out, self._batch)


def outcomes(
    left: Sequence[Shard], make: Callable[[], Network], out: Path, options: argparse.Namespace
) -> Iterator[Outcome]:
    """What came of each shard, as they are done, on `--workers` actors; of a cluster that RAY_ADDRESS names, or here.

    A killed actor is started again and does its shard again. Raises InputError where Ray is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray; pip install "mobilenet-tasks[ray]".') from error
    root = str(Path(__file__).parents[1])  # which need not be installed on this machine
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--engine ray: no cluster answers ({' '.join(str(error).split())[:200]}).") from error
    try:
        there = ray.cluster_resources()
        count = max(1, min(options.workers, len(left)))
        gpus = there.get("GPU", 0) if options.device != "cpu" else 0
        if count > there.get("CPU", 0):
            raise InputError(f"--workers {count}: there are {there.get('CPU', 0):g} CPUs; give no more workers.")
        actor = ray.remote(_Worker).options(
            num_cpus=max(1, int(there["CPU"] // count)),
            num_gpus=min(1, gpus / count) if gpus else 0,
            max_restarts=-1,
            max_task_retries=_TRIES,
        )
        pool: list[Any] = [actor.remote(make, out.absolute(), options.batch) for _ in range(count)]
        waiting, shards = dict[Any, Any](), iter(left)
        for worker in pool:
            for shard in _next(shards):
                waiting[worker.outcome.remote(shard)] = worker, shard
        while waiting:
            [done], _ = ray.wait(list(waiting))
            worker, shard = waiting.pop(done)
            for following in _next(shards):
                waiting[worker.outcome.remote(following)] = worker, following
            try:
                yield shard, ray.get(done)
            except ray.exceptions.RayActorError:
                yield shard, f"{shard.shown}: the process that predicted it was killed {_TRIES + 1} times"
            except ray.exceptions.RayTaskError as error:
                yield shard, f"{shard.shown}: {' '.join(str(error.cause).split())}"
    finally:
        ray.shutdown()


def _next(shards: Iterator[Shard]) -> list[Shard]:
    return [shard] if (shard := next(shards, None)) else []
