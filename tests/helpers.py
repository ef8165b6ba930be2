"""What several test files use."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import resource
import runpy
import signal
import socket
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback
from PIL import Image
from scipy.io import savemat
from torch import nn

from backbone.errors import InputError
from tasks.runs import AtomicCheckpointIO


def trainer(folder, **settings):
    settings = {"max_epochs": 4, "limit_val_batches": 0, "logger": False, "enable_checkpointing": False, **settings}
    settings.setdefault("enable_progress_bar", False)
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO()],
        **settings,
    )


def fitted(folder, module, data, ckpt_path=None, **settings):
    """Fit the module; the trainer that did, and the loss of every step."""
    losses = []
    note = LambdaCallback(on_train_batch_end=lambda trainer, module, outputs, *_: losses.append(outputs["loss"].item()))
    training = trainer(folder, callbacks=[note], **settings)
    training.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return training, losses


def busy(module):
    """The module with norms and layers that are not as new, so that a mistake in folding them shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for name, low, high in (("weight", 0.5, 1.5), ("bias", -1, 1), ("running_var", 0.5, 2.0)):
                    getattr(part, name).uniform_(low, high, generator=generator)
                part.running_mean.uniform_(-1, 1, generator=generator)
            if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.bias is not None):
                part.weight.normal_(0, 0.3, generator=generator)
    return module.eval()


def save_checkpoint(path, module, data):
    """A checkpoint as `fit` writes it, of a net that was not trained."""
    content = {
        "hyper_parameters": dict(module.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
        "state_dict": module.state_dict(),
        "global_step": 0,
        "pytorch-lightning_version": "2.6.6",
    }
    module.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def fit_eager_and_compiled(build, folder, monkeypatch):
    """Fit what `build(compile=...)` gives both ways, and compare."""
    calls, compile_by = [], torch.compile

    def quickly(function):  # inductor takes a minute, and what is traced and kept is the same for all backends
        made = compile_by(function, backend="eager")
        return lambda images: calls.append(len(images)) or made(images)

    monkeypatch.setattr(torch, "compile", quickly)
    states = []
    for compile in (False, True):
        torch.compiler.reset()
        module, data = build(compile=compile)
        data.setup("fit")
        module.prepare(data)
        training, _ = fitted(folder, module, data, max_epochs=1, limit_val_batches=1.0)
        assert bool(calls) == compile
        training.save_checkpoint(folder / "compiled.ckpt")
        states.append(torch.load(folder / "compiled.ckpt", weights_only=True)["state_dict"])
    eager, compiled = states
    assert eager.keys() == compiled.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-3)
    module.train()
    for batch, side in ((1, 32), (5, 64)):  # where images cannot be read, and where another size is given
        images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
        maps, expected = module._features(images), module.trunk.features(images)
        assert maps.keys() == expected.keys()
        for stride, each in expected.items():
            torch.testing.assert_close(maps[stride], each, rtol=1e-3, atol=1e-3)
    calls.clear()
    again = type(module).from_checkpoint(folder / "compiled.ckpt")[0]
    with torch.inference_mode():
        again(torch.zeros(2, 3, *data.input_size, dtype=torch.uint8))
    assert not calls  # evaluation is eager


class Save(Callback):
    """Save a checkpoint where asked, and stop there."""

    def __init__(self, path, *, epoch, batch=None):
        self.path, self.epoch, self.batch = path, epoch, batch

    def on_train_epoch_end(self, trainer, pl_module):
        if self.batch is None and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.batch == batch_idx and trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.path)


def same(state, other):
    return all(torch.equal(state[name], other[name]) for name in state if not name.endswith("num_batches_tracked"))


def data_module(kind, root, *stages, **options):
    """The data of a task, of small images, set up for these stages."""
    data = kind(root=root and str(root), **{"image_size": 32, "batch_size": 4, "num_workers": 0, **options})
    for stage in stages:
        data.setup(stage)
    return data


def tree(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(main, args, message, capsys):
    """One sentence on stderr, exit code 2, no traceback and nothing in `runs/`."""
    assert main(args) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert error.startswith("error: ")
    assert "\n" not in error
    assert not Path("runs").exists()


def completed(main, capsys, *args):
    """What a command printed, and the run folder that it names last."""
    assert main([*args]) == 0
    printed = capsys.readouterr().out
    return printed, Path(printed.strip().splitlines()[-1].removeprefix("run: "))


# A server that has imported what every command needs, which takes 5 s, forks a process for each.
TASKS = ("classification", "detection", "face_attributes", "face_embeddings", "geolocalization")

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(  # what a command imports, and what those packages do later
    ["helpers", "torch._dynamo", "omegaconf", "aiohttp", "matplotlib.pyplot", "tasks.cli"]
    + [f"tasks.{task}.{part}" for task in TASKS for part in ("module", "predict")]
)


def _be_command(task, args, folder, environment, said):
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv[1:] = args
    rank_zero_only.rank = _get_rank() or 0  # as Lightning has it from the environment when it is imported
    runpy.run_module(f"tasks.{task}", run_name="__main__", alter_sys=True)


class Command:
    """`python -m tasks.<task> args` in a process of its own, in `folder` and with `environment` on top of ours."""

    def __init__(self, task, *args, folder=".", **environment):
        self._room = tempfile.TemporaryDirectory()
        self._said = [Path(self._room.name, name) for name in ("out", "err")]
        for path in self._said:
            path.touch()
        given = (task, args, folder, os.environ | environment, self._said)
        self.process = _FORKS.Process(target=_be_command, args=given)
        self.process.start()

    def ended(self, timeout=120):
        """The exit code, below 0 where a signal killed it, and what it wrote to stdout and stderr."""
        self.process.join(timeout)
        said = [path.read_text() for path in self._said]
        assert self.process.exitcode is not None, said
        return self.process.exitcode, *said


def commands_of_two(task, *args, folders=(".", "."), **environment):
    """What two processes end with, each in its folder; `{rank}` in `environment` is the number of the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    both = [
        Command(task, *args, folder=folder, **{name: value.format(rank=rank) for name, value in environment.items()})
        for rank, folder in enumerate(folders)
    ]
    try:
        return [one.ended() for one in both]
    finally:
        for one in both:
            one.process.kill()


def as_torchrun(task, *args):
    """What two processes of a command end with that are started as torchrun starts them."""
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    ranks = {"RANK": "{rank}", "LOCAL_RANK": "{rank}", "TORCHELASTIC_RUN_ID": "none"}
    return commands_of_two(task, *args, "--trainer.accelerator", "cpu", **sizes, **ranks)


def in_two_processes(task, *args):
    """The run folder of a command of two processes."""
    ended = as_torchrun(task, *args)
    assert [code for code, _, _ in ended] == [0, 0], ended
    return Path(ended[0][1].strip().splitlines()[-1].removeprefix("run: "))


def figures(run):
    return json.loads((run / "metrics.json").read_text())


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def is_color(image, color):
    return (image == np.asarray(color, np.uint8)).all(axis=-1)


@contextlib.contextmanager
def one_sentence(message):
    """The body raises an InputError of one line that has this in it."""
    with pytest.raises(InputError, match=message) as raised:
        yield raised
    assert "\n" not in str(raised.value)


@contextlib.contextmanager
def largest_file(size):
    """No file can grow beyond so many bytes, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# --- names from strangers ---

HOSTILE = [
    *(
        "n" * 5000,
        "two\nlines,\ta tab\rand more",
        "\x1b[31mred\x1b[0m\x07",
        "\x9b31mred",
        "nul\x00",
        "\u202egnp.exe\u2066",
    ),
    *("\udcff", "\ud800", "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"),
    *("$x_{$", "$\\frac{$", "a|b`c", "柴犬 🐶", ""),
]
_DOES_SOMETHING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(folder):
    """See that what a report left is UTF-8 without control characters, formulas or enormous pictures."""
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".png":
            assert max(pixels(path).shape) < 6000, path
            continue
        text = path.read_bytes().decode().replace("\r\n", "\n")
        assert not _DOES_SOMETHING.search(text), path
        if path.suffix == ".csv":
            for cell in itertools.chain.from_iterable(csv.reader(io.StringIO(text))):
                assert cell.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d") or np.isfinite(float(cell)), (path, cell)


def names(records):
    return [os.fsdecode(name) for name in records.file_names.tolist()]


def write_tar(file, members):
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_shards(folder, sizes, *, positions=lambda i: {"latitude": i / 4 - 60, "longitude": i / 2 - 100}, images=None):
    """Shards of images, whose red is their number, with their JSON; which of the two is first alternates."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, size in enumerate(sizes):
        members = []
        for i in range(sum(sizes[:shard]), sum(sizes[:shard]) + size):
            content = io.BytesIO()
            Image.new("RGB", (40, 40), (i % 256, 0, 100)).save(content, "png")
            sample = [(f"{i:05}.png", content.getvalue() if images is None else images[i])]
            if (given := positions(i)) is not None:
                sample.append((f"{i:05}.json", json.dumps(given).encode()))
            members += sample if i % 2 else sample[::-1]
        write_tar(folder / f"train-{shard:03}.tar", members)
    return f"{folder}/train-{{000..{len(sizes) - 1:03}}}.tar"


LFW_LINES = [  # LFW's pairs.txt: two folds of two pairs of one person and two of two people
    "2\t2",
    "Ann_Lee\t1\t4",
    "Bo\t12\t3",
    "Ann_Lee\t2\tBo\t1",
    "Cy\t1\tAnn_Lee\t10",
    "Cy\t1\t2",
    "Cy\t2\t3",
    "Bo\t1\tCy\t1",
    "Bo\t2\tCy\t1",
]


def write_lines(path, lines, end="\n"):
    path.write_bytes((end.join(lines) + end).encode())
    return path


def lfw(folder, people, ending=".jpg"):
    """LFW's layout with so many images of each of `people`."""
    for name, count in people.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((40, 36, 3), 20 * i, np.uint8)).save(folder / name / f"{name}_{i + 1:04}{ending}")
    return folder


BEAGLE, HUSKY, POODLE = DOGS = ("n02088364-beagle", "n02110185-Siberian_husky", "n02113624-toy_poodle")


def dog_file(folder, number):
    return f"{folder}/{folder[:9]}_{number}.jpg"


def dog_rows(first, last, folders=DOGS):
    """Lines of a list of Stanford Dogs: (file, label from 1) of the images `first` to `last` of each class."""
    return [(dog_file(folder, i), label) for label, folder in enumerate(folders, 1) for i in range(first, last + 1)]


def write_dog_list(path, lines):
    """A list in the true format: columns of cells with a string each, and a column of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"file_list": ".jpg", "annotation_list": ""}
    for column, ending in columns.items():
        columns[column] = np.empty((len(lines), 1), dtype=object)
        columns[column][:, 0] = [name.removesuffix(".jpg") + ending for name, _ in lines]
    savemat(path, {**columns, "labels": np.array([[label] for _, label in lines], np.uint8)})


def write_dogs(root, train=None, test=None, content=None):
    """Stanford Dogs' layout with a file for each line, of bytes of its own where `content` has none; returns root."""
    train = dog_rows(1, 10) if train is None else train
    test = dog_rows(11, 14) if test is None else test
    for name, _ in [*train, *test]:
        path = root / "Images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((content or {}).get(name, name.encode()))
    write_dog_list(root / "lists" / "train_list.mat", train)
    write_dog_list(root / "lists" / "test_list.mat", test)
    return root


# What each EXIF orientation asks for, in numpy: an oracle that is not PIL.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


# --- faces and their attributes ---

ATTRIBUTES = ("Smiling", "Eyeglasses", "Wearing_Hat")


def image_file(path, i, size=(30, 40)):
    """A pattern of its own for each `i`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)).save(path)


def write_attributes(root, rows, header=("path", *ATTRIBUTES, "split")):
    """`attributes.csv` in `root`, and the image of each row."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "attributes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for i, row in enumerate(rows):
        image_file(root / row[0], i)
    return root


def faces(root, train=12, val=4, test=4):
    """A CSV of three attributes, the second unknown in a third of the rows."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for i in range(count):
            values = generator.integers(0, 2, 3).tolist()
            rows.append((f"{split}/{i:02}.png", values[0], "" if i % 3 == 1 else values[1], values[2], split))
    return write_attributes(root, rows)
