"""What the processes of a run on several devices tell each other."""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from backbone.errors import InputError
from backbone.names import printed
from tasks.failures import explained

Value = TypeVar("Value")

_CONNECT_S = 60.0
_HEARD_S = 3.0  # that a process has to end by itself once another has failed
_GRACE_S = 25.0  # that one has to stop between two steps once its parent is gone
_FIRST = "MOBILENET_TASKS_FIRST_PROCESS"  # in the environment of those that the first one starts
_GONE = "is gone: it was killed, or its machine was."
_END_S = 10.0  # that one waits for the others at its end


def gather(mine: Mapping[Any, Value]) -> dict[Any, Value]:
    """The entries of all processes, sorted by key, on every process; in one process, its own.

    Processes may hold different numbers of entries, none included; one that several hold, as after a sampler that pads
    its shards, counts once.
    """
    shards: list[Any] = [dict(mine)]
    if dist.is_available() and dist.is_initialized():
        shards = [None] * dist.get_world_size()
        dist.all_gather_object(shards, dict(mine))
    merged = {key: value for shard in shards for key, value in shard.items()}
    return {key: merged[key] for key in sorted(merged)}


def agreed(number: int) -> int:
    """The largest `number` of all processes, on every process; in one process, its own."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    device = "cpu" if dist.get_backend() == "gloo" else "cuda"
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def use_devices_of_torchrun(options: Any) -> None:
    """Let the trainer's options be those of the processes that torchrun has started, where they leave it open.

    Without this each of them would train alone. Raises InputError where they contradict it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if options.devices == "auto":
        options.devices, options.num_nodes = local, world // local
    devices = int(options.devices) if str(options.devices).isdecimal() else local
    if devices * options.num_nodes != world:
        raise InputError(
            f"torchrun has started {world} processes, but --trainer.devices {options.devices} and --trainer.num_nodes "
            f"{options.num_nodes} are other numbers of them; leave both out."
        )


def end_with_parent() -> None:
    """Let a process that torchrun or another of the run has started end, as by SIGTERM, when that is gone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
    elif os.environ.get("LOCAL_RANK", "0") != "0":
        parent = int(os.environ.get(_FIRST, os.getppid()))  # it may be gone by now
    else:
        os.environ[_FIRST] = str(os.getpid())
        return
    threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(128 + signal.SIGTERM)


class ShareBadImages(Callback):
    """Let every process know the images that any of them could not read, or not to their end."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note those of all processes. Raises InputError where they are too many."""
        bad_images = trainer.datamodule.bad_images  # type: ignore[attr-defined]
        bad_images.note(gather(bad_images.reasons).items(), gather(bad_images.cut_short).items())


class EndTogether(Callback):
    """Where one of several processes fails or is gone, the others end within seconds, and the first says why.

    Without it the others would wait in their next collective operation, for half an hour. Each process holds a
    connection to the first one: it breaks when a process is gone, whatever ended it, and takes its last sentence
    before. `with` tells the others how the body ended; `kept` gives what to add for the user. In one process, nothing
    is opened.
    """

    def __init__(self, run: Path, kept: Callable[[], str]) -> None:
        self._run, self._kept = run, kept
        self._rank = 0
        self._peers: dict[int, socket.socket] = {}
        self._children: list[Any] = []  # of the first process, where it started the others
        self._ended: set[int] = set()  # peers that have said how they ended, or are gone
        self._heard: tuple[str, int] | None = None  # the sentence and the exit code of who failed first
        self._lock = threading.Lock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect, once the processes can reach each other."""
        if trainer.world_size == 1 or self._peers:
            return
        if self._children:
            trainer.strategy.launcher.procs.clear()  # type: ignore[union-attr]  # Lightning kills them at a signal
        self._rank = trainer.global_rank
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        server = socket.create_server((host, 0)) if self._rank == 0 else None
        offer: Any = (server.getsockname()[:2], secrets.token_hex(16)) if server else None
        address, token = trainer.strategy.broadcast(offer)
        if server:
            server.settimeout(_CONNECT_S)
            while len(self._peers) < trainer.world_size - 1:
                peer, _ = server.accept()
                peer.settimeout(_CONNECT_S)
                rank, said = _read(peer) or (0, "")
                if secrets.compare_digest(str(said), token):  # anyone may connect
                    self._peers[rank] = peer
            server.close()
        else:
            self._peers[0] = socket.create_connection(address, timeout=_CONNECT_S)
            self._tell(0, (self._rank, token))
        for rank, peer in self._peers.items():
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):  # a machine that lost its power breaks no connection: 20 s of silence do
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            threading.Thread(target=self._listen, args=(rank, peer), name="peer", daemon=True).start()

    def observe(self, children: Sequence[Any]) -> None:
        """Look after the processes that this one has just started until they are connected, as one may fail before.

        In place of Lightning's own observer, which kills this process without a word.
        """
        self._children = list(children)
        threading.Thread(target=self._observe, name="observer", daemon=True).start()

    def _observe(self) -> None:
        while not self._peers:
            for rank, child in enumerate(self._children, start=1):
                if code := child.poll():
                    stopped = {-2: 130, -15: 143, 130: 130, 143: 143}.get(code)
                    time.sleep(_HEARD_S)
                    if code < 0 and not stopped:  # or else it has said why itself
                        print(f"error: process {rank} of the run {_GONE}", file=sys.stderr, flush=True)
                    self._end(stopped or max(code, 1))
            time.sleep(0.2)

    def _end(self, code: int) -> None:
        """End this process, whose main thread waits for one that is gone."""
        for child in self._children:
            child.kill()
        with contextlib.suppress(OSError):  # where something is in it
            self._run.rmdir()
        os._exit(code)

    def _listen(self, rank: int, peer: socket.socket) -> None:
        sentence, code = _read(peer) or (f"process {rank} of the run {_GONE}", 1)
        with self._lock:
            self._ended.add(rank)
            if code and self._heard is None:
                self._heard = sentence, code
        if not code:
            return
        for other in self._peers:
            self._tell(other, self._heard)
        time.sleep(_HEARD_S)  # in which the main thread comes to its own end, if it can
        if self._speaks and self._heard and self._heard[0]:
            print(printed(f"error: {self._heard[0]}{self._kept()}"), file=sys.stderr, flush=True)
        self._end(code)

    @property
    def _speaks(self) -> bool:
        """Whether this process says why the run ended: the first, or the second where that is gone."""
        return self._rank == (1 if self._heard and self._heard[0].startswith("process 0 ") else 0)

    def _tell(self, rank: int, message: Any) -> None:
        with contextlib.suppress(OSError):
            self._peers[rank].sendall(f"{json.dumps(message)}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Tell the others; raise what another process failed with, in place of what that has led to here."""
        if not self._peers:
            for child in self._children:
                child.kill()
            return
        if isinstance(error, Exception) and not isinstance(error, InputError):
            self._wait(lambda: self._heard is not None, 2.0)  # a connection that breaks is what is seen first of it
        if isinstance(error, Exception) and self._heard:
            self._leave()
            if self._speaks:
                raise InputError(f"{self._heard[0]}{self._kept()}") from error
            raise SystemExit(self._heard[1]) from None
        message = "", 0
        if isinstance(error, SystemExit | KeyboardInterrupt):
            message = "", int(getattr(error, "code", 130))
        elif error is not None:
            sentence = explained(error)
            message = sentence or f"process {self._rank} failed: {type(error).__name__}: {error}", 2 if sentence else 1
        for rank in self._peers:
            self._tell(rank, message)
        if self._rank and isinstance(error, Exception):
            if message[1] == 1:
                sys.excepthook(type(error), error, trace)
            with contextlib.suppress(Exception):
                dist.destroy_process_group()  # which lets those go that wait for this process
            self._wait(lambda: 0 in self._ended, _END_S)
            raise SystemExit(message[1]) from None
        self._leave()

    def _leave(self) -> None:
        """Wait for the processes that this one has started."""
        self._wait(lambda: all(child.poll() is not None for child in self._children), _END_S)
        for child in self._children:
            child.kill()

    def _wait(self, until: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            time.sleep(0.05)


def _read(peer: socket.socket) -> tuple[Any, Any] | None:
    """The pair that the next line has; None where the connection ends, or says something else."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 1 << 16 and (byte := peer.recv(1)):
            line += byte
        first, second = json.loads(line)
    except (OSError, ValueError, TypeError):
        return None
    return first, second
