"""The processes that torchrun or SLURM has started for one run. No torch."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from backbone.errors import InputError
from backbone.names import printed

_INTERACTIVE = ("bash", "interactive")  # names of jobs in whose shell someone types: what is typed runs alone


class Started(NamedTuple):
    """How many processes were started for a run, on this machine and on how many, and which of them this one is."""

    by: str
    rank: int
    world: int
    local: int
    nodes: int


def started() -> Started | None:
    """The processes that torchrun or, where it has not, `srun` has started; None where this one stands alone.

    Raises InputError where the machines have different numbers of them.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:  # also within a job of SLURM
        world, local = int(given["WORLD_SIZE"]), int(given["LOCAL_WORLD_SIZE"])
        nodes = int(given.get("GROUP_WORLD_SIZE", world // local))
        found = Started("torchrun", int(given.get("RANK", 0)), world, local, nodes)
    # only srun numbers what it starts: the shell of an allocation has no SLURM_PROCID
    elif {"SLURM_NTASKS", "SLURM_PROCID"} <= given.keys() and given.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        world, nodes = int(given["SLURM_NTASKS"]), int(given.get("SLURM_NNODES", 1))
        local = int(given.get("SLURM_NTASKS_PER_NODE", world // nodes))
        found = Started("SLURM", int(given["SLURM_PROCID"]), world, local, nodes)
    else:
        return None
    if local * nodes != world:
        option = "--nproc_per_node" if found.by == "torchrun" else "--ntasks-per-node"
        raise InputError(
            f"{found.by} has started {world} processes on {nodes} machines, and {local} of them on this one; give all "
            f"machines the same number, by {option}."
        )
    return found


def is_first() -> bool:
    """Whether this process stands alone, or is the first of those that were started."""
    found = started()
    return found is None or found.rank == 0


def use_started_devices(options: Any) -> None:
    """Let the trainer's options be those of the processes that were started, where they leave it open.

    Without this each of torchrun's would train alone. Raises InputError where they contradict it.
    """
    found = started()
    if found is None:
        return
    if options.devices == "auto":
        options.devices, options.num_nodes = found.local, found.nodes
    devices = int(options.devices) if str(options.devices).isdecimal() else found.local
    if (devices, options.num_nodes) != (found.local, found.nodes):
        raise InputError(
            f"{found.by} has started {found.world} processes, but --trainer.devices {options.devices} and "
            f"--trainer.num_nodes {options.num_nodes} are other numbers of them; leave both out."
        )
    if found.by == "SLURM":
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(found.local))  # Lightning asks for it


def job_step() -> str | None:
    """The job of SLURM and its step that this process is of, as "1234.0": the same when it is queued again."""
    found = started()
    job = os.environ.get("SLURM_JOB_ID", "")
    if found is None or found.by != "SLURM" or not job.isdecimal():
        return None
    return f"{job}.{os.environ.get('SLURM_STEP_ID', '0')}"


def queued_again() -> bool:
    """Whether SLURM runs this job once more, after it was stopped or its machine was lost."""
    return job_step() is not None and int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def queue_again() -> str:
    """Ask SLURM to run this job once more; a sentence of what came of it."""
    import subprocess

    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
    if array:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        return f"the job {job} is not queued again ({problem}); submit it again, with --resume"
    return f"the job {job} is queued again, and goes on with this run"


class _TimeIsOver(KeyboardInterrupt):
    """SIGUSR1, which SLURM can send before a job's time is over."""


@contextlib.contextmanager
def queued_again_when_told() -> Iterator[None]:
    """Within a job of SLURM, let SIGUSR1 end the process by SystemExit, and its first process queue the job again.

    It is for the time before training, in which data are read and weights fetched; while training, runs.py listens.
    """
    if job_step() is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise _TimeIsOver

    before = signal.signal(signal.SIGUSR1, receive)
    try:
        yield
    except _TimeIsOver:
        if is_first():
            print(printed(queue_again()), flush=True)
        raise SystemExit(128 + signal.SIGUSR1) from None
    finally:
        signal.signal(signal.SIGUSR1, before)
