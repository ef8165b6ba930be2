"""What the processes of a run on several devices tell each other."""

import contextlib
import dataclasses
import json
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from backbone.errors import InputError
from backbone.names import printed
from tasks.devices import started
from tasks.failures import explained

Value = TypeVar("Value")

_CONNECT_S = 60.0
_MEET_S = 180.0  # that those started on several machines have to import what they need
_PIECE = 4 << 20  # bytes of a value in torch's store, which takes no larger ones than 8 MiB
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
    merged = {key: value for part in of_all(dict(mine)) for key, value in part.items()}
    return {key: merged[key] for key in sorted(merged)}


def of_all(mine: Value) -> list[Value]:
    """What each process has, by its number, on every process; in one process, its own."""
    parts: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
    return parts


def agreed(number: int) -> int:
    """The largest `number` of all processes, on every process; in one process, its own."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    device = "cpu" if dist.get_backend() == "gloo" else "cuda"
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


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


class SameData(Callback):
    """Refuse to train or to score where the processes have not read the same: another copy, another list of it."""

    _compared = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare what this process has read with what the others have. Raises InputError, on every process."""
        if trainer.world_size == 1 or self._compared:
            return
        self._compared = True  # of what is learned since, the last digits may be a machine's own
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = [name for name in ("train", "val", "test") if name in data._splits]
        mine = {f"{name} images": _fingerprint(data.records(name)) for name in splits}
        mine["parts of the head's state"] = _fingerprint(cast(Any, pl_module).head.state)
        everyone = gather({trainer.global_rank: (socket.gethostname(), mine)})
        first_host, first = everyone[0]
        for rank, (host, theirs) in everyone.items():
            for name, (count, digest) in first.items():
                if theirs.get(name, (0, ""))[1] != digest:
                    other = theirs.get(name, (0, ""))[0]
                    raise InputError(
                        f"process {rank} on {host} has other {name} ({other:,}) than process 0 on {first_host} "
                        f"({count:,}); give every machine the same copy of the data and of its lists."
                    )


def _fingerprint(value: Any) -> tuple[int, str]:
    """How many entries a value has, and a digest of all that is in it, but for the folder that it is in."""
    digest = sha256()

    def add(part: Any) -> None:
        if dataclasses.is_dataclass(part):
            part = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        if isinstance(part, Mapping):
            for name in sorted(part, key=str):
                if name not in ("folder", "issues", "notes"):
                    digest.update(f"{name}:".encode())
                    add(part[name])
        elif isinstance(part, torch.Tensor):
            add(part.detach().cpu().numpy())
        elif isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"")
        elif isinstance(part, list | tuple | np.ndarray):
            digest.update(f"{len(part)} of".encode())
            for each in part:
                add(each)
        else:
            digest.update(f"{part!r};".encode())

    add(value)
    return len(value), digest.hexdigest()


class EndTogether(Callback):
    """Where one of several processes fails or is gone, the others end within seconds, and the first says why.

    Without it the others would wait in their next collective operation, for half an hour. Each process holds a
    connection to the first one: it breaks when a process is gone, whatever ended it, and takes its last sentence
    before. `with` tells the others how the body ended; `kept` gives what to add for the user. In one process, nothing
    is opened. Those that torchrun or SLURM has started meet at the beginning of `with`, before anything is read; those
    that Lightning starts in `setup`. `run` is the folder to remove where nothing has come into it.
    """

    run: Path | None = None

    def __init__(self, kept: Callable[[], str]) -> None:
        self._kept = kept
        self._store: Any = None  # torch's, of processes that have met; the first one may serve it
        self._shared = 0  # values that have gone through it
        self._rank = 0
        self._peers: dict[int, socket.socket] = {}
        self._children: list[Any] = []  # of the first process, where it started the others
        self._ended: set[int] = set()  # peers that have said how they ended, or are gone
        self._heard: tuple[str, int] | None = None  # the sentence and the exit code of who failed first
        self._lock = threading.Lock()
        self._said = False  # by one of this process's threads

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect, once the processes can reach each other."""
        if trainer.world_size == 1 or self._peers:
            return
        if self._children:
            trainer.strategy.launcher.procs.clear()  # type: ignore[union-attr]  # Lightning kills them at a signal
        self._rank = trainer.global_rank
        self._connect(trainer.world_size, trainer.strategy.broadcast)

    def _meet(self) -> None:
        """Connect the processes that torchrun or SLURM has started. Raises InputError where some do not come."""
        found = started()
        if found is None or found.world == 1:
            return
        self._rank = found.rank
        if found.by == "SLURM":  # which names the machines, and Lightning the first one's address and port
            cluster = SLURMEnvironment(auto_requeue=False)
            os.environ.update(MASTER_ADDR=cluster.main_address, MASTER_PORT=str(cluster.main_port))
        try:
            place = f"env://?rank={found.rank}&world_size={found.world}"
            self._store = next(dist.rendezvous(place, timeout=timedelta(seconds=_MEET_S)))[0]
            _meetings.append(self._store)
            self._connect(found.world, self.from_first)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"process {found.rank} of {found.world} has not met the others within {_MEET_S:.0f} s; start all of "
                f"them at {os.environ.get('MASTER_ADDR')} by {'srun' if found.by == 'SLURM' else 'torchrun'}."
            ) from error

    def from_first(self, value: Any) -> Any:
        """What the first of the processes that have met gives as `value`, on all of them; in one process, that itself.

        A function is called by the first process alone.
        """
        if self._store is None or self._rank == 0:
            value = value() if callable(value) else value
        if self._store is None:
            return value
        self._shared += 1
        key = f"mobilenet-tasks/{len(_meetings)}/{self._shared}"
        if self._rank == 0:
            data = pickle.dumps(value)
            pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
            for i, piece in enumerate(pieces):
                self._store.set(f"{key}/{i}", piece)
            self._store.set(key, str(len(pieces)))
            return value
        self._store.wait([key], timedelta(seconds=_MEET_S) if self._shared == 1 else timedelta(days=1))
        return pickle.loads(b"".join(self._store.get(f"{key}/{i}") for i in range(int(self._store.get(key)))))

    def _connect(self, world: int, broadcast: Callable[[Any], Any]) -> None:
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        server = _server(host) if self._rank == 0 else None
        offer: Any = ((host, server.getsockname()[1]), secrets.token_hex(16)) if server else None
        address, token = broadcast(offer)
        if server:
            server.settimeout(_CONNECT_S if self._store is None else _MEET_S)
            while len(self._peers) < world - 1:
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
            if self.run is not None:
                self.run.rmdir()
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
        if self._first_to_say and self._heard and self._heard[0]:
            print(printed(f"error: {self._heard[0]}{self._kept()}"), file=sys.stderr, flush=True)
        elif self._said:
            time.sleep(_HEARD_S)  # the main thread is saying it
        sentence = self._heard[0] if self._heard else ""
        _tell_torchrun(sentence)
        self._end(2 if sentence else code)  # as the main thread would

    @property
    def _speaks(self) -> bool:
        """Whether this process says why the run ended: the first, or the second where that is gone."""
        return self._rank == (1 if self._heard and self._heard[0].startswith("process 0 ") else 0)

    @property
    def _first_to_say(self) -> bool:
        with self._lock:
            first, self._said = self._speaks and not self._said, self._said or self._speaks
        return first

    def _tell(self, rank: int, message: Any) -> None:
        with contextlib.suppress(OSError):
            self._peers[rank].sendall(f"{json.dumps(message)}\n".encode())

    def __enter__(self) -> Self:
        try:
            self._meet()
        except InputError as error:
            _tell_torchrun(str(error))
            raise
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
            _tell_torchrun(self._heard[0])
            if self._first_to_say:
                raise InputError(f"{self._heard[0]}{self._kept()}") from error
            raise SystemExit(self._heard[1]) from None
        message = "", 0
        if isinstance(error, SystemExit | KeyboardInterrupt):
            message = "", int(getattr(error, "code", 130))
        elif error is not None:
            sentence = explained(error)
            message = sentence or f"process {self._rank} failed: {type(error).__name__}: {error}", 2 if sentence else 1
        _tell_torchrun(message[0])
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


def _tell_torchrun(sentence: str) -> None:
    """Let what torchrun prints at its end, after all that a process has said, end with this sentence."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and sentence:
        with contextlib.suppress(OSError):
            content = {"message": f"error: {printed(sentence)}", "timestamp": str(int(time.time()))}
            Path(file).write_text(json.dumps(content), "utf-8")


def _server(host: str) -> socket.socket:
    """A server at this address, or where it is that of a gateway, at all addresses."""
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    try:
        return socket.create_server((host, 0), family=family)
    except OSError:
        return socket.create_server(("", 0), family=family)


_meetings: list[Any] = []  # torch's stores, which have to outlive the run: torch's own processes meet there again


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
